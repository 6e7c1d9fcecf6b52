"""The face finders side by side: faces found, false finds, framing, and time.

`python -m bench.finder DATA [FINDER ...]`: on what is in DATA of FairFace's validation photos that no training saw, the
held-out portraits, 1,000 photos of celeba_wild/, and the photos of photos/; and on rendered scenes. The finders are
"finder" and DATA/detectors/face_detection_yunet_2023mar.onnx, or those that are named. A face counts as found by a box
with an intersection over union of at least 0.5; all other boxes are false finds, also of faces without a label.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from bench.timing import medians
from jointface.datamodules import CropTransform
from jointface.datamodules.face_dataset import evenly_spaced, read_image
from jointface.datamodules.fitted_face import read_fit
from jointface.detection.boxes import overlaps
from jointface.detection.cutouts import Photos, free_photos
from jointface.detection.finders import FaceFinder, build_finder
from jointface.detection.mosaics import Mosaics
from jointface.geometry.framing import face_box

SAMPLE, REPEATS = 1000, 21
FACES = {"one_face.jpg": 1, "two_faces.jpg": 2, "large.jpg": 3, "small.jpg": 1}  # in the photos of photos/, as seen
Labelled = Iterator[tuple[np.ndarray, torch.Tensor]]  # photos, and x, y, size of their faces


def sets(data: Path) -> dict[str, Labelled]:
    """Labelled photos by name; each is read when it is its turn."""
    found: dict[str, Labelled] = {}
    if photos := free_photos(data, "test"):
        for name in ("fairface", "portraits"):
            files = [file for file in photos.files if file[0].is_relative_to(data / name)]
            found[f"{name}, test"] = _cutouts(Photos(files))
    if wild := sorted((data / "celeba_wild" / "photos").glob("*.mat")):
        found["celeba_wild"] = _fitted([wild[index] for index in evenly_spaced(len(wild), SAMPLE)])
    scenes = Mosaics("test", CropTransform(480), {"test": 200}, {"test": 96}, str(data))
    found["rendered scenes"] = ((image, torch.from_numpy(boxes)) for image, boxes in map(scenes.scene, range(200)))
    return found


def _cutouts(photos: Photos) -> Labelled:
    for cutout in photos:
        yield cutout.image, torch.tensor([face_box(torch.from_numpy(cutout.landmarks))])


def _fitted(files: Iterable[Path]) -> Labelled:
    for file in files:
        yield read_image(file.with_suffix(".jpg")), torch.tensor([face_box(_landmarks(file))])


def judge(finder: FaceFinder, photos: Labelled) -> dict[str, float]:
    """Recall, false finds a photo, and the mean overlap and mean relative size of the boxes that find a face."""
    count = faces = false = 0
    best: list[torch.Tensor] = []
    ratios: list[torch.Tensor] = []
    for image, truth in photos:
        found = torch.tensor([face.box for face in finder(image)]).reshape(-1, 3)
        common = overlaps(found, truth)
        hits = common >= 0.5
        count, faces, false = count + 1, faces + len(truth), false + len(found) - int(hits.any(1).sum())
        if len(found) and len(truth):
            overlap, index = common.max(0)
            best.append(overlap[overlap >= 0.5])
            ratios.append((found[index, 2] / truth[:, 2])[overlap >= 0.5])
    hit, ratio = torch.cat([torch.zeros(0), *best]), torch.cat([torch.zeros(0), *ratios])
    return {
        "photos": count, "faces": faces, "recall": len(hit) / faces, "false a photo": false / count,
        "overlap": hit.mean().item(), "size / true size": ratio.mean().item(),
    }  # fmt: skip


def _landmarks(file: Path) -> torch.Tensor:
    points = read_fit(file, ["pt2d"])["pt2d"]  # 1-based
    return torch.from_numpy(points.T.astype(np.float32)) - 1


def main(data: str, *names: str) -> None:
    """Prints a row for each finder and set, the number of finds in the photos of photos/, and times."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    folder = Path(data)
    names = names or ("finder", str(folder / "detectors" / "face_detection_yunet_2023mar.onnx"))
    finders = {Path(name).stem: build_finder(name) for name in names}
    rows = []
    for name, finder in finders.items():
        rows += [{"set": kind, "finder": name, **judge(finder, photos)} for kind, photos in sets(folder).items()]
    _print("Faces found", pd.DataFrame(rows).sort_values("set", kind="stable"))
    counts = []
    for file, faces in FACES.items():
        if (path := folder / "photos" / file).is_file():
            image = read_image(path)
            found = {name: ", ".join(f"{face.score:.2f}" for face in find(image)) for name, find in finders.items()}
            counts.append({"photo": f"{file}, {image.shape[1]} x {image.shape[0]}", "faces": faces, **found})
    _print("Scores of what is found in photos/", pd.DataFrame(counts))
    pictures = {"faces": _picture(folder), "no face": np.full((480, 640, 3), 127, np.uint8)}
    tasks = {
        (name, shows): lambda find=find, image=image: _processor_seconds(find, image)
        for name, find in finders.items()
        for shows, image in pictures.items()
    }
    times = pd.Series(medians(tasks, REPEATS)).unstack()
    _print("Milliseconds of one processor for 640 x 480", (1e3 * times).reset_index(names="finder"))


def _processor_seconds(find: FaceFinder, image: np.ndarray) -> float:
    start = time.process_time()  # other work on the machine counts less than in wall time
    find(image)
    return time.process_time() - start


def _picture(folder: Path) -> np.ndarray:
    """The first scene with faces of which none fills it."""
    scenes = sets(folder)["rendered scenes"]
    return next(cv2.resize(image, (640, 480)) for image, boxes in scenes if len(boxes) and boxes[:, 2].max() < 100)


def _print(title: str, rows: pd.DataFrame) -> None:
    table = Table(*map(str, rows.columns), title=title)
    for row in rows.itertuples(index=False):
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    Console(width=120).print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
