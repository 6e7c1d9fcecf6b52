"""Start-up with the published numbers of files and rows.

`python -m bench.start_up`: builds empty look-alikes of CelebA (202,599 rows) and 300W-LP (122,450 pairs) in a temporary
folder, and the tiny morphable model of the tests. Run it from a checkout.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.timing import medians, seconds
from jointface.datamodules import W300LP, CelebA, CropTransform
from jointface.datamodules.celeba_files import read_label_file
from jointface.geometry import load_bfm_3ddfa
from tests.data.bfm_3ddfa import data as bfm_data
from tests.data.celeba.data import celeba_attribute_file

ROWS, REPEATS = 202_599, 3
SUBSETS = {"AFW": 5_207, "HELEN": 37_676, "IBUG": 1_786, "LFPW": 16_556}
SPLITS = [162_770, 19_867, 19_962]


def write_celeba(root: Path, write_image: Callable[[Path], object]) -> None:
    """Attribute file, partition, and an image under every name."""
    (root / "img_align_celeba").mkdir(parents=True)
    celeba_attribute_file(root / "list_attr_celeba.txt", ROWS)
    codes = [code for code, count in enumerate(SPLITS) for _ in range(count)]
    names = [f"{number:06d}.jpg" for number in range(1, ROWS + 1)]
    rows = [f"{name} {code}\n" for name, code in zip(names, codes, strict=True)]
    (root / "list_eval_partition.txt").write_text("".join(rows))
    for name in names:
        write_image(root / "img_align_celeba" / name)


def write_300wlp(root: Path) -> None:
    """Empty pairs."""
    for subset, photos in SUBSETS.items():
        for folder in (root / subset, root / f"{subset}_Flip"):
            folder.mkdir(parents=True)
            for number in range(photos):
                for ending in (".jpg", ".mat"):
                    (folder / f"{subset}_{number // 17}_{number % 17}{ending}").touch()


def main() -> None:
    """Prints the times."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_celeba(root / "celeba", Path.touch)
        write_300wlp(root / "300W_LP")
        model = load_bfm_3ddfa(str(bfm_data.write(root / "bfm")))
        attributes = root / "celeba" / "list_attr_celeba.txt"
        crop = CropTransform(256)
        plain = "splitting the attribute file into words"
        times = medians({
            plain: seconds(lambda: attributes.read_text(encoding="utf-8").split()),
            "CelebA's attribute file, 202,599 rows": seconds(lambda: read_label_file(attributes)),
            "CelebA, training split": seconds(lambda: CelebA(root / "celeba", "train", crop)),
            "300W-LP, training split, 122,450 pairs": seconds(lambda: W300LP(root / "300W_LP", "train", crop, model)),
        }, REPEATS)  # fmt: skip
        for what, taken in times.items():
            print(f"{what:40s} {taken:5.2f} s, {taken / times[plain]:4.1f} times {plain}")


if __name__ == "__main__":
    main()
