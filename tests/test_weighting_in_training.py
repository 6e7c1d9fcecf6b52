"""Every weighting under Lightning: accumulation, clipping, half precision, several processes, checkpoints."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from jointface.errors import CheckpointError, ConfigError
from jointface.geometry import MorphableModel
from jointface.modules import (
    DynamicWeightAverage,
    FixedWeights,
    JointFaceModule,
    PCGrad,
    UncertaintyWeights,
    load_model,
)
from jointface.modules.task_gradients import flatten, require_separable_gradients
from jointface.modules.weighting import project_conflicting
from tests.networks import Batch, make_module, part_of

WEIGHTINGS: dict[str, Callable[[], FixedWeights]] = {
    "fixed": partial(FixedWeights, 100.0, 1.0),
    "uncertainty": partial(UncertaintyWeights, 100.0, 1.0),
    "dwa": partial(DynamicWeightAverage, 100.0, 1.0, window=2),
    "pcgrad": partial(PCGrad, 100.0, 1.0),
}
every_weighting = pytest.mark.parametrize("choice", WEIGHTINGS)


class GivenBatches(LightningDataModule):
    """A given list of training batches for each process."""

    def __init__(self, *batches_of_process: list[Batch]) -> None:
        super().__init__()
        self.batches_of_process = batches_of_process
        self.datasets: dict[str, dict[str, Any]] = {"train": {}, "val": {}, "test": {}}

    def label_sets(self, stage: str) -> dict[str, Any]:
        return {}

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        batches: Any = self.batches_of_process[self.trainer.global_rank]
        return DataLoader(batches, batch_size=None)


class Curves(Callback):
    """Keeps what is logged, step by step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.trainer: Trainer

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.steps.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def fit(module: JointFaceModule, *batches: list[Batch], ckpt_path: Path | None = None, **options: Any) -> Curves:
    """Trains for one pass over the batches."""
    curves = Curves()
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curves.trainer = Trainer(
            accelerator="cpu", callbacks=[curves], enable_model_summary=False, **{**settings, **options}
        )
        curves.trainer.fit(module, GivenBatches(*batches), ckpt_path=ckpt_path, weights_only=True)
    return curves


def module_of(model: MorphableModel, choice: str, lr: float = 1.0, **options: Any) -> JointFaceModule:
    """With plain gradient descent, so that a parameter changes by its gradient. It starts away from the mean face,
    where no shape gradient reaches the backbone, and where the tasks' gradients conflict."""
    module = make_module(model, loss=WEIGHTINGS[choice](), optimizer=partial(torch.optim.SGD, lr=lr), **options)
    torch.manual_seed(2)
    nn.init.normal_(module.network.shape_decoder.regressor.weight, std=0.03)
    return module


def vector(module: nn.Module) -> Tensor:
    """All parameters, one after the other."""
    return flatten(tuple(module.parameters())).detach()


