"""FaceReader: what it says of a face lies on the photo, whatever the photo, its size and how many faces it shows."""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from jointface import FaceReader
from jointface.attributes import CELEBA
from jointface.datamodules import CropTransform
from jointface.detection.finders import FoundFace, GivenBoxes, WholePicture
from jointface.errors import CheckpointError, ConfigError, InputError
from jointface.geometry import FaceBox, MorphableModel, euler_to_rotation, pose_from_camera
from jointface.inference.backends import MeshFacts, NetworkFacts, NetworkOutput, TorchNetwork, union_alpha
from jointface.inference.crops import cut_crop
from jointface.inference.face import Face, Pose
from jointface.modules import FaceNetwork, MorphableDecoder
from tests.networks import make_module

SIZE = 64  # of the crops


class MarkerNetwork:
    """Sees the geometry: three vertices, at the middles of a red, a green and a blue marker on black."""

    def __init__(self) -> None:
        corners = np.arange(3)
        mean = np.array([[-1.0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
        mesh = MeshFacts(corners[None], mean[:, :2], np.arange(68) % 3, mean, corners >= 0)
        self.facts = NetworkFacts(SIZE, (), np.zeros(0, np.float32), mesh)
        self.crops: list[np.ndarray] = []

    def __call__(self, crops: np.ndarray) -> NetworkOutput:
        self.crops += [*crops]
        weights = crops.astype(np.float64)
        y, x = ((weights * place).sum((2, 3)) / weights.sum((2, 3)) for place in np.mgrid[:SIZE, :SIZE])
        return NetworkOutput(np.stack([x, y, np.full_like(x, 7.0)], axis=-1).astype(np.float32))


def painted(width: int, height: int, markers: np.ndarray, sigma: float) -> np.ndarray:
    """A picture with a soft spot of each colour, at these places."""
    picture = np.zeros((height, width, 3), np.uint8)
    for colour, (x, y) in enumerate(markers):
        row, column = (
            np.exp(-(((np.arange(length) - at) / sigma) ** 2) / 2).astype(np.float32)
            for length, at in ((height, y), (width, x))
        )
        picture[..., colour] = (255 * np.outer(row, column)).round()
    return picture


def markers(box: FaceBox) -> np.ndarray:
    """Places of the three markers of a face: their box is the face's."""
    return np.array([box.x, box.y]) + box.size * np.array([[-0.5, -0.5], [0.5, -0.2], [0.1, 0.5]])


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (90, 70, FaceBox(41.3, 35.7, 32)),
        (700, 500, FaceBox(300.2, 240.9, 200)),
        (4800, 4850, FaceBox(2402.4, 2450.6, 3000)),
        (12_000, 600, FaceBox(11_893.7, 100.2, 120)),
    ],
)
def test_points_land_on_the_photo(width: int, height: int, box: FaceBox) -> None:
    places = markers(box)
    photo = painted(width, height, places, sigma=0.06 * box.size)
    guess = FaceBox(box.x + 0.08 * box.size, box.y - 0.05 * box.size, 1.1 * box.size)
    (face,) = FaceReader(MarkerNetwork(), GivenBoxes([guess]))(photo)
    pixel_of_crop = 1.58 * box.size / SIZE
    np.testing.assert_allclose(face.landmarks[:3, :2], places, atol=0.05 * pixel_of_crop)
    assert face.box == pytest.approx(box, abs=0.05 * pixel_of_crop)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_are_those_of_the_photo_as_people_see_it(orientation: int, tmp_path: Path) -> None:
    box = FaceBox(60.5, 71.5, 50)
    upright = Image.fromarray(painted(200, 150, markers(box), sigma=4))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a camera held so makes
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    (face,) = FaceReader(MarkerNetwork(), GivenBoxes([box]))(tmp_path / "photo.png")
    assert face.photo.image.shape == (150, 200, 3)
    np.testing.assert_allclose(face.landmarks[:3, :2], markers(box), atol=0.06)


@pytest.fixture(scope="module")
def networks(tiny_model: MorphableModel) -> dict[str, FaceNetwork]:
    """Networks by decoder, with random weights, as untrained ones see the mean face in every crop."""

    def network(decoder: str | None, **options: Any) -> FaceNetwork:
        module = make_module(tiny_model, decoder, **options)
        with torch.no_grad():
            for parameter in module.network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return module.network.eval()

    return {
        "morphable": network("morphable"), "position_map": network("position_map"),
        "attributes": network(None), "shape": network("morphable", label_sets={}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)


BOXES = [FaceBox(200.4, 150.2, 100), FaceBox(5.0, 280.0, 60.0), FaceBox(390.25, 10.5, 25.0), FaceBox(-20.0, 50.0, 90.0)]


def one_pass(network: FaceNetwork, boxes: Sequence[FaceBox]) -> FaceReader:
    return FaceReader(TorchNetwork(network), GivenBoxes(boxes), two_passes=False)


@pytest.mark.parametrize("box", BOXES)
def test_what_the_network_says_of_a_crop_is_returned_in_pixels_of_the_photo(
    box: FaceBox, networks: dict[str, FaceNetwork], photo: np.ndarray
) -> None:
    network = networks["morphable"]
    assert isinstance(network.shape_decoder, MorphableDecoder)
    (face,) = one_pass(network, [box])(photo)
    crop, _ = CropTransform(SIZE)(photo, box)
    with torch.no_grad():
        prediction = network(crop[None])
        camera = network.shape_decoder.outputs(network.features(crop[None]))[2]
    side = 1.58 * box.size  # of the crop, which the box's centre is in the middle of
    expected = prediction.vertices[0].double().numpy() * side / SIZE
    expected[:, :2] += np.array([box.x, box.y]) - (SIZE - 1) / 2 * side / SIZE
    expected[:, 2] -= expected[:, 2].mean()
    np.testing.assert_allclose(face.vertices, expected, atol=0.01)
    np.testing.assert_array_equal(face.landmarks, face.vertices[network.shape_decoder.morphable_model.landmarks68])
    angles = pose_from_camera(camera, 0)[0, :3].rad2deg().tolist()
    assert [face.pose.pitch, face.pose.yaw, face.pose.roll] == pytest.approx(angles, abs=1e-3)
    logits, alpha = prediction.logits[0].double(), 2.0
    probabilities = 1 / (1 + alpha * np.exp(-logits.numpy()))
    assert list(face.attributes) == list(CELEBA.attributes)
    np.testing.assert_allclose([*face.attributes.values()], probabilities, atol=1e-4)


def test_an_attribute_of_two_label_sets_is_calibrated_by_the_first() -> None:
    label_sets = {
        "celeba": {"attributes": ["Smiling", "Young"], "alpha": [2.0, 3.0]},
        "lfwa": {"attributes": ["Smiling", "Asian"], "alpha": [5.0, 7.0]},
    }
    np.testing.assert_array_equal(union_alpha(("Smiling", "Young", "Asian"), label_sets), [2, 3, 7])


def test_the_pose_of_a_network_without_a_camera_is_that_of_its_mesh(
    networks: dict[str, FaceNetwork], photo: np.ndarray
) -> None:
    (face,) = one_pass(networks["position_map"], BOXES[:1])(photo)
    rotation = face.pose.matrix
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_angles_have_the_signs_of_300w_lp() -> None:
    nose, crown = np.array([0, 0, 1.0]), np.array([0, 1.0, 0])
    up, left, leaning = (
        Pose.from_matrix(euler_to_rotation(torch.tensor(angles).deg2rad().double()).numpy())
        for angles in ([30.0, 0, 0], [0, 30.0, 0], [0, 0, 30.0])
    )
    assert (up.pitch, left.yaw, leaning.roll) == pytest.approx((30, 30, 30))
    assert (up.matrix @ nose)[1] > 0  # looks up
    assert (left.matrix @ nose)[0] < 0  # looks to the left of the picture
    assert (leaning.matrix @ crown)[0] > 0  # leans to the right of the picture


@pytest.mark.parametrize(("name", "missing"), [("attributes", "vertices"), ("shape", "attributes")])
def test_a_network_that_lacks_a_head_leaves_that_part_out(
    name: str, missing: str, networks: dict[str, FaceNetwork], photo: np.ndarray
) -> None:
    (face,) = FaceReader(TorchNetwork(networks[name]), WholePicture())(photo)
    assert not getattr(face, missing)
    assert face.overlay().shape == (512, 512, 3)
    if missing == "vertices":
        assert face.pose is None
        with pytest.raises(ConfigError, match="no shape"):
            face.mesh()


def test_the_second_pass_is_framed_by_the_landmarks_of_the_first() -> None:
    box = FaceBox(100, 90, 60)
    network = MarkerNetwork()
    photo = painted(220, 200, markers(box), sigma=4)
    FaceReader(network, GivenBoxes([FaceBox(108, 80, 75)]))(photo)
    first, second = network.crops
    exact = cut_crop(photo, box, SIZE)[0].transpose(2, 0, 1).astype(int)
    assert abs(second - exact).max() <= 12 < abs(first - exact).max()


@pytest.mark.parametrize("value", [1e4, 32.0])
def test_a_first_pass_that_makes_no_sense_is_not_followed(value: float) -> None:
    class Lost(MarkerNetwork):
        def __call__(self, crops: np.ndarray) -> NetworkOutput:
            super().__call__(crops)
            return NetworkOutput(np.full((len(crops), 3, 3), value, np.float32))

    network = Lost()
    FaceReader(network, WholePicture())(painted(90, 90, markers(FaceBox(45, 45, 40)), 4))
    first, second = network.crops
    np.testing.assert_array_equal(first, second)


def test_a_network_that_diverged_is_refused() -> None:
    network = MarkerNetwork()
    black = np.zeros((90, 90, 3), np.uint8)  # no markers, so their places are NaN
    with pytest.raises(CheckpointError, match="values that are not finite"), np.errstate(invalid="ignore"):
        FaceReader(network, WholePicture())(black)


@pytest.mark.parametrize(
    "box", [FaceBox(1e9, 30, 20), FaceBox(30, -1e9, 20), FaceBox(np.nan, 30, 20), FaceBox(30, 30, 0)]
)
def test_a_crop_far_from_the_photo_is_refused(box: FaceBox, photo: np.ndarray) -> None:
    with pytest.raises(InputError, match="makes no sense in a photo of 400 x 300 pixels"):
        cut_crop(photo, box, SIZE)


def test_two_boxes_of_a_finder_that_lead_to_one_face_give_one_face() -> None:
    box = FaceBox(100.0, 90.0, 60)
    photo = painted(220, 180, markers(box), sigma=4)
    guesses = [FoundFace(FaceBox(box.x + 14, box.y, 62), 0.9), FoundFace(FaceBox(box.x - 14, box.y, 58), 0.6)]
    (face,) = FaceReader(MarkerNetwork(), lambda _: guesses)(photo)
    assert face.score == 0.9
    assert len(FaceReader(MarkerNetwork(), GivenBoxes([guess.box for guess in guesses]))(photo)) == 2


def apart(count: int) -> list[FaceBox]:
    return [FaceBox(40 + 80 * (number % 5), 30 + 60 * (number // 5), 30) for number in range(count)]


def same(faces: Sequence[Face], others: Sequence[Face]) -> None:
    assert len(faces) == len(others)
    for face, other in zip(faces, others, strict=True):
        np.testing.assert_allclose(face.vertices, other.vertices, atol=1e-3)
        np.testing.assert_allclose([*face.attributes.values()], [*other.attributes.values()], atol=1e-5)


def test_lists_tuples_and_tensors_of_photos_are_read_photo_by_photo(networks: dict[str, FaceNetwork]) -> None:
    reader = FaceReader(TorchNetwork(networks["attributes"]), WholePicture())
    batch = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
    expected = [reader(photo) for photo in batch]
    for photos in (batch, [*batch], tuple(batch), batch.permute(0, 2, 3, 1).numpy()):
        for faces, others in zip(reader(photos), expected, strict=True):
            assert [face.attributes for face in faces] == [pytest.approx(face.attributes, abs=1e-5) for face in others]


def test_a_face_is_shown_in_one_short_line(networks: dict[str, FaceNetwork], photo: np.ndarray) -> None:
    (face,) = FaceReader(TorchNetwork(networks["morphable"]), GivenBoxes(BOXES[:1]))(photo)
    best = max(face.attributes, key=lambda name: face.attributes[name])
    assert f"score=1.00, yaw={face.pose.yaw:.0f}, {best}={face.attributes[best]:.2f}" in repr(face)
    assert len(repr(face)) < 160


@pytest.mark.parametrize("batch_size", [1, 6])
def test_faces_of_many_photos_share_batches_and_come_back_photo_by_photo(
    batch_size: int, networks: dict[str, FaceNetwork], photo: np.ndarray
) -> None:
    network = TorchNetwork(networks["morphable"])
    photos = {count: photo[: 200 + count] for count in (0, 1, 2, 20)}

    def finder(picture: np.ndarray) -> list[FoundFace]:
        return [FoundFace(box, 0.5) for box in apart(len(picture) - 200)]

    together = FaceReader(network, finder, batch_size=batch_size)([*photos.values()])
    assert [len(faces) for faces in together] == [0, 1, 2, 20]
    for picture, faces in zip(photos.values(), together, strict=True):
        same(faces, FaceReader(network, finder)(picture))
    assert len(FaceReader(network, finder, max_faces=3)(photos[20])) == 3


def test_boxes_that_are_given_take_the_place_of_the_finder(networks: dict[str, FaceNetwork], photo: np.ndarray) -> None:
    reader = FaceReader(TorchNetwork(networks["morphable"]), WholePicture())
    same(reader(photo, boxes=BOXES), FaceReader(reader.network, GivenBoxes(BOXES))(photo))


def test_a_photo_that_cannot_be_read_has_an_error_and_the_others_are_read(
    networks: dict[str, FaceNetwork], photo: np.ndarray
) -> None:
    reader = FaceReader(TorchNetwork(networks["morphable"]), WholePicture())
    readings = [*reader.read([photo, b"nonsense", photo])]
    assert [len(reading.faces) for reading in readings] == [1, 0, 1]
    assert "not a picture" in str(readings[1].error)
    with pytest.raises(InputError, match=r"^photo 2: bytes: not a picture"):
        reader([photo, b"nonsense"])
    with pytest.raises(InputError, match=r"^bytes: not a picture"):
        reader(b"nonsense")


def test_a_reader_takes_only_some_photos_ahead(networks: dict[str, FaceNetwork], photo: np.ndarray) -> None:
    taken = []

    def endless() -> Any:
        while True:
            taken.append(photo)
            yield photo

    readings = FaceReader(TorchNetwork(networks["morphable"]), WholePicture(), batch_size=4).read(endless())
    for number in range(1, 10):
        next(readings)
        assert len(taken) <= number + 3


def test_threads_share_a_reader_and_get_the_same_faces(networks: dict[str, FaceNetwork], photo: np.ndarray) -> None:
    reader = FaceReader(TorchNetwork(networks["morphable"]), GivenBoxes(BOXES))
    alone = reader(photo)
    with ThreadPoolExecutor(4) as threads:
        for faces in threads.map(reader, [photo] * 12):
            for face, other in zip(faces, alone, strict=True):
                np.testing.assert_array_equal(face.vertices, other.vertices)
                assert face.attributes == other.attributes


@pytest.mark.parametrize("box", [*BOXES, FaceBox(150.3, 60.7, 250), FaceBox(-300, 900, 200)])
@pytest.mark.parametrize(("large", "levels"), [(1_000_000, 0), (0, 1.0)])
def test_crops_are_those_of_the_training_also_if_cut_from_a_part_of_the_photo(
    box: FaceBox, large: int, levels: float, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jointface.inference.crops.LARGE", large)
    soft = cv2.normalize(cv2.GaussianBlur(photo, (0, 0), 9), None, 0, 255, cv2.NORM_MINMAX)
    crop, transform = cut_crop(soft, box, SIZE)
    whole, expected = CropTransform(SIZE)(soft, box)
    assert abs(crop.astype(int) - whole.permute(1, 2, 0).numpy()).mean() <= levels
    np.testing.assert_array_equal(transform.astype(np.float32), expected)


@pytest.mark.parametrize("shape", [(3000, 12_000), (1, 1), (1, 40_000)])
def test_photos_of_any_shape_have_crops(shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 90, np.uint8)
    height, width = shape
    for box in (FaceBox(width / 2, height / 2, 40), FaceBox(width - 1, 0, 2.5 * max(shape))):
        crop, _ = cut_crop(picture, box, SIZE)
        assert (crop == 90).all()


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"max_faces": 0}, {"backend": "tpu"}])
def test_settings_that_make_no_sense_are_refused(setting: dict[str, Any]) -> None:
    (name, value) = next(iter(setting.items()))
    make = partial(FaceReader.load, "best.ckpt") if name == "backend" else partial(FaceReader, MarkerNetwork())
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        make(finder=WholePicture(), **setting)


def test_importing_the_package_alone_is_light() -> None:
    code = "import jointface, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"
