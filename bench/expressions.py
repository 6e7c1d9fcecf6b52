"""What the width of the mouth and the gap between the lips say about CelebA's labels of expressions.

`python -m bench.expressions DATA`: on the 3D fits of DATA/celeba_wild, for a quarter of its training people by a hash.
"""

import sys

import torch
from torchmetrics.functional import auroc

from jointface.attributes import CELEBA
from jointface.datamodules import CropTransform, FittedCelebA
from jointface.datamodules.fairface import expression_measures
from jointface.datamodules.held_out import held_out_fraction
from jointface.geometry import load_bfm_3ddfa


def main(data: str) -> None:
    """Prints the area under the ROC curve of each measure."""
    model = load_bfm_3ddfa(f"{data}/bfm_3ddfa")
    photos = FittedCelebA(f"{data}/celeba_wild", "train", CropTransform(32), model)
    chosen = [i for i in range(len(photos)) if held_out_fraction(str(int(photos.identity[i]))) < 0.25]
    fits = torch.stack([photos.reader.landmarks(photos.read(i).labels) for i in chosen])
    measures = expression_measures(fits.numpy())
    print(f"{len(chosen)} photos")
    for column, name in enumerate(("Smiling", "Mouth_Slightly_Open")):
        labels = photos.attributes[chosen, CELEBA.attributes.index(name)].long()
        print(f"  {name:20} {auroc(measures[:, column], labels, task='binary'):.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
