"""Prevalence of each synthetic attribute beside CelebA's, and the threshold that would make them equal.

`python -m bench.attribute_prevalence [DATA]`: CelebA's own is that of DATA/celeba/list_attr_celeba.txt.
"""

import sys
from pathlib import Path

import numpy as np

from jointface.attributes import CELEBA
from jointface.datamodules.celeba_files import read_label_file
from jointface.synthesis.faces import FaceFactory
from jointface.synthesis.measures import MEASURES, SYNTHETIC

FACES = 4000


def main(data: str | None) -> None:
    """Prints one row an attribute, as the table of docs/attributes.md has them."""
    factory = FaceFactory()
    faces = [factory.face("train", index) for index in range(FACES)]
    scores = factory.scores(faces)
    celeba = np.full(len(CELEBA), np.nan)
    if data is not None:
        celeba = (read_label_file(Path(data) / "celeba" / "list_attr_celeba.txt")[1] > 0).mean(0)
    print(f"{FACES} faces\n\n| attribute | threshold | prevalence | CelebA | threshold for CelebA's |")
    print("|---|---|---|---|---|")
    for place, name in enumerate(SYNTHETIC.attributes):
        threshold, column = MEASURES[name].threshold, scores[:, place]
        theirs = celeba[CELEBA.attributes.index(name)] if name in CELEBA.attributes else np.nan
        equal = threshold + column.quantile(1 - theirs).item() if np.isfinite(theirs) else np.nan
        print(f"| {name} | {threshold:.3g} | {(column > 0).float().mean():.3f} | {theirs:.3f} | {equal:.4g} |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
