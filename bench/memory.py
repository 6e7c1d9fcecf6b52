"""Memory of eight loader workers over an epoch: tables are shared, not copied on write.

`python -m bench.memory`: CelebA's tables with 202,599 rows; its images are links to a few tiny ones. Beside it, the
same tables as Python lists, which every look copies, since it counts references. Run it from a checkout, on Linux.
"""

import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bench.start_up import write_celeba
from jointface.datamodules import CelebA, CropTransform
from jointface.datamodules.loading import Batches, identity_collate

WORKERS, LINKS = 8, 30_000  # a file system allows so many links to a file


class Images:
    """Writes images: a tiny one, and links to it as long as the file system allows more."""

    def __init__(self) -> None:
        self.count, self.original = 0, Path()

    def write(self, path: Path) -> None:
        if self.count % LINKS == 0:
            self.original = path
            cv2.imwrite(str(path), np.full((22, 18, 3), 128, np.uint8))
        else:
            os.link(self.original, path)
        self.count += 1


class Lists(Dataset[Any]):
    """The same tables as most first versions of a data set hold them."""

    def __init__(self, dataset: CelebA) -> None:
        self.dataset = dataset
        self.rows = [(dataset.path(index), dataset.attributes[index].tolist()) for index in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> Any:
        batch = self.dataset.batch(indices)
        batch["rows"] = torch.tensor([sum(self.rows[index][1]) for index in indices])
        return batch


def private_bytes() -> int:
    """Memory that the workers do not share, of all together."""
    total = 0
    for child in multiprocessing.active_children():
        for line in Path(f"/proc/{child.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith(("Private_Clean", "Private_Dirty")):
                total += int(line.split()[1]) * 1024
    return total


def epoch(dataset: Dataset[Any]) -> tuple[int, int]:
    """Private memory of the workers after their first batches and at the end of the epoch."""
    loader = DataLoader(
        dataset, batch_size=64, shuffle=True, num_workers=WORKERS, collate_fn=identity_collate, persistent_workers=True
    )
    first = 0
    for number, _ in enumerate(loader):
        if number == 4 * WORKERS:
            first = private_bytes()
    return first, private_bytes()


def main() -> None:
    """Prints the growth over an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        write_celeba(Path(folder) / "celeba", Images().write)
        dataset = CelebA(Path(folder) / "celeba", "train", CropTransform(16))
        for name, make in {"tensors and arrays": Batches, "Python lists": Lists}.items():
            first, last = epoch(make(dataset))
            print(
                f"{name:20s} private memory of {WORKERS} workers: {first / 2**20:6.0f} MiB at first, "
                f"{last / 2**20:6.0f} MiB after {len(dataset):,} samples, {(last - first) / 2**20:+.0f} MiB"
            )


if __name__ == "__main__":
    main()
