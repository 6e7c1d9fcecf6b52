"""Backbones, heads and the network that they make."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoBackbone, ResNetConfig

from jointface.errors import ConfigError
from jointface.geometry import MorphableModel, camera_from_pose, center_depth, crop_camera, similarity
from jointface.modules import (
    MorphableDecoder,
    PositionMapDecoder,
    PRNetEncoder,
    ShapeDecoder,
    TransformersBackbone,
    build_network,
    warmup_cosine,
)
from jointface.modules.backbones import feature_shape
from jointface.modules.shape_decoders import frontal_face
from tests.test_morphable_model import random_coefficients

TINY_RESNET = {"layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}


def network_config(decoder: str | None, classifier: bool = True, image_size: int = 64) -> dict[str, Any]:
    decoders = {
        "position_map": {"_target_": "jointface.modules.PositionMapDecoder", "channels": 16},
        "morphable": {"_target_": "jointface.modules.MorphableDecoder", "hidden": 64},
    }
    return {
        "image_size": image_size,
        "channels_last": True,
        "backbone": {"_target_": "jointface.modules.TransformersBackbone", "model_type": "resnet", **TINY_RESNET},
        "shape_decoder": decoders[decoder] if decoder else None,
        "attribute_classifier": {"_target_": "jointface.modules.AttributeClassifier"} if classifier else None,
    }


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("resnet", TINY_RESNET),
        ("convnextv2", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
        ("hgnet_v2", {}),
        ("dinov2", {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56}),
    ],
)
def test_backbones_come_from_transformers(model_type: str, architecture: dict[str, Any]) -> None:
    channels, height, width = feature_shape(TransformersBackbone(model_type, **architecture), 56)
    assert channels > 0
    assert height == width > 0


def test_pretrained_weights_come_from_a_folder_and_are_not_needed_again(tmp_path: Path) -> None:
    AutoBackbone.from_config(ResNetConfig(**TINY_RESNET)).save_pretrained(tmp_path)
    backbone = TransformersBackbone(pretrained=str(tmp_path))
    plain = backbone.plain_config()
    del plain["_target_"]
    again = TransformersBackbone(**plain)
    again.load_state_dict(backbone.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(again.eval()(images), backbone.eval()(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_type": "resnett"}, "cannot build model_type=resnett"),
        ({"model_type": "resnet", "depth": [1]}, "resnet has no setting depth"),
        pytest.param(
            {"pretrained": "nowhere/at-all"}, "cannot build pretrained=nowhere/at-all", marks=pytest.mark.slow
        ),
    ],
)
def test_backbones_that_do_not_exist_are_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TransformersBackbone(**arguments)
    assert "\n" not in str(caught.value)


def test_prnets_encoder_has_its_published_shape() -> None:
    encoder = PRNetEncoder(width=16)
    assert feature_shape(encoder, 256) == (512, 8, 8)
    convolutions = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (4, 4)]
    assert [c.stride[0] for c in convolutions] == [1] + [2, 1] * 5


def decoder_of(kind: str, model: MorphableModel, image_size: int = 64) -> ShapeDecoder:
    if kind == "position_map":
        return PositionMapDecoder((24, 4, 4), model, image_size, channels=16)
    return MorphableDecoder((24, 4, 4), model, image_size)


def labels(model: MorphableModel, count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    camera = camera_from_pose(torch.tensor([0.1, 0.4, -0.1, 32.0, 32.0, -20.0, 2.5e-4]), 64)
    flipped = crop_camera(camera, similarity(1, 0, (0, 0), True, 64))
    return *random_coefficients(model, count), torch.stack([camera, flipped] * count)[:count]


@pytest.mark.parametrize("kind", ["position_map", "morphable"])
def test_a_fresh_decoder_predicts_the_mean_face_in_the_middle(kind: str, tiny_model: MorphableModel) -> None:
    decoder = decoder_of(kind, tiny_model)
    vertices = decoder.vertices(decoder(torch.randn(2, 24, 4, 4)))
    error = (vertices - frontal_face(tiny_model, 64)).norm(dim=-1)
    assert error.mean() < 0.1
    landmarks = vertices[0, tiny_model.landmarks68]
    low, high = landmarks.amin(0), landmarks.amax(0)
    torch.testing.assert_close((low + high)[:2] / 2, torch.full((2,), 31.5), atol=0.5, rtol=0)
    assert (high - low)[:2].mean().item() == pytest.approx(64 / 1.58, rel=0.02)


@pytest.mark.parametrize("kind", ["position_map", "morphable"])
def test_the_targets_are_the_labelled_face(kind: str, tiny_model: MorphableModel) -> None:
    decoder, (shape, expression, camera) = decoder_of(kind, tiny_model), labels(tiny_model)
    vertices = decoder.vertices(decoder.target(shape, expression, camera))
    expected = center_depth(tiny_model.project(shape, expression, camera))
    error = (vertices - expected).norm(dim=-1)
    assert error.mean() < (0.3 if kind == "position_map" else 1e-3)  # the map is as coarse as the mesh here
    assert decoder.target(shape, expression, camera).abs().max() < 2  # divided by the crop's size


@pytest.mark.parametrize("kind", ["position_map", "morphable"])
def test_the_weights_are_prnets_on_landmarks_organs_face_and_neck(kind: str, tiny_model: MorphableModel) -> None:
    decoder = decoder_of(kind, tiny_model)
    points = decoder.target(*labels(tiny_model))
    assert decoder.weights.shape == points.shape[1:2]
    assert set(decoder.weights.tolist()) >= {16.0, 4.0, 3.0, 0.0}
    # Inside the map two landmarks can fall into one pixel.
    assert 50 <= (decoder.weights == 16).sum() <= 68


def test_region_weights_are_a_choice(tiny_model: MorphableModel) -> None:
    weights = {"landmarks": 10.0, "organs": 2.0, "face": 1.0, "neck": 0.5}
    for decoder in (
        PositionMapDecoder((24, 4, 4), tiny_model, 64, channels=16, region_weights=weights),
        MorphableDecoder((24, 4, 4), tiny_model, 64, region_weights=weights),
    ):
        assert decoder.weights.max().item() == pytest.approx(10)
        assert decoder.weights.min().item() == pytest.approx(0.5)


def test_a_map_that_the_features_cannot_reach_is_refused(tiny_model: MorphableModel) -> None:
    with pytest.raises(ConfigError, match=r"a map of side 96 is no power of two times the 4 x 4 features"):
        PositionMapDecoder((24, 4, 4), tiny_model, 96)


@pytest.mark.parametrize("decoder", ["position_map", "morphable", None])
@pytest.mark.parametrize("classifier", [True, False])
def test_the_network_has_the_heads_it_is_asked_for(
    decoder: str | None, classifier: bool, tiny_model: MorphableModel
) -> None:
    network = build_network(network_config(decoder, classifier), ("Bald", "Young"), tiny_model)
    prediction = network.eval()(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert (prediction.vertices is None) == (decoder is None)
    assert (prediction.logits is None) == (not classifier)
    if prediction.vertices is not None:
        assert prediction.vertices.shape == (2, len(tiny_model.mean), 3)
    if prediction.logits is not None:
        assert prediction.logits.shape == (2, 2)


def test_parts_that_do_not_fit_are_refused_in_one_line(tiny_model: MorphableModel) -> None:
    with pytest.raises(ConfigError, match="needs a morphable model"):
        build_network(network_config("morphable"), ("Bald",), None)
    with pytest.raises(ConfigError, match="needs a source that labels attributes"):
        build_network(network_config("morphable"), (), tiny_model)
    config = network_config("morphable")
    config["attribute_classifier"]["droput"] = 0.1
    with pytest.raises(ConfigError, match=r"model.attribute_classifier cannot be built: .*droput") as caught:
        build_network(config, ("Bald",), tiny_model)
    assert "\n" not in str(caught.value)


def test_the_schedule_warms_up_then_falls_to_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, total_steps=100, warmup_fraction=0.1)
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0)
