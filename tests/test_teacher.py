"""Distillation: a network that was trained before teaches another one, and leaves no trace in it."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from jointface.errors import CheckpointError, ConfigError
from jointface.geometry import MorphableModel
from jointface.modules import FixedWeights, JointFaceModule, Teacher, root_mean_square, shape_loss
from jointface.modules.checkpoint import KEY
from tests.networks import Batch, make_module, network_config


@pytest.fixture
def save(tmp_path: Path, tiny_model: MorphableModel) -> Callable[..., tuple[JointFaceModule, Path]]:
    """Makes a module with random heads and writes its checkpoint."""

    def saved(model: MorphableModel = tiny_model, decoder: str | None = "morphable", **options: Any) -> Any:
        module = make_module(model, decoder, **options).eval()
        with torch.no_grad():
            for parameter in module.network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        torch.save({KEY: module.description, "state_dict": module.state_dict()}, tmp_path / "teacher.ckpt")
        return module, tmp_path / "teacher.ckpt"

    return saved


def student_of(model: MorphableModel, path: Path, decoder: str | None = "morphable", **options: Any) -> JointFaceModule:
    weight = options.pop("weight", 1.0)
    return make_module(model, decoder, teacher=partial(Teacher, checkpoint=path, weight=weight), **options).eval()


def test_a_student_that_equals_its_teacher_learns_nothing(
    save: Callable[..., Any], tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    source, path = save()
    student = student_of(tiny_model, path)
    student.load_state_dict(source.state_dict())
    loss = student.losses(mixed_batch)["teacher"]
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    gradients = [parameter.grad.abs().max() for parameter in student.parameters() if parameter.grad is not None]
    assert len(gradients) > 10
    assert max(gradients) < 1e-4


@pytest.mark.parametrize("rms", [False, True])
def test_the_loss_covers_all_samples_with_the_weights_of_the_tasks(
    rms: bool, save: Callable[..., Any], tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    source, path = save()
    student = student_of(tiny_model, path, loss=FixedWeights(30.0, 2.0), weight=0.5, rms=rms)
    images = torch.cat([part["image"] for part in mixed_batch.values()])
    (own, logits), (target, wanted) = student.network(images), source.network(images)
    weights = student.network.shape_decoder.weights
    of_sample = shape_loss(own / 64, target / 64, weights)
    shape = (root_mean_square(of_sample) if rms else of_sample).mean()
    p, q = wanted.double().sigmoid(), logits.double().sigmoid()
    divergence = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum() / len(images)
    losses = student.losses(mixed_batch)
    torch.testing.assert_close(losses["teacher"], (30 * shape + 2 * divergence).float(), rtol=1e-4, atol=0)
    total = student.weighting(losses, losses, 0)
    expected = 30 * losses["shape"] + 2 * losses["attributes"] + 0.5 * losses["teacher"]
    torch.testing.assert_close(total, expected)
    assert student.losses({})["teacher"] == 0


def test_a_teacher_of_larger_crops_sees_the_same_faces(
    tiny_model: MorphableModel, mixed_batch: Batch, tmp_path: Path
) -> None:
    """Untrained networks predict the same mean face in the middle of the crop, whatever its size."""
    larger = make_module(tiny_model, network=network_config("morphable", False, image_size=96), label_sets={})
    torch.save({KEY: larger.description, "state_dict": larger.state_dict()}, tmp_path / "teacher.ckpt")
    student = student_of(tiny_model, tmp_path / "teacher.ckpt", label_sets={})
    assert student.losses(mixed_batch)["teacher"].item() == pytest.approx(0, abs=1e-5)


def test_a_teacher_sees_crops_resized_to_its_own_size(save: Callable[..., Any], mixed_batch: Batch) -> None:
    source, path = save(network=network_config("morphable", False, image_size=96), label_sets={})
    student = student_of(source.network.shape_decoder.morphable_model, path, label_sets={})
    images = mixed_batch["w300lp"]["image"]
    resized = [cv2.resize(image.permute(1, 2, 0).numpy(), (96, 96)) for image in images]
    theirs, _ = source.network(torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2))
    corner = torch.tensor([0.5, 0.5, 0.0])
    expected = (theirs + corner) * 64 / 96 - corner
    found = student.teacher.predict(images).vertices
    assert (expected[0] - expected[1]).abs().max() > 1  # pixels: the faces differ
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)  # crops are rounded to whole numbers


def test_a_teacher_may_have_other_landmarks_on_the_same_mesh(
    save: Callable[..., Any], tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    other = copy.deepcopy(tiny_model)
    other.landmarks68[[27, 28]] = other.landmarks68[[28, 27]]
    assert student_of(tiny_model, save(other)[1]).losses(mixed_batch)["teacher"] > 0


def test_with_a_teacher_each_head_runs_once(
    save: Callable[..., Any], tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    """Else batch statistics of one step would be counted twice."""
    student = student_of(tiny_model, save()[1]).train()
    student.losses(mixed_batch)
    statistics = [module for module in student.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {module.num_batches_tracked.item() for module in statistics} == {1}


def test_a_student_holds_nothing_of_its_teacher(save: Callable[..., Any], tiny_model: MorphableModel) -> None:
    student, alone = student_of(tiny_model, save()[1]), make_module(tiny_model)
    assert student.state_dict().keys() == alone.state_dict().keys()
    assert len([*student.parameters()]) == len([*alone.parameters()])
    assert copy.deepcopy(student).teacher is student.teacher
    student.train()
    assert not student.teacher.network.training
    assert not any(parameter.requires_grad for parameter in student.teacher.network.parameters())


def test_a_teacher_that_cannot_teach_is_refused(
    save: Callable[..., Any], tiny_model: MorphableModel, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*gone\.ckpt"):
        student_of(tiny_model, tmp_path / "gone.ckpt")
    with pytest.raises(ConfigError, match="predicts neither faces nor attributes that this network predicts"):
        student_of(tiny_model, save(decoder=None)[1], label_sets={})
    other = copy.deepcopy(tiny_model)
    other.triangles = other.triangles[:-1]
    with pytest.raises(ConfigError, match=r"predicts the mesh of .*, this network that of .* of the teacher"):
        student_of(tiny_model, save(other)[1])
    with pytest.raises(ConfigError, match=r"model\.teacher\.weight=-1\.0: expected a number of at least 0"):
        student_of(tiny_model, save()[1], weight=-1.0)
