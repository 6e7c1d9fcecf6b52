"""OpenCV's YuNet: its file, and its boxes in this package's framing."""

import hashlib
import threading
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from jointface.errors import ConfigError

REVISION = "82b38c8f98e7b52aa171400f3e4c722352d0669f"  # of github.com/opencv/opencv_zoo
NAME = "face_detection_yunet_2023mar.onnx"
URL = f"https://github.com/opencv/opencv_zoo/raw/{REVISION}/models/face_detection_yunet/{NAME}"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
# Centre, relative to that of YuNet's box, and size of the face box, in square roots of the area of YuNet's box, as a
# linear function of 1, its width, its height, and the place of the nose; docs/detection.md says what was fitted.
FIT = np.array(
    [
        [-0.279, 1.630, 0.356],
        [0.233, -0.868, 0.430],
        [0.062, -0.661, 0.169],
        [-0.220, -0.009, 0.003],
        [-0.018, 0.293, -0.335],
    ]
)
SUPPRESSION = 0.3  # boxes with more intersection over union than this are of the same face, as OpenCV's example has it


class YuNetModel:
    """YuNet on pictures of any size.

    Args:
        file, threshold: see `finders.YuNet`.
    """

    def __init__(self, file: str | Path | None, threshold: float) -> None:
        path = Path(file) if file is not None else _downloaded()
        if not path.is_file():
            raise ConfigError(f"no file {path.absolute()}: looked there for YuNet, {NAME}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
            raise ConfigError(f"{path}: not {NAME} of OpenCV's model zoo (its SHA-256 differs); get it from {URL}")
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns of what it does by default
        try:
            self.detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold, SUPPRESSION)
        finally:
            cv2.utils.logging.setLogLevel(level)
        self.lock = threading.Lock()  # the detector keeps the size of its picture

    def __call__(self, picture: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "faces 4"]:
        """x, y, size and score of each face, in pixels of the picture."""
        with self.lock:
            self.detector.setInputSize(picture.shape[1::-1])
            found = self.detector.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
        if found is None:
            return torch.zeros(0, 4)
        return torch.from_numpy(np.column_stack([to_framing(found), found[:, 14].clip(0, 1)]).astype(np.float32))


def to_framing(found: Float32[np.ndarray, "faces 15"]) -> Float[np.ndarray, "faces 3"]:
    """x, y and size in this package's framing.

    Args:
        found: as YuNet gives it: left, top, width and height of the box, five points, score.
    """
    width, height, nose = found[:, 2], found[:, 3], found[:, 8:10]
    centre, unit = found[:, :2] + found[:, 2:4] / 2, np.sqrt(width * height)[:, None]
    features = np.column_stack([np.ones(len(found)), width / unit[:, 0], height / unit[:, 0], (nose - centre) / unit])
    return unit * (features @ FIT) + np.column_stack([centre, np.zeros(len(found))])


def _downloaded() -> Path:
    """YuNet's file in torch's cache of hub files, downloaded if it is not there. Raises a ConfigError if that fails."""
    path = Path(torch.hub.get_dir()) / "jointface" / NAME
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL, str(path), hash_prefix=SHA256, progress=False)
        except (URLError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"YuNet cannot be downloaded ({reason}): save {URL} and give its path, or use the finder 'finder'"
            ) from error
    return path
