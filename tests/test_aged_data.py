"""Published data sets as they lie on people's disks after years: copied by hand, mirrored, half downloaded."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from PIL import Image

from jointface.datamodules import AFLW2000, LFWA, W300LP, CelebA, CropTransform, FaceDataset, Florence
from jointface.errors import DataError
from jointface.geometry import MorphableModel
from tests.data.celeba import data as celeba_data
from tests.data.florence import data as florence_data
from tests.faults import Fault

CROP = CropTransform(32)
FOLDERS = {"celeba": "celeba", "lfwa": "LFWA", "w300lp": "300W_LP", "aflw2000": "AFLW2000", "florence": "florence"}
HTML = b"\n<!DOCTYPE html><html><head><title>Quota exceeded</title></head></html>\n" * 100


@pytest.fixture(scope="module")
def originals(tiny_data: Path, tiny_model: MorphableModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny copy of every data set, to read only."""
    florence = florence_data.write(tmp_path_factory.mktemp("data") / "florence", tiny_model, subjects=1)
    return {name: tiny_data / folder for name, folder in FOLDERS.items() if name != "florence"} | {"florence": florence}


def opened(name: str, root: Path, model: MorphableModel) -> FaceDataset:
    make: dict[str, Callable[[], FaceDataset]] = {
        "celeba": lambda: CelebA(root, "test", CROP),
        "lfwa": lambda: LFWA(root, "test", CROP),
        "w300lp": lambda: W300LP(root, "train", CROP, model),
        "aflw2000": lambda: AFLW2000(root, "test", CROP, model, "reannotated"),
        "florence": lambda: Florence(root, "test", CROP, model, pitches=[-15], yaws=[0]),
    }
    return make[name]()


def files(root: Path, *endings: str) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.suffix in endings)


def cluttered(root: Path) -> None:
    """macOS wrote a ._NAME beside each file and __MACOSX, file managers their own; archives, half downloads."""
    for path in [*root.rglob("*")]:
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    shutil.copytree(root, root.with_name("__MACOSX")).rename(root / "__MACOSX")
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in (
            "Thumbs.db",
            "desktop.ini",
            ".DS_Store",
            "data.zip",
            "0.jpg.part",
            "a.mat.crdownload",
            "x.obj.tmp",
        ):
            (folder / name).write_bytes(b"PK\x03\x04")


def renamed(root: Path) -> None:
    """The endings are in capitals, or written out."""
    for number, path in enumerate(files(root, ".jpg")):
        path.rename(path.with_suffix((".JPG", ".jpeg", ".JPEG")[number % 3]))
    for path in files(root, ".mat", ".obj"):
        if path.name not in ("lfw_att_73.mat", "indices_train_test.mat"):
            path.rename(path.with_suffix(path.suffix.upper()))


def moved(root: Path) -> None:
    """Archives were unpacked into a folder of their own name, and the files lie on another volume, behind links."""
    volume = root.rename(root.with_name("volume"))
    for path in [path for path in volume.rglob("*") if path.is_file()]:
        link = root / root.name / path.relative_to(volume)
        for name in ("img_align_celeba", "lfw", "AFW", "obj"):
            link = Path(str(link).replace(f"/{name}/", f"/{name}/{name}/"))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)


@pytest.mark.parametrize("age", [cluttered, renamed, moved])
@pytest.mark.parametrize("name", FOLDERS)
def test_it_reads_like_the_fresh_copy(
    name: str, age: Fault, originals: dict[str, Path], tiny_model: MorphableModel, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(originals[name], tmp_path / FOLDERS[name]))
    age(root)
    fresh, aged = opened(name, originals[name], tiny_model), opened(name, root, tiny_model)
    assert len(aged) == len(fresh)
    assert [aged.name(index) for index in range(len(aged))] == [fresh.name(index) for index in range(len(fresh))]
    for index in {0, len(fresh) - 1} if name != "florence" or age is moved else ():  # to find a face takes seconds
        torch.testing.assert_close(aged[index], fresh[index], rtol=0, atol=0)
    assert aged.inventory() == fresh.inventory()


CELEBA, LFWA_FILE, FIT, SCAN = "list_attr_celeba.txt", "lfw_att_73.mat", "image00002.mat", "110920150452.obj"
FILE_OF = {"celeba": CELEBA, "lfwa": LFWA_FILE, "aflw2000": FIT, "florence": SCAN}


def half_downloaded(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.part"))


def linked_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("/volume/that/is/away")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda path: path.write_bytes(HTML), "web page: the download asked for a login or a confirmation"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "a pointer of Git LFS"),
        (half_downloaded, "found .*.part there, whose download has not ended: get it again"),
        (linked_to_nothing, "it is a link to /volume/that/is/away, which does not exist"),
    ],
)
@pytest.mark.parametrize("name", ["celeba", "lfwa"])
def test_a_file_that_is_something_else_is_named(
    name: str,
    fault: Callable[[Path], object],
    message: str,
    originals: dict[str, Path],
    tiny_model: MorphableModel,
    tmp_path: Path,
) -> None:
    root = Path(shutil.copytree(originals[name], tmp_path / FOLDERS[name]))
    fault(root / FILE_OF[name])
    with pytest.raises(DataError, match=f"{FILE_OF[name]}.*{message}") as caught:
        opened(name, root, tiny_model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["image00002.jpg", "image00002.mat"])
