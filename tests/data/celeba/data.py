"""A tiny CelebA: aligned images and the two official list files, byte for byte in their layout."""

from pathlib import Path

import cv2
import numpy as np

from jointface.attributes import CELEBA

COUNTS = {0: 12, 1: 4, 2: 4}  # train, val, test


def write(folder: Path, seed: int = 0) -> Path:
    """Writes img_align_celeba/, list_attr_celeba.txt and list_eval_partition.txt. An image's brightness follows its
    first attribute, its hue the second, so that they can be learned."""
    random = np.random.default_rng(seed)
    (folder / "img_align_celeba").mkdir(parents=True)
    labels = random.choice([-1, 1], size=(sum(COUNTS.values()), len(CELEBA)))
    codes = [code for code, count in COUNTS.items() for _ in range(count)]
    rows, partition = [], []
    for number, (values, code) in enumerate(zip(labels, codes, strict=True), 1):
        name = f"{number:06d}.jpg"
        blob = cv2.resize(
            random.integers(0, 60, (6, 5, 3)).astype(np.float32), (178, 218), interpolation=cv2.INTER_CUBIC
        )
        image = np.clip(blob + 90 + 60 * (values[0] > 0) + [40 * (values[1] > 0), 0, 0], 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "img_align_celeba" / name), image)
        rows.append(name + " " + " ".join(f"{value:2d}" for value in values))
        partition.append(f"{name} {code}")
    header = [str(len(rows)), " ".join(CELEBA.attributes) + " "]
    (folder / "list_attr_celeba.txt").write_text("\n".join(header + rows) + "\n")
    (folder / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    return folder
