"""The feature space: probes in closed form, whole results on tiny data."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from jointface.attributes import CELEBA
from jointface.datamodules import W300LP, CelebA, CropTransform, SyntheticFaces
from jointface.datamodules.face_dataset import FaceSample
from jointface.errors import ConfigError
from jointface.evaluation import feature_space as module
from jointface.evaluation.benchmark_result import BenchmarkResult
from jointface.evaluation.feature_space import (
    FOLDS,
    FOR_SHAPE,
    PER_CLASS,
    TRUE_ATTRIBUTES,
    TRUE_SHAPE,
    SpaceLabels,
    attribute_probe,
    embed,
    embedding_figure,
    feature_space,
    pooled_features,
    shape_probe,
)
from jointface.evaluation.network_outputs import network_outputs
from jointface.evaluation.table_formats import markdown, show
from jointface.geometry import MorphableModel, load_bfm_3ddfa
from jointface.modules import build_network
from jointface.modules.network import FaceNetwork
from tests.networks import network_config

CROP = CropTransform(32)


def random_network(seed: int = 0, image_size: int = 32) -> FaceNetwork:
    torch.manual_seed(seed)
    return build_network(network_config(None, True, image_size), CELEBA.attributes, None).eval()


def alone(count: int) -> np.ndarray:
    """Groups of faces that have nothing to do with each other."""
    return np.arange(count)


@pytest.fixture(scope="module")
def celeba(tiny_data: Path) -> CelebA:
    return CelebA(tiny_data / "celeba", "train", CROP)


@pytest.fixture(scope="module")
def w300lp(tiny_data: Path, tiny_model: MorphableModel) -> W300LP:
    return W300LP(tiny_data / "300W_LP", "train", CROP, tiny_model, val_fraction=0)


@pytest.fixture(scope="module")
def synthetic() -> SyntheticFaces:
    return SyntheticFaces("test", CROP, num_faces=20, drawing={"keep_in_memory": True})


@pytest.fixture
def quick_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """t-SNE takes seconds and is tested apart."""
    monkeypatch.setattr(module, "embed", lambda features: features[:, :2])


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny sets are probed too, whatever comes out."""
    monkeypatch.setattr(module, "PER_CLASS", 5)
    monkeypatch.setattr(module, "FOR_SHAPE", FOLDS)


# Probes in closed form


def test_features_that_encode_an_attribute_tell_it() -> None:
    random = np.random.default_rng(0)
    labels = random.random(200) < 0.3
    features = random.normal(size=(200, 8))
    features[:, 3] = 5.0 + 0.01 * (labels + 0.1 * random.normal(size=200))
    scores = attribute_probe(features, labels, alone(200))
    assert scores.shape == (FOLDS,)
    assert scores.min() > 0.95


def test_random_features_are_at_chance() -> None:
    random = np.random.default_rng(0)
    scores = attribute_probe(random.normal(size=(1500, 8)), random.random(1500) < 0.3, alone(1500))
    assert scores.mean() == pytest.approx(0.5, abs=0.04)


def test_a_linear_map_of_the_coefficients_tells_them() -> None:
    random = np.random.default_rng(0)
    coefficients = random.normal(size=(200, 3)) * [1e5, 1.0, 1e-3]
    features = coefficients / [1e5, 1.0, 1e-3] @ random.normal(size=(3, 10)) + 3
    scores = shape_probe(features, coefficients, alone(200))
    assert scores.shape == (FOLDS, 3)
    assert scores.min() > 0.99


def test_half_the_variance_gives_half_the_score() -> None:
    random = np.random.default_rng(0)
    known = random.normal(size=(4000, 1))
    scores = shape_probe(known, known + random.normal(size=(4000, 1)), alone(4000))
    assert scores.mean() == pytest.approx(0.5, abs=0.05)


def test_random_features_tell_nothing_of_shape() -> None:
    random = np.random.default_rng(0)
    scores = shape_probe(random.normal(size=(600, 5)), random.normal(size=(600, 4)), alone(600))
    assert scores.mean() == pytest.approx(0, abs=0.04)


def test_people_are_not_recognised() -> None:
    """Features that only tell who it is score at chance when a person's faces stay in one fold."""
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(60), 10)
    features = random.normal(size=(60, 120))[person] + 0.01 * random.normal(size=(600, 120))
    labels, shape = (random.random(60) < 0.5)[person], random.normal(size=(60, 1))[person]
    assert attribute_probe(features, labels, person).mean() < 0.65
    assert attribute_probe(features, labels, alone(600)).mean() > 0.95
    assert shape_probe(features, shape, person).mean() < 0.2
    assert shape_probe(features, shape, alone(600)).mean() > 0.95


