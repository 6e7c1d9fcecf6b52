"""A training that starts from another network takes over what both have in common."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from jointface.attributes import CELEBA, LabelSet
from jointface.errors import CheckpointError, ConfigError
from jointface.geometry import MorphableModel
from jointface.modules import JointFaceModule
from jointface.modules.checkpoint import KEY
from tests.networks import make_module, network_config

OTHER = LabelSet("other", ("Smiling", "Asian", "Male"))


@pytest.fixture
def source(tmp_path: Path, tiny_model: MorphableModel) -> tuple[JointFaceModule, Path]:
    """A module with random weights, and its checkpoint."""
    module = make_module(tiny_model)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.add_(torch.randn_like(parameter))
    path = tmp_path / "source.ckpt"
    torch.save({KEY: module.description, "state_dict": module.state_dict()}, path)
    return module, path


def test_what_both_networks_have_is_taken_over(source: tuple[Any, Path], tiny_model: MorphableModel) -> None:
    module, path = source
    options: dict[str, Any] = {"label_sets": {"other": OTHER}}
    fresh, started = (make_module(tiny_model, **options, weights=weights).network for weights in (None, str(path)))
    theirs = module.network
    for part in ("backbone", "shape_decoder"):
        found, expected = (getattr(of, part).state_dict() for of in (started, theirs))
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    row = {of: of.attribute_classifier.layers[-1].weight for of in (fresh, started, theirs)}
    for name in OTHER.attributes:
        of = theirs if name in CELEBA.attributes else fresh
        found, expected = row[started][started.attributes.index(name)], row[of][of.attributes.index(name)]
        assert torch.equal(found, expected), name


@pytest.mark.parametrize("part", ["triangles", "mean", "basis"])
def test_a_decoder_of_another_morphable_model_stays_as_it_was_with_a_warning(
    part: str, source: tuple[Any, Path], tiny_model: MorphableModel, caplog: pytest.LogCaptureFixture
) -> None:
    other = copy.deepcopy(tiny_model)
    setattr(other, part, getattr(other, part).flip(-1))
    fresh, started = (make_module(other, weights=weights).network for weights in (None, str(source[1])))
    found, expected = (network.shape_decoder.state_dict() for network in (started, fresh))  # type: ignore[union-attr]
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"The shape decoder of {source[1]} is left out: its morphable model or its layers are others"
    ]


def move_a_vertex(model: MorphableModel, by: float) -> None:
    model.mean[0, 0] += by * model.mean.abs().max()


def split_a_quad_otherwise(model: MorphableModel) -> None:
    model.triangles[0] = model.triangles[0].roll(1)


def swap_landmarks(model: MorphableModel) -> None:
    model.landmarks68[[30, 33]] = model.landmarks68[[33, 30]]


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        (partial(move_a_vertex, by=1e-6), True),
        (split_a_quad_otherwise, True),
        (partial(move_a_vertex, by=1e-3), False),
        (swap_landmarks, False),
    ],
)
def test_a_run_goes_on_with_a_morphable_model_that_differs_by_rounding(
    change: Callable[[MorphableModel], None], is_same: bool, tiny_model: MorphableModel
) -> None:
    """Another machine builds the synthetic head with other rounding errors."""
    elsewhere = copy.deepcopy(tiny_model)
    change(elsewhere)
    there, here = make_module(elsewhere), make_module(tiny_model)
    checkpoint = {KEY: there.description, "state_dict": there.state_dict()}
    if is_same:
        here.on_load_checkpoint(checkpoint)
        here.load_state_dict(checkpoint["state_dict"])
        assert here.network.shape_decoder is not None
        assert torch.equal(here.network.shape_decoder.morphable_model.mean, tiny_model.mean)
    else:
        with pytest.raises(CheckpointError, match=r"morphable_model.sha256 is .* in the checkpoint"):
            here.on_load_checkpoint(checkpoint)


def test_a_classifier_of_other_features_stays_as_it_was(source: tuple[Any, Path], tiny_model: MorphableModel) -> None:
    network = network_config("morphable")
    network["backbone"] |= {"out_indices": [1, 2]}
    fresh, started = (make_module(tiny_model, network=network, weights=of).network for of in (None, str(source[1])))
    found, expected = (of.attribute_classifier.state_dict() for of in (started, fresh))  # type: ignore[union-attr]
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def another_backbone(model: MorphableModel, path: Path) -> None:
    network = network_config("morphable")
    network["backbone"] |= {"hidden_sizes": [8, 24]}
    make_module(model, network=network, weights=str(path))


def no_checkpoint(model: MorphableModel, path: Path) -> None:
    make_module(model, weights=str(path.with_name("none.ckpt")))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (another_backbone, ConfigError, "model.weights=.*: its backbone is another one than that of this config"),
        (no_checkpoint, CheckpointError, "no checkpoint at .*none.ckpt"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(
    source: tuple[Any, Path],
    tiny_model: MorphableModel,
    make: Callable[[MorphableModel, Path], None],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        make(tiny_model, source[1])
