"""What the second pass of a prediction gains: error of the landmarks after one pass and after two.

`python -m bench.two_passes CHECKPOINT DATA [FINDER]`: on the labelled photos that are in DATA of portraits/ and of
FairFace's validation part (the first 300). Errors are the mean distance over the 51 landmarks within the face, in per
cent of the size of the labelled face box; the contour is left out, as labels of other origins place it elsewhere. They
are measured from three boxes: the finder's, the labelled one, and a rough one, 1.2 times as large as that and 0.12 of
its size aside and below. Faces that the finder misses are left out.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from jointface import Face, FaceReader
from jointface.detection.boxes import overlaps
from jointface.detection.finders import build_finder
from jointface.geometry.framing import FaceBox, face_box
from jointface.inference.backends import TorchNetwork

TABLES = {"portraits": "landmarks68.csv", "fairface": "landmarks68_val.csv"}
PHOTOS = 300
INNER = slice(17, 68)


def error(face: Face, truth: np.ndarray, size: float) -> float:
    """Mean distance of the inner landmarks, in per cent of the box's size."""
    assert face.landmarks is not None
    return 100 * float(np.linalg.norm(face.landmarks[INNER, :2] - truth[INNER], axis=1).mean()) / size


def errors(checkpoint: str, folder: Path, table: str, finder: str) -> np.ndarray:
    """(faces, 6): errors after one pass and two from the finder's box, from the labelled and from the rough one."""
    network = TorchNetwork.load(checkpoint)
    find = build_finder(finder)
    readers = [FaceReader(network, find, two_passes=two) for two in (False, True)]
    rows = []
    for name, *numbers in (
        pd.read_csv(folder / table).set_index("file").filter(regex=r"^[xy]\d+$")[:PHOTOS].itertuples()
    ):
        truth = np.asarray(numbers, np.float32).reshape(68, 2)
        box = face_box(torch.from_numpy(truth))
        found = [one.box for one in find(readers[0](folder / name, boxes=[box])[0].photo.image)]
        shared = overlaps(torch.tensor(found).reshape(-1, 3), torch.tensor([box]))[:, 0]
        if len(found) and shared.max() > 0.5:
            rough = FaceBox(box.x + 0.12 * box.size, box.y + 0.12 * box.size, 1.2 * box.size)
            boxes = (found[int(shared.argmax())], box, rough)
            rows.append(
                [error(reader(folder / name, boxes=[of])[0], truth, box.size) for of in boxes for reader in readers]
            )
    return np.array(rows)


def main(checkpoint: str, data: str, finder: str = "finder") -> None:
    """Prints a row a set of photos."""
    columns = (
        "photos",
        "faces",
        "found: 1 pass",
        "2 passes",
        "labelled: 1 pass",
        "2 passes",
        "rough: 1 pass",
        "2 passes",
    )
    table = Table(*columns, title=f"Error of 51 landmarks, % of the box; boxes of {Path(finder).stem}")
    for name, file in TABLES.items():
        if (Path(data) / name / file).is_file():
            found = errors(checkpoint, Path(data) / name, file, finder)
            table.add_row(name, str(len(found)), *(f"{value:.2f}" for value in found.mean(0)))
    Console(width=120).print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