def test_with_enough_faces_what_knows_nothing_is_near_zero() -> None:
    """As many features as faces, which tell nothing: the reason for FOR_SHAPE, and what comes out of fewer faces."""
    random = np.random.default_rng(0)
    features, shape = random.normal(size=(FOR_SHAPE, 128)), random.normal(size=(FOR_SHAPE, 20))
    assert -0.1 < shape_probe(features, shape, alone(FOR_SHAPE)).mean() < 0
    assert shape_probe(features[:12], shape[:12], alone(12)).mean() < -1


# Whole results


def test_features_are_those_that_the_attribute_classifier_reads(celeba: CelebA) -> None:
    network = random_network()
    outputs, _ = network_outputs({"one": network}, celeba, pooled_features, batch_size=5)
    classifier = network.attribute_classifier
    assert classifier is not None
    images = torch.stack([celeba[index]["image"] for index in range(len(celeba))])
    with torch.no_grad():
        expected = network(images).logits
        torch.testing.assert_close(classifier.layers[-1](outputs["one"]), expected, atol=1e-5, rtol=1e-5)


def test_each_network_gets_crops_of_its_size(celeba: CelebA) -> None:
    networks = {"small": random_network(), "large": random_network(image_size=64)}
    sizes: dict[str, Any] = {}

    def side(network: FaceNetwork, features: Tensor) -> Tensor:
        sizes[str(network.image_size)] = features.shape[-1]
        return features.mean((2, 3))

    outputs, labels = network_outputs(networks, celeba, side)
    assert sizes["64"] == 2 * sizes["32"]
    assert {name: len(rows) for name, rows in outputs.items()} == {"small": 12, "large": 12}
    assert labels["attributes"].shape == (12, 40)