@every_weighting
def test_every_weighting_trains_with_everything_switched_on(
    choice: str, tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    """Accumulation, clipping, bfloat16, and batches without one of the tasks."""
    module = module_of(tiny_model, choice, lr=1e-3, log_gradients_every_n_steps=1)
    before = vector(module)
    batches = [part_of(mixed_batch, *counts) for counts in [(4, 4), (8, 2), (4, 0), (0, 4), (2, 6), (8, 8)]]
    curves = fit(module, batches, accumulate_grad_batches=2, gradient_clip_val=1.0, precision="bf16-mixed")
    after = vector(module)
    assert after.isfinite().all()
    assert not torch.equal(before, after)
    names = {"train/loss", "train/loss_shape", "train/loss_attributes"}
    names |= {"train/gradient_norm_shape", "train/gradient_norm_attributes", "train/gradient_cosine"}
    if choice in ("uncertainty", "dwa"):
        names |= {"train/weight_shape", "train/weight_attributes"}
    assert set(curves.steps[-1]) == names
    assert all(torch.tensor(list(curves.steps[-1].values())).isfinite())
    assert -1 <= curves.steps[-1]["train/gradient_cosine"] <= 1


def test_gradients_are_measured_every_n_steps(tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    curves = fit(module_of(tiny_model, "fixed", lr=1e-3, log_gradients_every_n_steps=3), [mixed_batch] * 7)
    norms = [step.get("train/gradient_norm_shape") for step in curves.steps]
    assert norms[:2] == [None, None]
    assert len(set(norms[2:5])) == len(set(norms[5:7])) == 1  # repeated until the next measurement
    assert norms[2] != norms[5]
    curves = fit(module_of(tiny_model, "fixed"), [mixed_batch] * 2)
    assert not [name for name in curves.steps[-1] if "gradient" in name]


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_pcgrad_projects_the_gradient_of_all_accumulated_batches(
    precision: str, tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    """Also where a gradient scaler multiplies the losses."""
    batches = [part_of(mixed_batch, 4, 4), part_of(mixed_batch, 8, 0), part_of(mixed_batch, 2, 8)]
    expected = module_of(tiny_model, "pcgrad")
    shared = list(expected.network.backbone.parameters())
    tasks = torch.zeros(2, len(vector(expected.network.backbone)))
    for part in batches:
        losses = expected.losses(part)
        for task, loss in enumerate([100 * losses["shape"], losses["attributes"]]):
            tasks[task] += flatten(torch.autograd.grad(loss / 3, shared, retain_graph=True, materialize_grads=True))
    assert tasks[0] @ tasks[1] < 0  # they conflict

    module = module_of(tiny_model, "pcgrad")
    before = vector(module.network.backbone)
    plugins = []
    if precision == "16-mixed":
        plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]
    fit(module, batches, accumulate_grad_batches=3, plugins=plugins)
    step, projected = before - vector(module.network.backbone), project_conflicting(tasks)
    error = (step - projected).norm() / projected.norm()
    assert error < (1e-4 if precision == "32-true" else 0.1)
    assert (tasks.sum(0) - projected).norm() / projected.norm() > 0.25  # far from no projection at all


def test_settings_out_of_range_are_refused(tiny_model: MorphableModel) -> None:
    with pytest.raises(
        ConfigError, match=r"model.log_gradients_every_n_steps=-1: expected a whole number of at least 0"
    ):
        make_module(tiny_model, log_gradients_every_n_steps=-1)
    with pytest.raises(ConfigError, match=r"model.compile=reduce-overhead is unknown; choose from false"):
        make_module(tiny_model, compile_mode="reduce-overhead")  # CUDA graphs need batches of one size


def test_clipping_sees_the_projected_gradient(tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    module = module_of(tiny_model, "pcgrad")
    before = vector(module)
    fit(module, [mixed_batch], gradient_clip_val=0.01)
    assert (vector(module) - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_log_variances_are_learned_without_weight_decay(tiny_model: MorphableModel) -> None:
    module = make_module(tiny_model, loss=UncertaintyWeights(100.0, 1.0))
    (group,) = [
        group
        for group in module.configure_optimizers().param_groups
        if any(parameter is module.weighting.log_variance for parameter in group["params"])
    ]
    assert group["weight_decay"] == 0


# Several processes


@pytest.fixture(scope="module")
def shares(mixed_batch: Batch) -> tuple[list[Batch], list[Batch], list[Batch]]:
    """Two steps for two processes with unequal shares, of which one is empty; and the same samples for one process."""
    first = [part_of(mixed_batch, 5, 2), part_of(mixed_batch, 8, 3)]
    tail = {name: {key: value[5:] for key, value in part.items()} for name, part in mixed_batch.items()}
    second: list[Batch] = [{"celeba": tail["celeba"]}, {}]
    together = [
        {"celeba": {k: v[:8] for k, v in mixed_batch["celeba"].items()}, "w300lp": first[0]["w300lp"]},
        first[1],
    ]
    return first, second, together


@every_weighting
def test_two_processes_train_as_one_does_on_all_their_samples(
    choice: str, tiny_model: MorphableModel, shares: tuple[list[Batch], list[Batch], list[Batch]]
) -> None:
    """Losses, weights, gradients, and the parameters after two steps, without batch statistics."""
    *parts, together = shares
    alone = module_of(tiny_model, choice, lr=1e-2, log_gradients_every_n_steps=1).eval()
    curves = fit(alone, together)
    several = module_of(tiny_model, choice, lr=1e-2, log_gradients_every_n_steps=1).eval()
    start = vector(several)
    trainer = fit(several, *parts, strategy="ddp_fork", devices=2, use_distributed_sampler=False).trainer
    one, two = vector(alone), vector(several)
    assert (one - two).norm() < 1e-4 * (one - start).norm()
    for name, value in curves.steps[-1].items():
        assert trainer.callback_metrics[name].item() == pytest.approx(value, rel=1e-3, nan_ok=True), name


class RowsCounted(nn.SyncBatchNorm):
    """In place of batch norm over several GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        self.rows = len(x)
        return x


@pytest.mark.parametrize("decoder", ["position_map", "morphable"])
def test_batch_norm_over_processes_runs_where_no_sample_is_labelled(
    decoder: str, tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    """Processes that have labelled samples wait for this one's share of the statistics."""
    module = make_module(tiny_model, decoder)
    head = module.network.shape_decoder
    assert head is not None
    norms = [part for part in head.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.__class__ = RowsCounted
    losses = module.losses({name: part for name, part in mixed_batch.items() if "camera" not in part})
    assert losses["shape"] == 0
    assert [norm.rows for norm in norms] == [0] * len(norms)
    losses["shape"].backward()
    assert all(not p.grad.any() for p in head.parameters() if p.grad is not None)


def test_processes_exchange_the_statistics_of_batch_norm_and_no_constants(
    tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    """The basis of the morphable model alone would be tens of megabytes a step."""
    module = module_of(tiny_model, "fixed", lr=1e-3)
    fit(module, [mixed_batch])
    ignored = set(module._ddp_params_and_buffers_to_ignore)
    exchanged = {name for name, _ in module.named_buffers()} - ignored
    assert {name.rsplit(".", 1)[-1] for name in exchanged} == {"running_mean", "running_var", "num_batches_tracked"}
    assert not ignored & {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (FSDPStrategy(), "under FSDPStrategy: set trainer.strategy=ddp, or model.log_gradients_every_n_steps=0 and"),
        (DDPStrategy(static_graph=True), "under DDPStrategy with static_graph: set"),
    ],
)
def test_strategies_that_hide_the_tasks_gradients_are_refused(strategy: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_separable_gradients(strategy)
    require_separable_gradients(DDPStrategy())
    require_separable_gradients(SingleDeviceStrategy())


# Checkpoints


@pytest.mark.parametrize("choice", ["uncertainty", "dwa"])
def test_a_resumed_training_continues_with_its_weights(
    choice: str, tiny_model: MorphableModel, mixed_batch: Batch, tmp_path: Path
) -> None:
    """Bit for bit, from the middle of a window."""
    batches = [part_of(mixed_batch, *counts) for counts in [(4, 4), (8, 2), (4, 8), (2, 4), (5, 5), (8, 8)]]
    straight, stopped, resumed = (module_of(tiny_model, choice, lr=1e-3) for _ in range(3))
    curves = fit(straight, batches)
    fit(stopped, batches[:3], enable_checkpointing=True, default_root_dir=tmp_path)
    (saved,) = tmp_path.rglob("*.ckpt")
    curves_again = fit(resumed, batches[3:], ckpt_path=saved, max_epochs=2)
    assert curves_again.steps[-1] == curves.steps[-1]
    for name, value in straight.state_dict().items():
        assert (
            value == resumed.state_dict()[name] if "extra" in name else torch.equal(value, resumed.state_dict()[name])
        )
    weights = [step["train/weight_shape"] for step in curves.steps]
    assert len(set(weights)) > 1


def test_learned_weights_are_no_part_of_the_network(
    tiny_model: MorphableModel, mixed_batch: Batch, tmp_path: Path
) -> None:
    trained = module_of(tiny_model, "uncertainty")
    fit(trained, [mixed_batch], enable_checkpointing=True, default_root_dir=tmp_path)
    (saved,) = tmp_path.rglob("*.ckpt")
    checkpoint = torch.load(saved, weights_only=True)
    assert "weighting.log_variance" in checkpoint["state_dict"]
    assert "weighting" not in str(checkpoint["jointface"])
    assert load_model(saved).attributes == trained.network.attributes
    with pytest.raises(CheckpointError, match=r"another choice of model/loss") as caught:
        fit(module_of(tiny_model, "fixed"), [mixed_batch], ckpt_path=saved)
    assert "\n" not in str(caught.value)
