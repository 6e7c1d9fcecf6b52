"""Who benchmarks judge, and head pose, against closed forms."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from jointface.datamodules import AFLW2000, CropTransform, FaceSample
from jointface.datamodules.packed import fingerprint
from jointface.errors import ConfigError, DataError
from jointface.evaluation.methods import (
    FolderMethod,
    LabelMethod,
    MeanFaceMethod,
    NetworkMethod,
    PredictedFace,
    to_photo,
)
from jointface.evaluation.prediction_files import write_prediction
from jointface.geometry import (
    FaceBox,
    MorphableModel,
    apply_camera,
    camera_from_pose,
    center_depth,
    crop_transform,
    euler_to_rotation,
    face_box,
    warp_points,
)
from jointface.metrics.pose import pose_errors, pose_from_vertices
from jointface.modules import build_network
from jointface.modules.network import FaceNetwork
from tests.networks import network_config

Photos = tuple[list[FaceSample], list[str]]


@pytest.fixture(scope="module")
def photos(tiny_data: Path, tiny_model: MorphableModel) -> Photos:
    """Photos with labels, and the stems of their files."""
    dataset = AFLW2000(tiny_data / "AFLW2000", "test", CropTransform(64), tiny_model)
    return [dataset.read(index) for index in range(3)], [dataset.path(index).stem for index in range(3)]


def network(decoder: str, model: MorphableModel, noise: float = 0.0) -> FaceNetwork:
    """A network that predicts the mean face, or with noise in its last layer something of its own."""
    torch.manual_seed(0)
    network = build_network(network_config(decoder), ("Bald",), model)
    last = list(network.shape_decoder.children())[-1] if decoder == "position_map" else network.shape_decoder.regressor
    torch.nn.init.normal_(last.weight, std=noise)
    return network


def whole(faces: Sequence[PredictedFace | None]) -> list[PredictedFace]:
    """The faces, all there."""
    assert all(face is not None for face in faces)
    return [face for face in faces if face is not None]


# Head pose


def rotation_of(pitch: float, yaw: float, roll: float) -> torch.Tensor:
    return euler_to_rotation(torch.tensor([pitch, yaw, roll], dtype=torch.float64).deg2rad())


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, -75, 10), (-35, 40, -60)])
def test_the_pose_of_a_turned_mean_face_is_its_pose(tiny_model: MorphableModel, angles: tuple[float, ...]) -> None:
    pose = torch.tensor([*np.deg2rad(angles), 100, 120, 0, 1e-3]).float()
    vertices = apply_camera(camera_from_pose(pose, 450)[None], tiny_model.mean[None])
    found = pose_from_vertices(vertices, tiny_model.mean)
    torch.testing.assert_close(found[0], torch.tensor(angles).float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("predicted", "truth", "errors"),
    [
        ((1, 2, 3), (0, 0, 0), (1, 2, 3)),
        ((0, -40, 0), (5, 40, -5), (5, 80, 5)),
        ((0, 0, 179), (0, 0, -179), (0, 0, 2)),
        ((-90, 0, 270), (-90, 0, -90), (0, 0, 0)),
        ((180, 85, 180), (0, 95, 0), (0, 0, 0)),  # one rotation, two names
        ((175, 80, -178), (0, 95, 0), (5, 5, 2)),
    ],
)
def test_pose_errors_are_those_of_angles_on_a_circle(
    predicted: tuple[float, ...], truth: tuple[float, ...], errors: tuple[float, ...]
) -> None:
    found = pose_errors(torch.tensor([predicted]).double(), torch.tensor([truth]).double())
    torch.testing.assert_close(found, torch.tensor([errors]).double())


def test_the_two_triples_of_pose_errors_are_one_rotation() -> None:
    torch.testing.assert_close(rotation_of(10, 70, -20), rotation_of(190, 110, 160))


# Space of the photo


def test_points_go_back_to_the_photo_that_the_crop_was_cut_from() -> None:
    points = 100 * torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    to_crop = crop_transform(FaceBox(210.0, 180.0, 140.0), 96)
    torch.testing.assert_close(to_photo(warp_points(to_crop, points), to_crop), points, atol=1e-4, rtol=0)


@pytest.mark.parametrize("decoder", ["morphable", "position_map"])
def test_an_untrained_network_predicts_the_mean_face_in_the_face_box(
    photos: Photos, tiny_model: MorphableModel, decoder: str
) -> None:
    faces = whole(NetworkMethod("untrained", network(decoder, tiny_model)).predict(*photos))
    mean_faces = whole(MeanFaceMethod(tiny_model).predict(*photos))
    tolerance = 1e-3 if decoder == "morphable" else 2  # pixels; a map of 64 x 64 samples the surface coarsely
    for face, mean_face, sample in zip(faces, mean_faces, photos[0], strict=True):
        torch.testing.assert_close(face.landmarks68, mean_face.landmarks68, atol=tolerance, rtol=0)
        torch.testing.assert_close(face.pose, torch.zeros(3), atol=0.5, rtol=0)
        assert face.topology == mean_face.topology == fingerprint(tiny_model)
        assert face_box(mean_face.landmarks68) == pytest.approx(sample.box, abs=1e-2)
        assert (face.shape_coefficients is None) == (decoder == "position_map")


@pytest.mark.parametrize("decoder", ["morphable", "position_map"])
def test_predictions_do_not_depend_on_the_batch_size(photos: Photos, tiny_model: MorphableModel, decoder: str) -> None:
    trained = network(decoder, tiny_model, noise=0.01)
    one, all_at_once = (whole(NetworkMethod("one", trained, batch_size=size).predict(*photos)) for size in (1, 32))
    size = photos[0][0].box.size
    for a, b in zip(one, all_at_once, strict=True):
        torch.testing.assert_close(a.vertices, b.vertices, rtol=0, atol=1e-5 * size)
        torch.testing.assert_close(a.pose, b.pose, rtol=0, atol=1e-3)
        if decoder == "morphable":
            scale = a.shape_coefficients.abs().max().item()  # components differ in scale, rounding errors less
            torch.testing.assert_close(a.shape_coefficients, b.shape_coefficients, rtol=1e-4, atol=1e-5 * scale)
    assert not torch.equal(one[0].vertices - one[0].vertices[0], one[1].vertices - one[1].vertices[0])


def test_the_pose_of_a_network_is_that_of_its_face(photos: Photos, tiny_model: MorphableModel) -> None:
    """Of its camera where it has one, which for a face of mean shape is the similarity from the mean face."""
    turned = network("morphable", tiny_model)
    with torch.no_grad():
        rotation = euler_to_rotation(torch.tensor([0.2, -0.7, 0.1]))
        turned.shape_decoder.regressor.bias[:6] = rotation[:2].flatten() - torch.tensor([1.0, 0, 0, 0, 1, 0])
    face = whole(NetworkMethod("turned", turned).predict(*photos))[0]
    torch.testing.assert_close(face.pose, torch.tensor([0.2, -0.7, 0.1]).rad2deg(), atol=1e-3, rtol=0)
    torch.testing.assert_close(pose_from_vertices(face.vertices, tiny_model.mean), face.pose, atol=1e-2, rtol=0)


# Labels


def test_the_labels_as_predictions_are_the_labels(photos: Photos, tiny_model: MorphableModel) -> None:
    for face, sample in zip(whole(LabelMethod(tiny_model).predict(*photos)), photos[0], strict=True):
        torch.testing.assert_close(face.landmarks68, sample.labels["landmarks68"], atol=0.02, rtol=0)
        torch.testing.assert_close(face.shape_coefficients, sample.labels["shape_coefficients"])
        rebuilt = camera_from_pose(torch.cat([face.pose.deg2rad(), torch.tensor([0.0, 0, 0, 1])]), 450)[:, :3]
        camera = sample.labels["camera"][:, :3]
        torch.testing.assert_close(camera / camera.norm(dim=-1, keepdim=True), rebuilt, atol=1e-5, rtol=0)


def test_a_photo_without_labels_has_no_prediction(photos: Photos, tiny_model: MorphableModel) -> None:
    bare = FaceSample(photos[0][0].image, photos[0][0].box, {})
    assert LabelMethod(tiny_model).predict([bare], ["bare"]) == [None]


def test_labels_of_another_size_are_refused(photos: Photos, tiny_model: MorphableModel) -> None:
    sample = photos[0][0]
    labels = {**sample.labels, "shape_coefficients": torch.zeros(7)}
    with pytest.raises(ConfigError, match=r"labels have 7 \+ 10 coefficients, the morphable model .* has 40 \+ 10"):
        LabelMethod(tiny_model).predict([FaceSample(sample.image, sample.box, labels)], ["a"])


# Folders


def test_a_folder_gives_the_faces_that_it_holds(tmp_path: Path, photos: Photos, tiny_model: MorphableModel) -> None:
    face = whole(LabelMethod(tiny_model).predict(*photos))[1]
    write_prediction(tmp_path / f"{photos[1][1]}.npz", landmarks68=face.landmarks68[:, :2])
    write_prediction(tmp_path / f"{photos[1][2]}.npz", vertices=face.vertices[:9], triangles=torch.tensor([[0, 1, 8]]))
    first, second, third = FolderMethod("other", tmp_path, tiny_model).predict(*photos)
    assert first is None
    assert second is not None
    torch.testing.assert_close(second.landmarks68, face.landmarks68[:, :2])
    assert third is not None
    torch.testing.assert_close(third.vertices, face.vertices[:9])
    assert third.landmarks68 is None
    assert third.topology is None


def test_a_mesh_of_the_known_model_has_its_landmarks_and_its_pose(
    tmp_path: Path, photos: Photos, tiny_model: MorphableModel
) -> None:
    truth = whole(LabelMethod(tiny_model).predict(*photos))[0]
    write_prediction(tmp_path / "a.npz", vertices=truth.vertices, triangles=truth.triangles)
    write_prediction(tmp_path / "b.npz", vertices=truth.vertices, triangles=truth.triangles.roll(1, dims=0))
    same, other = whole(FolderMethod("other", tmp_path, tiny_model).predict(photos[0][:2], ["a", "b"]))
    torch.testing.assert_close(same.landmarks68, truth.landmarks68)
    assert same.topology == truth.topology
    assert pose_errors(same.pose, truth.pose).max() < 10
    assert other.landmarks68 is None
    assert other.topology is None


def test_a_folder_without_predictions_says_what_it_should_hold(tmp_path: Path, tiny_model: MorphableModel) -> None:
    with pytest.raises(DataError, match=r"no .npz file in .*: looked there for predictions; .*landmarks68") as error:
        FolderMethod("other", tmp_path, tiny_model)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="looked there for the predictions of other"):
        FolderMethod("other", tmp_path / "nowhere", tiny_model)


def test_a_damaged_prediction_names_its_file(tmp_path: Path, photos: Photos, tiny_model: MorphableModel) -> None:
    (tmp_path / "a.npz").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"a.npz: not a readable .npz file"):
        FolderMethod("other", tmp_path, tiny_model).predict(photos[0][:1], ["a"])


def test_predictions_in_another_coordinate_system_are_counted_by_likely_cause(
    tmp_path: Path, photos: Photos, tiny_model: MorphableModel
) -> None:
    samples, stems = photos
    for sample, stem, scale in zip(samples, stems, (1 / 450, 1.0, 1 / 450), strict=True):
        write_prediction(tmp_path / f"{stem}.npz", landmarks68=scale * sample.labels["landmarks68"][:, :2])
    other = FolderMethod("other", tmp_path, tiny_model)
    assert other.remarks() == []
    other.predict(*photos)
    other.predict(*photos)  # again, for a picture
    (remark,) = other.remarks()
    assert remark.startswith(f"other: 2 of 3 predictions, e.g. {stems[0]}.npz, all lie within two pixels of the")
    assert remark.endswith("normalised to 0..1 instead of pixels?")


def test_z_is_towards_the_viewer_in_every_method(photos: Photos, tiny_model: MorphableModel) -> None:
    """The tip of the nose is nearer than the jaw."""
    methods = (
        LabelMethod(tiny_model),
        MeanFaceMethod(tiny_model),
        NetworkMethod("n", network("morphable", tiny_model)),
    )
    for method in methods:
        depth = center_depth(whole(method.predict(*photos))[0].landmarks68)[:, 2]
        assert depth[30] > depth[8]
