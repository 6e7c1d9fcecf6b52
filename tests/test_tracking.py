"""Faces through a video: everybody keeps a number, a head at rest rests, and one that turns is followed at once."""

from collections.abc import Callable

import numpy as np
import pytest

from jointface.errors import ConfigError
from jointface.inference.one_euro import OneEuroFilter
from jointface.inference.tracking import PATIENCE, FaceTracker
from tests.painted import Box, painted, square_reader

RATE = 25
Way = Callable[[float], Box | None]


def numbers(tracker: FaceTracker, ways: list[Way], seconds: float) -> list[dict[int, tuple[float, float]]]:
    """The place of each number in each picture of people who go these ways."""
    seen = []
    for picture in range(round(seconds * RATE)):
        time = picture / RATE
        faces = tracker(painted([way(time) for way in ways]), time)
        seen.append({person: (face.box.x, face.box.y) for person, face in faces})
    return seen


# --- the filter


@pytest.mark.parametrize("rate", [25, 30, 60])
def test_jitter_at_rest_falls_by_three(rate: int) -> None:
    noise = 0.004 * np.random.default_rng(0).standard_normal((20 * rate, 100))
    smooth = OneEuroFilter()
    rest = np.stack([smooth(values, number / rate) for number, values in enumerate(noise)])
    assert noise[rate:].std() > 3 * rest[rate:].std()


@pytest.mark.parametrize("rate", [25, 30])
@pytest.mark.parametrize("degrees", [20, 40])
def test_a_turning_head_is_followed_within_two_pictures(rate: int, degrees: float) -> None:
    """To and fro in four seconds; the lag is the delay of the truth that comes nearest to what the filter gives."""
    times = np.arange(8 * rate) / rate
    truth = np.radians(degrees) * np.sin(2 * np.pi * times / 4)
    smooth = OneEuroFilter()
    given = np.array([smooth(np.array([value]), time)[0] for value, time in zip(truth, times, strict=True)])
    lags = np.arange(0, 5, 0.05)
    errors = [np.abs(np.interp(times - lag / rate, times, truth) - given)[rate:].mean() for lag in lags]
    assert lags[np.argmin(errors)] < 2


def test_the_filter_takes_any_times_and_units() -> None:
    times = np.cumsum(np.random.default_rng(0).uniform(0.001, 0.2, 50))
    still, pixels, sizes = OneEuroFilter(), OneEuroFilter(), OneEuroFilter()
    for time in times:
        assert still(np.array([3.0]), time) == 3.0
        assert pixels(np.array([80 * time]), time, unit=80.0) == pytest.approx(80 * sizes(np.array([time]), time))
    assert still(np.array([9.0]), times[-1]) == still(np.array([9.0]), times[-1] - 1) == 3.0


# --- numbers


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda t: (60 + 50 * t, 55, 40), lambda t: (260 - 50 * t, 62, 52)),
        (lambda t: (60 + 50 * min(t, 4 - t), 60, 40), lambda t: (260 - 50 * min(t, 4 - t), 60, 40)),
    ],
    ids=["of other sizes", "turning back"],
)
def test_people_who_cross_keep_their_numbers(first: Way, second: Way) -> None:
    """The second is in front, so that the first is not seen for a while."""
    seen = numbers(FaceTracker(square_reader()), [first, second], seconds=4)
    begin, end = seen[0], seen[-1]
    assert {*begin} == {*end} == {1, 2} == set().union(*seen)
    for way in (first, second):
        number = min(begin, key=lambda one: abs(begin[one][0] - way(0)[0]))
        assert end[number][0] == pytest.approx(way(3.96)[0], abs=8)


@pytest.mark.parametrize(("gone", "number"), [(0.6 * PATIENCE, 1), (1.4 * PATIENCE, 2)])
def test_who_comes_back_soon_has_the_same_number(gone: float, number: int) -> None:
    seen = numbers(FaceTracker(square_reader()), [lambda t: None if 1 < t < 1 + gone else (100, 60, 40)], 5)
    back = round((1 + gone) * RATE)
    assert [[*faces] for faces in seen[: back + 1]] == [[1]] * (RATE + 1) + [[]] * (back - RATE - 1) + [
        [1] * (number == 1)
    ]
    assert [[*faces] for faces in seen[back + 10 :]] == [[number]] * (5 * RATE - back - 10)


def test_somebody_new_is_noticed_and_who_leaves_is_not_seen() -> None:
    ways: list[Way] = [lambda t: (60, 60, 40), lambda t: (200, 60, 40) if 1 < t < 2 else None]
    seen = [len(faces) for faces in numbers(FaceTracker(square_reader(), look_every=5), ways, 3)]
    assert (seen[:RATE], seen[RATE + 6 : 2 * RATE]) == ([1] * RATE, [2] * (RATE - 6))
    assert seen[2 * RATE :] == [1] * RATE


def test_the_finder_looks_only_when_it_has_to() -> None:
    reader = square_reader()
    numbers(FaceTracker(reader, look_every=10), [lambda t: (60 + 20 * t, 60, 40)], seconds=2)
    assert reader.finder.looks == 2 * RATE / 10  # type: ignore[attr-defined]
    assert reader.network.reads <= 2 * RATE + 2  # type: ignore[attr-defined]


def test_without_shape_faces_are_where_the_finder_sees_them() -> None:
    seen = numbers(FaceTracker(square_reader(shape=False)), [lambda t: (60 + 50 * t, 60, 40)], 1)
    assert [[*faces] for faces in seen] == [[1]] * RATE
    assert seen[-1][1][0] == pytest.approx(60 + 50 * 24 / RATE, abs=1)


# --- smoothness


def test_landmarks_at_rest_rest_and_those_on_the_way_are_there() -> None:
    def track(smooth: bool, speed: float) -> np.ndarray:
        tracker = FaceTracker(square_reader(noise=0.15), smooth=smooth)
        pictures = [painted([(60 + speed * n / RATE, 60, 40)]) for n in range(2 * RATE)]
        return np.stack([tracker(picture, n / RATE)[0].face.landmarks for n, picture in enumerate(pictures)])

    raw, calm = (track(smooth, speed=0)[RATE:].std(0).mean() for smooth in (False, True))
    assert raw > 3 * calm
    places = track(True, speed=40)[RATE:, :, 0].mean(1)
    truth = 60 + 40 * np.arange(RATE, 2 * RATE) / RATE
    assert np.abs(truth - places).mean() < 2 * 40 / RATE


def test_a_look_out_of_turn_is_refused() -> None:
    with pytest.raises(ConfigError, match="look_every=0: expected a whole number of at least 1"):
        FaceTracker(square_reader(), look_every=0)