def test_a_web_page_in_place_of_a_sample_is_named(
    name: str, originals: dict[str, Path], tiny_model: MorphableModel, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(originals["aflw2000"], tmp_path / "AFLW2000"))
    (root / name).write_bytes(HTML)
    with pytest.raises(DataError, match=f"{name}: .*it is a web page"):
        opened("aflw2000", root, tiny_model)[0]


# --- photos that are not what the labels refer to


def resized(width: int, height: int) -> Fault:
    """Every photo was brought to another size."""

    def fault(root: Path) -> None:
        for path in files(root, ".jpg"):
            cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (width, height)))

    return fault


@pytest.mark.parametrize("name", ["celeba", "lfwa", "w300lp", "aflw2000"])
def test_photos_of_another_crop_are_refused_with_their_size(
    name: str, originals: dict[str, Path], tiny_model: MorphableModel, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(originals[name], tmp_path / FOLDERS[name]))
    size = (100, 64) if name == "lfwa" else (64, 64)
    resized(*size)(root)
    with pytest.raises(DataError, match=rf"{size[0]} x {size[1]}.*use the published") as caught:
        opened(name, root, tiny_model)[0]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["celeba", "lfwa", "w300lp", "aflw2000"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_an_exif_turn_leaves_pixels_and_labels_as_they_are_stored(
    name: str, orientation: int, originals: dict[str, Path], tiny_model: MorphableModel, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(originals[name], tmp_path / FOLDERS[name]))
    exif = bytes.fromhex(
        f"ffe10022457869660000 4d4d002a00000008 0001 0112 0003 00000001 {orientation:04x} 0000 00000000"
    )
    for path in files(root, ".jpg"):
        path.write_bytes(path.read_bytes()[:2] + exif + path.read_bytes()[2:])
    assert Image.open(files(root, ".jpg")[0]).getexif()[0x0112] == orientation
    torch.testing.assert_close(
        opened(name, root, tiny_model)[0], opened(name, originals[name], tiny_model)[0], rtol=0, atol=0
    )


# --- CelebA in the copies that people have today


def as_csv(path: Path, header: str) -> None:
    """Kaggle's form of a table: comma, names in the first line."""
    lines = path.read_text().splitlines()
    rows = [line for line in lines if line.partition(" ")[0].endswith(".jpg")]
    content = [header, *(",".join(row.split()) for row in rows)]
    path.with_suffix(".csv").write_text("\n".join(content) + "\n")
    path.unlink()


def like_kaggle(root: Path) -> None:
    for path in files(root, ".txt"):
        header = path.read_text().splitlines()[1].split()
        if path.name in ("list_eval_partition.txt", "identity_CelebA.txt"):
            header = ["partition"]
        as_csv(path, ",".join(["image_id", *(name for name in header if name != "image_id")]))
    for name in ("img_align_celeba", "img_celeba"):
        inner = root / name / name
        (root / name).rename(root / "images")
        (root / name).mkdir()
        (root / "images").rename(inner)


def with_byte_order_marks(root: Path) -> None:
    for path in files(root, ".txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def kaggle_with_byte_order_marks(root: Path) -> None:
    like_kaggle(root)
    for path in files(root, ".csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))


def with_stray_tables(root: Path) -> None:
    """Where both are there, the published .txt counts."""
    for path in files(root, ".txt"):
        path.with_suffix(".csv").write_text("image_id,unknown\n")


@pytest.mark.parametrize("images", ["aligned", "in_the_wild"])
@pytest.mark.parametrize("age", [like_kaggle, with_byte_order_marks, kaggle_with_byte_order_marks, with_stray_tables])
def test_celeba_reads_alike_in_every_copy(age: Fault, images: str, tmp_path: Path) -> None:
    fresh = celeba_data.write(tmp_path / "fresh", whole=True)
    root = Path(shutil.copytree(fresh, tmp_path / "celeba"))
    age(root)
    one, other = (CelebA(folder, "val", CROP, images) for folder in (fresh, root))  # type: ignore[arg-type]
    for index in range(len(one)):
        torch.testing.assert_close(one[index], other[index], rtol=0, atol=0)
    assert one.inventory() == other.inventory()
    assert "identity" in other[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (CELEBA, "image_id,Bald\n000001.jpg,1\n", "line 1 must be image_id and the 40 names 5_o_Clock_Shadow to Young"),
        ("list_eval_partition.txt", "image_id,partition\n000001.jpg,x\n", "line 2: expected a file name and 1 whole"),
        ("list_eval_partition.txt", "image_id,partition\n000001.jpg,7\n", "line 2: .* 1 values from 0, 1, 2"),
    ],
)
def test_a_csv_of_another_kind_is_refused_in_one_line(name: str, content: str, message: str, tmp_path: Path) -> None:
    root = celeba_data.write(tmp_path / "celeba")
    (root / name).unlink()
    (root / name).with_suffix(".csv").write_text(content)
    with pytest.raises(DataError, match=f"{Path(name).stem}.csv.*{message}"):
        CelebA(root, "test", CROP)