def test_only_the_faces_that_are_probed_pass_the_networks(celeba: CelebA, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    read = CelebA.read

    def noted(self: CelebA, index: int) -> FaceSample:
        seen.append(index)
        return read(self, index)

    monkeypatch.setattr(CelebA, "read", noted)
    outputs, labels = network_outputs({"one": random_network()}, celeba, pooled_features, 4, indices=[7, 2, 9])
    assert seen == [7, 2, 9]
    assert len(outputs["one"]) == 3
    assert torch.equal(labels["attributes"][1], celeba[2]["attributes"])


@pytest.mark.usefixtures("quick_picture", "few_are_enough")
def test_probes_to_attributes_leave_out_rare_ones(celeba: CelebA) -> None:
    found = feature_space({"one": random_network()}, celeba)
    labels = torch.stack([celeba[index]["attributes"] for index in range(12)]).sum(0)
    enough = [name for m, name in enumerate(CELEBA.attributes) if 5 <= labels[m] <= 7]
    each = {key.rsplit("/", 1)[1] for key in found.metrics if key.startswith("one/attribute_probe/")}
    assert each == set(enough)
    assert any(
        f"Probes leave out {40 - len(enough)} attributes with fewer than 5 people or photos" in note
        for note in found.notes
    )
    assert [table.title for table in found.tables] == ["Probes to attributes", "Probes to each attribute"]
    assert list(found.tables[0].frame.index) == ["one"]
    mean = np.mean([found.metrics[f"one/attribute_probe/{name}"] for name in enough])
    assert found.metrics["one/attribute_probe"] == pytest.approx(mean, abs=0.1)
    assert "one/attribute_probe_std" in found.metrics
    assert found.metrics["num_images"] == 12
    assert found.captions.keys() == found.figures.keys()


@pytest.mark.usefixtures("quick_picture", "few_are_enough")
def test_probes_to_shape_and_batches_that_change_nothing(w300lp: W300LP) -> None:
    networks = {"one": random_network().double()}
    found = [feature_space(networks, w300lp, batch_size=size) for size in (1, 7, 64)]
    assert [table.title for table in found[0].tables] == ["Probes to shape"]
    assert "one/shape_probe/0" in found[0].metrics
    for other in found[1:]:
        assert other.metrics == pytest.approx(found[0].metrics, abs=1e-6)


def test_turned_copies_of_a_photo_stay_together(w300lp: W300LP) -> None:
    _, tensors = network_outputs({}, w300lp, pooled_features)
    labels = module._labels(w300lp, tensors, np.arange(len(w300lp)))
    assert labels.people == 6
    stems = [w300lp.path(index).stem for index in range(len(w300lp))]
    photos = {re.sub(r"_\d+$", "", stem) for stem in stems}
    assert labels.groups.max() + 1 == len(photos) == 6
    for index, stem in enumerate(stems):
        same = [number for number, other in enumerate(stems) if other[:-1] == stem[:-1]]
        assert set(labels.groups[same]) == {labels.groups[index]}


@pytest.mark.usefixtures("quick_picture", "few_are_enough")
def test_where_both_are_labelled_each_tells_of_the_other(
    synthetic: SyntheticFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PER_CLASS", 9)
    found = feature_space({"one": random_network()}, synthetic)
    tables = {table.title: table for table in found.tables}
    assert set(tables["Probes to attributes"].frame.index) == {"one", TRUE_SHAPE}
    assert set(tables["Probes to shape"].frame.index) == {"one", TRUE_ATTRIBUTES}
    assert tables["Probes to shape"].reference == (TRUE_ATTRIBUTES,)
    for table in found.tables:
        assert markdown(show(table))
    found.figures["embedding"].draw_without_rendering()


@pytest.mark.usefixtures("quick_picture")
def test_what_cannot_be_probed_is_refused_in_one_line(tiny_data: Path, celeba: CelebA) -> None:
    few = CelebA(tiny_data / "celeba", "test", CROP)
    with pytest.raises(ConfigError, match="feature_space: 4 faces of 4 people or photos are too few") as caught:
        feature_space({"one": random_network()}, few)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="neither attribute nor shape labels"):
        module._labels(celeba, {}, np.arange(3))


@pytest.mark.usefixtures("quick_picture")
def test_too_few_faces_for_r2_are_noted_and_not_scored(
    synthetic: SyntheticFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PER_CLASS", 5)
    found = feature_space({"one": random_network()}, synthetic)
    assert [table.title for table in found.tables] == ["Probes to attributes", "Probes to each attribute"]
    assert not [key for key in found.metrics if "shape_probe" in key]
    assert "No probes to shape: 20 people or photos are too few, R2 needs 200." in found.notes


def test_many_faces_of_few_people_are_not_enough() -> None:
    people = np.arange(2 * PER_CLASS - 1).repeat(3)
    male = pd.Series(np.where(people % 2, 0.0, 1.0))
    assert not module._enough(male, people)
    assert module._enough(male, alone(len(male)))


# The picture


def test_clusters_stay_apart_in_the_picture_and_it_is_seeded() -> None:
    random = np.random.default_rng(0)
    cluster = np.arange(60) % 2
    features = random.normal(size=(60, 20)) + 8 * cluster[:, None]
    points = embed(features)
    centres = np.stack([points[cluster == c].mean(0) for c in (0, 1)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(1)
    assert (nearest == cluster).all()
    np.testing.assert_array_equal(points, embed(features))


@pytest.mark.usefixtures("quick_picture")
def test_the_picture_has_a_row_for_each_checkpoint() -> None:
    random = np.random.default_rng(0)
    names = ["Male", "Bald", "Smiling"]
    labels = SpaceLabels(
        alone(30),
        pd.DataFrame(np.where(random.random((30, 3)) < 0.8, random.random((30, 3)) < 0.5, np.nan), columns=names),
        pd.DataFrame(random.normal(size=(30, 4))),
    )
    figure = embedding_figure({name: random.normal(size=(30, 6)) for name in ("joint", "shape", "attributes")}, labels)
    assert [axis.get_ylabel() for axis in figure.axes[::4]] == ["joint", "shape", "attributes"]
    titles = {axis.get_title() for axis in figure.axes[:4]}
    assert titles == {"Male", "Smiling", "shape coefficient 0", "shape coefficient 1"}


# Real data


@pytest.fixture
def probed(real_data: Path, quick_picture: None) -> BenchmarkResult:
    test = CelebA(real_data / "celeba", "test", CROP)
    return feature_space({"random": random_network()}, test)


def test_random_features_know_some_of_real_attributes(probed: BenchmarkResult) -> None:
    """Random filters see colours: whether there is a hat, and blond hair, but not who is attractive."""
    assert probed.metrics["random/attribute_probe"] == pytest.approx(0.6, abs=0.1)
    assert probed.metrics["random/attribute_probe/Blond_Hair"] > 0.6
    assert any("Bald" in note for note in probed.notes)


@pytest.mark.usefixtures("quick_picture")
def test_probes_to_the_coefficients_of_real_fits(real_data: Path) -> None:
    model = load_bfm_3ddfa(str(real_data / "bfm_3ddfa"))
    data = W300LP(real_data / "300W_LP", "val", CROP, model, val_fraction=0.1)
    found = feature_space({"random": random_network()}, data)
    assert len([key for key in found.metrics if key.startswith("random/shape_probe/")]) == model.num_shape
    assert found.metrics["random/shape_probe"] < 0.5
