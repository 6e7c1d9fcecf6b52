"""A tiny CelebA: images and the official list files, byte for byte in their layout."""

import math
from pathlib import Path

import cv2
import numpy as np

from jointface.attributes import CELEBA

COUNTS = {0: 12, 1: 4, 2: 4}  # train, val, test
WIDTH, HEIGHT = 178, 218
EYES_NOSE_MOUTH = np.array([[69, 111], [108, 111], [88, 135], [73, 152], [105, 152]])  # in the aligned images
NO_BBOX, WRONG_BBOX = 3, 5  # numbers of the images whose bounding box is empty, and far from the face
LANDMARK_NAMES = (
    "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
)


def write(folder: Path, seed: int = 0, whole: bool = False, official: bool = False) -> Path:
    """Writes img_align_celeba/, list_attr_celeba.txt and list_eval_partition.txt. An image's brightness follows its
    first attribute, its hue the second, so that they can be learned.

    Args:
        folder: to be made. seed: of labels and images.
        whole: also img_align_celeba_png/, img_celeba/, identities, bounding boxes and both landmark files.
        official: in Anno/, Eval/ and Img/ as published, not flat in one folder.
    """
    random = np.random.default_rng(seed)
    anno, evaluation, img = (folder / name if official else folder for name in ("Anno", "Eval", "Img"))
    for place in (anno, evaluation, img / "img_align_celeba"):
        place.mkdir(parents=True, exist_ok=True)
    labels = random.choice([-1, 1], size=(sum(COUNTS.values()), len(CELEBA)))
    codes = [code for code, count in COUNTS.items() for _ in range(count)]
    images = {}
    for number, values in enumerate(labels, 1):
        blob = cv2.resize(
            random.integers(0, 60, (6, 5, 3)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
        )
        image = np.clip(blob + 90 + 60 * (values[0] > 0) + [40 * (values[1] > 0), 0, 0], 0, 255).astype(np.uint8)
        images[number] = image
        cv2.imwrite(str(img / "img_align_celeba" / f"{number:06d}.jpg"), image)
    write_attributes(anno / "list_attr_celeba.txt", labels)
    _write_lines(evaluation / "list_eval_partition.txt", [f"{n:06d}.jpg {code}" for n, code in enumerate(codes, 1)])
    if whole:
        write_originals(img, images)
        write_annotations(anno, len(labels), random)
    return folder


def write_attributes(path: Path, labels: np.ndarray) -> None:
    """`list_attr_celeba.txt` for labels (N, 40) of -1 and 1."""
    rows = [
        f"{number:06d}.jpg " + " ".join(f"{value:2d}" for value in values) for number, values in enumerate(labels, 1)
    ]
    _write_lines(path, [str(len(rows)), " ".join(CELEBA.attributes) + " ", *rows])


def write_originals(img: Path, images: dict[int, np.ndarray]) -> None:
    """The aligned images as .png, and the original photos that they were cut from."""
    for name in ("img_align_celeba_png", "img_celeba"):
        (img / name).mkdir()
    for number, image in images.items():
        cv2.imwrite(str(img / "img_align_celeba_png" / f"{number:06d}.png"), image)
        original = cv2.warpAffine(
            image, to_original(number), original_size(number), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        )
        cv2.imwrite(str(img / "img_celeba" / f"{number:06d}.jpg"), original)


def to_original(number: int) -> np.ndarray:
    """The similarity (2, 3) from the aligned image to the original photo; faces of even number stand upright there."""
    scale, angle = 0.7 + 0.1 * number, math.radians(0 if number % 2 == 0 else 3 * (number - 10))
    linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    width, height = original_size(number)
    centre = np.array([width / 2 + number, height / 2 - 2 * number])
    return np.column_stack([linear, centre - linear @ [WIDTH / 2, HEIGHT / 2]])


def original_size(number: int) -> tuple[int, int]:
    """Width and height of an original photo: large enough, and another for each."""
    scale = 0.7 + 0.1 * number
    return round(scale * WIDTH) + 100 + 7 * number, round(scale * HEIGHT) + 120 + 3 * number


def original_box(number: int) -> np.ndarray:
    """The aligned images' face box (88.9, 139.8, 86.2) in the original photo."""
    linear, shift = to_original(number)[:, :2], to_original(number)[:, 2]
    return np.append(linear @ [88.9, 139.8] + shift, 86.2 * math.sqrt(np.linalg.det(linear)))


def write_annotations(anno: Path, count: int, random: np.random.Generator) -> None:
    """Identities, bounding boxes and landmarks: whole numbers, as published."""
    aligned = EYES_NOSE_MOUTH + random.integers(-3, 4, (count, 5, 2))
    similarities = np.stack([to_original(number) for number in range(1, count + 1)])
    original = np.einsum("nij,nkj->nki", similarities[:, :, :2], aligned) + similarities[:, None, :, 2]
    boxes = np.stack([original_box(number) for number in range(1, count + 1)])
    width = boxes[:, 2] / 0.807
    height = 1.385 * width
    bboxes = np.stack([boxes[:, 0] - width / 2, boxes[:, 1] - 0.537 * height, width, height], axis=1)
    bboxes[NO_BBOX - 1] = 0
    bboxes[WRONG_BBOX - 1, :2] += 1000
    _write_table(anno / "list_landmarks_align_celeba.txt", LANDMARK_NAMES, aligned.reshape(count, 10))
    _write_table(anno / "list_landmarks_celeba.txt", LANDMARK_NAMES, original.reshape(count, 10))
    _write_table(anno / "list_bbox_celeba.txt", "image_id x_1 y_1 width height", bboxes)
    _write_lines(anno / "identity_CelebA.txt", [f"{n:06d}.jpg {100 + n % 5}" for n in range(1, count + 1)])


def celeba_attribute_file(path: Path, rows: int = 202_599) -> Path:
    """A `list_attr_celeba.txt` of the published length, for measuring how fast it is read."""
    labels = np.random.default_rng(0).choice([-1, 1], size=(997, len(CELEBA)))
    texts = [" ".join(f"{value:2d}" for value in values) for values in labels]
    lines = [f"{number:06d}.jpg {texts[number % len(texts)]}" for number in range(1, rows + 1)]
    _write_lines(path, [str(rows), " ".join(CELEBA.attributes) + " ", *lines])
    return path


def _write_table(path: Path, header: str, values: np.ndarray) -> None:
    rows = [
        f"{number:06d}.jpg " + " ".join(f"{value:4d}" for value in row)
        for number, row in enumerate(values.round().astype(int).tolist(), 1)
    ]
    _write_lines(path, [str(len(rows)), header, *rows])


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")
