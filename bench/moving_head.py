"""Jitter, lag and speed of faces tracked through films of a drawn head, whose movement is known.

`python -m bench.moving_head CHECKPOINT`

Jitter: a head at rest. It is the standard deviation over time of landmarks (x and y, in per cent of the face) and yaw.
Lag: a head that turns to and fro. It is the delay at which the true movement, stretched and shifted, comes nearest to
the tracked one; of the median landmark and of the yaw, in pictures. Both once of the filter alone, on the truth with
noise, and once of all that a checkpoint reads in pictures with noise.
"""

import math
import sys
import time

import numpy as np

from bench.drawn_film import DrawnFilm, Place
from bench.predict import set_threads
from jointface import FaceReader
from jointface.geometry import FaceBox
from jointface.inference.one_euro import OneEuroFilter
from jointface.inference.tracking import FaceTracker
from jointface.synthesis.faces import FaceFactory

PERSON, WIDTH, HEIGHT, RATE = 10, 320, 240, 25
BOX = FaceBox(160, 125, 100)
NOISE = 4.0  # standard deviation in pictures, of 255
POINT_NOISE, YAW_NOISE = 0.5, 0.5  # of the truth: per cent of the face, degrees
TURN, PERIOD = 25.0, 4.0  # degrees to either side, seconds
SETTLED = RATE  # pictures before that are not counted
ANGLES = TURN * np.sin(2 * math.pi * np.arange(round(2 * PERIOD * RATE)) / (PERIOD * RATE))  # yaw of each picture


def track(reader: FaceReader, pictures: list[np.ndarray], smooth: bool) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (pictures, 68, 2) in pixels and yaw (pictures,) in degrees, of the only person."""
    tracker = FaceTracker(reader, smooth=smooth)
    faces = [tracker(picture, number / RATE)[0].face for number, picture in enumerate(pictures)]
    return np.stack([face.landmarks[:, :2] for face in faces]), np.array([face.pose.yaw for face in faces])


def filtered(signal: np.ndarray, unit: float) -> np.ndarray:
    """What the filter makes of a signal (pictures, ...)."""
    smooth = OneEuroFilter()
    return np.stack([smooth(values, number / RATE, unit) for number, values in enumerate(signal)])


def lag(truth: np.ndarray, tracked: np.ndarray) -> float:
    """The delay of signals (pictures, signals) in pictures: their median."""
    at, delays = np.arange(len(truth)), np.arange(-2, 6, 0.05)
    found = []
    for true, other in zip(truth.T, tracked.T, strict=True):
        moved = [np.interp(at - delay, at, true)[SETTLED:] for delay in delays]
        found.append(delays[np.argmax([np.corrcoef(one, other[SETTLED:])[0, 1] for one in moved])])
    return float(np.median(found))


def show(
    name: str, rest: tuple[np.ndarray, np.ndarray], turn: tuple[np.ndarray, np.ndarray], truth: np.ndarray
) -> None:
    """Prints jitter and lag of landmarks and yaw."""
    jitter = 100 * rest[0][SETTLED:].std(0).mean() / BOX.size, rest[1][SETTLED:].std()
    moving = np.ptp(truth[..., 0], axis=0) > 0.05 * BOX.size
    lags = lag(truth[:, moving, 0], turn[0][:, moving, 0]), lag(ANGLES[:, None], turn[1][:, None])
    print(f"{name:16s} {jitter[0]:12.3f} % {jitter[1]:8.3f} deg {lags[0]:14.2f} {lags[1]:8.2f}", flush=True)


def main(checkpoint: str) -> None:
    """Prints all figures."""
    set_threads(1)
    reader = FaceReader.load(checkpoint, max_faces=1)
    film = DrawnFilm(FaceFactory(supersampling=2), [PERSON], WIDTH, HEIGHT)
    rng = np.random.default_rng(0)

    def noisy(picture: np.ndarray) -> np.ndarray:
        return (picture + rng.normal(0, NOISE, picture.shape)).round().clip(0, 255).astype(np.uint8)

    places = [Place(BOX, (0.0, float(angle), 0.0)) for angle in ANGLES]
    still = [noisy(one) for one in [film.picture([Place(BOX)])] * len(ANGLES)]
    turning = [noisy(film.picture([place])) for place in places]
    truth = np.stack([film.landmarks(0, place)[:, :2] for place in places])
    points = rng.normal(0, POINT_NOISE / 100 * BOX.size, truth.shape)
    yaw = rng.normal(0, YAW_NOISE, ANGLES.shape)
    print(f"{'':16s} {'jitter: landmarks':>18s} {'yaw':>8s} {'lag: landmarks':>16s} {'yaw':>8s}")
    show("truth and noise", (points, yaw), (truth + points, ANGLES + yaw), truth)
    radian = math.degrees(1)
    rest = filtered(points, BOX.size), filtered(yaw, radian)
    show("filtered", rest, (filtered(truth + points, BOX.size), filtered(ANGLES + yaw, radian)), truth)
    show("checkpoint", track(reader, still, False), track(reader, turning, False), truth)
    show("filtered", track(reader, still, True), track(reader, turning, True), truth)
    for look_every in (1, 10):
        tracker, start = FaceTracker(reader, look_every), time.process_time()
        for number, picture in enumerate(turning):
            tracker(picture, number / RATE)
        rate = len(turning) / (time.process_time() - start)
        print(f"look_every={look_every:<3d} {rate:.1f} pictures of {WIDTH} x {HEIGHT} pixels a CPU second")


if __name__ == "__main__":
    main(sys.argv[1])
