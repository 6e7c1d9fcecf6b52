"""torch.compile: how often it compiles, and that it changes nothing else."""

from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from jointface.errors import ConfigError
from jointface.geometry import MorphableModel
from jointface.modules import JointFaceModule, load_model
from jointface.modules.compilation import compile_layers, require_compiler
from jointface.train import train
from tests.networks import Batch, make_module, part_of
from tests.test_training import tiny_config


@pytest.fixture(autouse=True)
def compiling() -> Iterator[None]:
    """A clean compiler; the shapes in annotations cannot check themselves while it traces."""
    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch._dynamo.reset()


def step(module: JointFaceModule, batch: Batch) -> dict[str, float]:
    losses = module.losses(batch)
    (1000 * losses["shape"] + losses["attributes"]).backward()
    return {name: loss.item() for name, loss in losses.items()}


def test_each_part_is_compiled_twice_whatever_the_batches_hold(tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    module = make_module(tiny_model)
    names = list(module.state_dict())
    graphs = CompileCounterWithBackend("eager")
    compile_layers(module.network, backend=graphs)
    assert list(module.state_dict()) == names
    step(module, part_of(mixed_batch, 2, 3))
    assert graphs.frame_count == 3
    step(module, part_of(mixed_batch, 4, 4))
    assert graphs.frame_count == 6
    for faces, shapes in [(3, 2), (5, 0), (0, 5), (8, 3), (0, 8), (2, 3)]:
        step(module, part_of(mixed_batch, faces, shapes))
    assert graphs.frame_count == 6
    step(module, part_of(mixed_batch, 4, 1))  # torch makes another graph for one row, of the head that reads it
    step(module, part_of(mixed_batch, 8, 1))
    assert graphs.frame_count == 7


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_a_machine_without_a_compiler_is_told(device: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "no-such-compiler")
    with pytest.raises(ConfigError, match=r"model.compile=true needs a compiler, looked for no-such-compiler"):
        require_compiler(torch.device(device))


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "backend"), [("position_map", "aot_eager"), ("morphable", "inductor")])
def test_compiled_layers_give_the_same_losses_and_gradients(
    decoder: str, backend: str, tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    plain, compiled = make_module(tiny_model, decoder), make_module(tiny_model, decoder)
    compile_layers(compiled.network, backend=backend)
    for faces, shapes in [(3, 2), (4, 4), (5, 0), (8, 3)]:
        part = part_of(mixed_batch, faces, shapes)
        assert step(compiled, part) == pytest.approx(step(plain, part), rel=1e-4)
        for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
            if one.grad is not None:
                torch.testing.assert_close(other.grad, one.grad, rtol=1e-2, atol=1e-2 * one.grad.abs().max().item())


@pytest.mark.slow
def test_a_compiled_run_leaves_checkpoints_like_any_other(tiny_data: Path, tmp_path: Path) -> None:
    """Also with more than one backward pass through a compiled graph: PCGrad, and gradients that are measured."""
    options = ["model.compile=true", "model/loss=pcgrad", "model.log_gradients_every_n_steps=1"]
    train(tiny_config(tiny_data, tmp_path, *options))
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert not [name for name in checkpoint["state_dict"] if "_orig_mod" in name]
    network = load_model(tmp_path / "checkpoints" / "last.ckpt")
    assert network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).logits.isfinite().all()
