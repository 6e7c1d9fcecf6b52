"""Backbones, heads and the network that they make."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoBackbone, ResNetConfig

from jointface.errors import ConfigError
from jointface.geometry import MorphableModel, center_depth
from jointface.modules import (
    MorphableDecoder,
    PositionMapDecoder,
    PRNetEncoder,
    ShapeDecoder,
    TransformersBackbone,
    build_network,
)
from jointface.modules.backbones import feature_shape
from jointface.modules.shape_decoders import frontal_face
from tests.networks import DECODERS, TINY_RESNET, network_config, shape_labels


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


def test_pretrained_weights_come_from_a_folder_that_is_not_needed_again(tmp_path: Path) -> None:
    AutoBackbone.from_config(ResNetConfig(**TINY_RESNET)).save_pretrained(tmp_path)
    backbone = TransformersBackbone(pretrained=str(tmp_path))
    plain = {key: value for key, value in backbone.plain_config().items() if key != "_target_"}
    rebuilt = TransformersBackbone(**plain)
    rebuilt.load_state_dict(backbone.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(rebuilt.eval()(images), backbone.eval()(images))


def test_further_stages_add_their_means_which_the_shape_decoder_does_not_see(tiny_model: MorphableModel) -> None:
    config = network_config("morphable")
    config["backbone"] |= {"out_indices": [1, 2]}
    network = build_network(config, ("Male",), tiny_model).eval()
    features = network.features(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    first, last = network.backbone.model(torch.randn(2, 3, 64, 64)).feature_maps
    assert features.shape[1] == last.shape[1] + first.shape[1]
    means = features[:, last.shape[1] :]
    assert torch.equal(means, means[..., :1, :1].expand_as(means))
    changed = features.clone()
    changed[:, last.shape[1] :] = 7.0
    assert network.shape_decoder is not None
    assert network.attribute_classifier is not None
    assert torch.equal(network.shape_decoder(features), network.shape_decoder(changed))
    assert not torch.equal(network.attribute_classifier(features), network.attribute_classifier(changed))


def test_with_group_norm_an_image_does_not_depend_on_the_others_of_its_mini_batch() -> None:
    backbone = TransformersBackbone("resnet", norm="group", **TINY_RESNET).train()
    images = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(backbone(images)[:1], backbone(images[:1]), rtol=1e-3, atol=1e-4)
    with pytest.raises(ConfigError, match=r"model\.backbone\.norm=layer is unknown; choose from batch, group"):
        TransformersBackbone("resnet", norm="layer", **TINY_RESNET)


def test_prnets_encoder_has_its_published_shape() -> None:
    encoder = PRNetEncoder(width=16)
    assert feature_shape(encoder, 256) == (512, 8, 8)
    convolutions = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (4, 4)]
    assert [c.stride[0] for c in convolutions] == [1] + [2, 1] * 5


@pytest.fixture(scope="module", params=["position_map", "morphable", "pooled"])
def decoder(request: pytest.FixtureRequest, tiny_model: MorphableModel) -> ShapeDecoder:
    if request.param == "position_map":
        return PositionMapDecoder((24, 4, 4), tiny_model, 64, channels=16)
    return MorphableDecoder((24, 4, 4), tiny_model, 64, pooled=request.param == "pooled")


def test_a_pooled_decoder_reads_the_mean_of_every_feature_beside_its_hidden_layer(tiny_model: MorphableModel) -> None:
    model = copy.deepcopy(tiny_model)  # which other tests use
    decoder = MorphableDecoder((24, 4, 4), model, 64, hidden=32, pooled=True).eval().double()
    torch.nn.init.normal_(decoder.regressor.weight[:, 32:])
    features = torch.randn(2, 24, 4, 4, dtype=torch.float64)
    identity, *_ = decoder.outputs(features)
    expected = features.mean((2, 3)) @ decoder.regressor.weight[9 : 9 + tiny_model.num_shape, 32:].T
    torch.testing.assert_close(identity, expected * decoder.unit[: tiny_model.num_shape])


def test_an_untrained_decoder_predicts_the_mean_face_in_the_middle(
    decoder: ShapeDecoder, tiny_model: MorphableModel
) -> None:
    vertices = decoder.vertices(decoder(torch.randn(2, 24, 4, 4)))
    assert (vertices - frontal_face(tiny_model, 64)).norm(dim=-1).mean() < 0.1
    landmarks = vertices[0, tiny_model.landmarks68]
    low, high = landmarks.amin(0), landmarks.amax(0)
    torch.testing.assert_close((low + high)[:2] / 2, torch.full((2,), 31.5), atol=0.5, rtol=0)
    assert (high - low)[:2].mean().item() == pytest.approx(64 / 1.58, rel=0.02)


def test_the_targets_are_the_labelled_face_divided_by_the_crops_size(
    decoder: ShapeDecoder, tiny_model: MorphableModel
) -> None:
    shape, expression, camera = shape_labels(tiny_model)
    points = decoder.target(shape, expression, camera)
    error = decoder.vertices(points) - center_depth(tiny_model.project(shape, expression, camera))
    # The map is as coarse as the tiny mesh.
    assert error.norm(dim=-1).mean() < (0.3 if isinstance(decoder, PositionMapDecoder) else 1e-3)
    assert points.abs().max() < 2


def test_the_weights_are_prnets_on_landmarks_organs_face_and_neck(
    decoder: ShapeDecoder, tiny_model: MorphableModel
) -> None:
    assert decoder.weights.shape == decoder.target(*shape_labels(tiny_model)).shape[1:2]
    assert set(decoder.weights.tolist()) >= {16.0, 4.0, 3.0, 0.0}
    assert 50 <= (decoder.weights == 16).sum() <= 68  # in the map two landmarks can share a pixel


def test_single_region_weights_can_be_changed(tiny_model: MorphableModel) -> None:
    weights = {"landmarks": 10.0, "neck": 0.5}
    for decoder in (
        PositionMapDecoder((24, 4, 4), tiny_model, 64, channels=16, region_weights=weights),
        MorphableDecoder((24, 4, 4), tiny_model, 64, region_weights=weights),
    ):
        assert set(decoder.weights.tolist()) >= {10.0, 4.0, 3.0, 0.5}
        assert decoder.weights.min().item() == pytest.approx(0.5)
        assert decoder.weights.max().item() == pytest.approx(10)


@pytest.mark.parametrize("decoder", ["position_map", "morphable", None])
@pytest.mark.parametrize("classifier", [True, False])
def test_the_network_has_the_heads_of_its_config(
    decoder: str | None, classifier: bool, tiny_model: MorphableModel
) -> None:
    network = build_network(network_config(decoder, classifier), ("Bald", "Young"), tiny_model)
    vertices, logits = network.eval()(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert (None if vertices is None else vertices.shape) == ((2, len(tiny_model.mean), 3) if decoder else None)
    assert (None if logits is None else logits.shape) == ((2, 2) if classifier else None)


def built(part: str, **settings: Any) -> dict[str, Any]:
    """A network config in which one part has further settings."""
    config = network_config("morphable")
    return {**config, part: {**({} if "_target_" in settings else config[part]), **settings}}


@pytest.mark.parametrize(
    ("config", "attributes", "message"),
    [
        (network_config("morphable"), (), "needs a source that labels attributes"),
        (built("attribute_classifier", droput=0.1), ("Bald",), r"attribute_classifier cannot be built: .*droput"),
        (built("shape_decoder", region_weights={"ears": 1}), ("Bald",), r"shape_decoder cannot be built: .*ears"),
        (
            built("shape_decoder", **DECODERS["position_map"], map_size=96), ("Bald",),
            "map side 96 is not a power of two times the 8 x 8 features",
        ),
        (built("backbone", model_type="resnett"), ("Bald",), "transformers cannot build model_type=resnett"),
        (built("backbone", depth=[1]), ("Bald",), "resnet has no setting depth"),
        pytest.param(
            built("backbone", pretrained="nowhere/at-all"), ("Bald",), "cannot build pretrained=nowhere/at-all",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_built_is_refused_in_one_line(
    config: dict[str, Any], attributes: tuple[str, ...], message: str, tiny_model: MorphableModel
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_network(config, attributes, tiny_model)
    assert "\n" not in str(caught.value)


def test_a_shape_decoder_needs_a_morphable_model() -> None:
    with pytest.raises(ConfigError, match="needs a morphable model"):
        build_network(network_config("morphable"), ("Bald",), None)
