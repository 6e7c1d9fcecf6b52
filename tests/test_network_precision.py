"""What runs in half precision or TF32 and what never does; the memory layout of images."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn

from jointface.errors import ConfigError
from jointface.geometry import MorphableModel
from jointface.geometry.full_precision import full_precision, set_float32_precision
from jointface.metrics.attribute_scores import AttributeMetrics
from jointface.metrics.nme import FaceNME
from jointface.modules import build_network
from jointface.modules.network_precision import apply_precision
from tests.networks import Batch, make_module, network_config, shape_labels

DECODERS = pytest.mark.parametrize("decoder", ["position_map", "morphable"])


@pytest.fixture(autouse=True)
def float32_precision() -> Iterator[None]:
    """Restores the settings of TF32."""
    matrices, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    set_float32_precision(matrices, convolutions)


# Half precision


@DECODERS
def test_layers_run_in_half_precision_and_coordinates_and_losses_do_not(
    decoder: str, tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    module = make_module(tiny_model, decoder)
    exact = module.losses(mixed_batch)
    dtypes: dict[str, torch.dtype] = {}
    for name in ("backbone", "shape_decoder.layers.0", "attribute_classifier"):
        part = module.network.get_submodule(name)
        part.register_forward_hook(lambda _, __, output, name=name: dtypes.update({name: output.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        losses = module.losses(mixed_batch)
        vertices = module.network(mixed_batch["w300lp"]["image"]).vertices
    assert vertices.dtype == torch.float32
    assert set(dtypes.values()) == {torch.bfloat16}
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.01), name
    (1000 * losses["shape"] + losses["attributes"]).backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in module.parameters() if parameter.grad is not None)


@DECODERS
def test_cameras_faces_targets_and_vertices_are_the_same_to_the_bit_under_autocast(
    decoder: str, tiny_model: MorphableModel
) -> None:
    head = build_network(network_config(decoder), ("Bald",), tiny_model).shape_decoder
    assert head is not None

    def coordinates() -> tuple[Tensor, ...]:
        points = head.target(*shape_labels(tiny_model))
        return points, head.vertices(points), tiny_model.project(*shape_labels(tiny_model))

    exact = coordinates()
    with torch.autocast("cpu", torch.bfloat16):
        rough = coordinates()
    assert all(torch.equal(one, other) for one, other in zip(exact, rough, strict=True))


def test_predictions_and_what_metrics_gather_are_float32(tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    module = make_module(tiny_model).eval()
    metrics, module.source_metrics.alpha_sources = module.source_metrics.metrics, {"celeba": "celeba"}
    metrics["val/w300lp/shape"] = FaceNME()
    metrics["val/celeba/attributes"] = AttributeMetrics(module.vocabulary.attributes, module.alpha_celeba)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        module.validation_step(mixed_batch, 0)
        prediction = module.network(mixed_batch["celeba"]["image"])
    assert prediction.vertices.dtype == prediction.logits.dtype == torch.float32
    assert metrics["val/w300lp/shape"].errors[0].dtype == torch.float32
    assert metrics["val/celeba/attributes"].logits[0].dtype == torch.float32


# TF32


def test_geometry_takes_no_tf32() -> None:
    @full_precision
    def settings(_: Tensor) -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    @full_precision
    def failure(_: Tensor) -> None:
        raise ArithmeticError

    set_float32_precision("high", convolutions=True)
    assert settings(torch.zeros(1)) == ("highest", False)
    with pytest.raises(ArithmeticError):
        failure(torch.zeros(1))
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)


@pytest.mark.parametrize(("choice", "convolutions"), [("highest", False), ("high", True), ("medium", True)])
def test_the_config_chooses_tf32_for_the_network(choice: str, convolutions: bool) -> None:
    apply_precision(Trainer(accelerator="cpu", logger=False), "32-true", choice)
    assert torch.get_float32_matmul_precision() == choice
    assert torch.backends.cudnn.allow_tf32 == convolutions


@pytest.mark.parametrize(
    ("precision", "float32_matmul_precision", "message"),
    [
        ("bf16-true", "high", "trainer.precision=bf16-true: coordinates need float32 weights and buffers, set one of"),
        ("64-true", "high", "set one of 32-true, bf16-mixed, 16-mixed"),
        ("16-mixed", "high", "trainer.precision=16-mixed needs a GPU: set trainer.precision=bf16-mixed or 32-true"),
        ("32-true", "higher", "float32_matmul_precision=higher is unknown; choose from highest, high, medium"),
    ],
)
def test_an_impossible_precision_is_refused(precision: Any, float32_matmul_precision: str, message: str) -> None:
    trainer = Trainer(accelerator="cpu", precision=precision, logger=False)
    with pytest.raises(ConfigError, match=message):
        apply_precision(trainer, precision, float32_matmul_precision)


# Memory layout


@DECODERS
@pytest.mark.parametrize("channels_last", [True, False])
def test_images_pass_the_convolutions_in_the_chosen_layout(
    decoder: str, channels_last: bool, tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    config = network_config(decoder) | {"channels_last": channels_last}
    module = make_module(tiny_model, decoder, network=config)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    seen = []
    for part in module.network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            part.register_forward_pre_hook(lambda part, inputs: seen.append((inputs[0], part.weight)))
    module.losses(mixed_batch)
    assert len(seen) > 5
    assert all(tensor.is_contiguous(memory_format=layout) for pair in seen for tensor in pair)
