"""Trains: `python -m jointface.train experiment=joint_celeba_300wlp scale=small paths.data_dir=DATA`."""

import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import LightningModule, Trainer, seed_everything
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from jointface.callbacks import WeightAverage, raise_if_pruned
from jointface.command_line import entry_point, remove_unused_folder
from jointface.datamodules import JointDataModule
from jointface.datamodules.loading import explained_loader_failures
from jointface.errors import ConfigError, RunStopped
from jointface.modules import JointFaceModule
from jointface.modules.checkpoint import load_model, read_checkpoint
from jointface.modules.compilation import require_compiler
from jointface.modules.network_precision import apply_precision
from jointface.running.checks import validate_batch_norm, validate_config, validate_labels
from jointface.running.dry_run import describe_run
from jointface.running.folder import require_own_folder, write_config
from jointface.running.metrics_csv import MetricsCSV
from jointface.running.resuming import AUTO, LAST, metrics_if_finished, resolve_checkpoint, validate_checkpoint
from jointface.running.slurm import requeue
from jointface.running.stop_signals import AHEAD_OF_LIMIT
from jointface.running.sweep_jobs import one_job
from jointface.running.wandb_logger import finished_dashboards
from jointface.running.whole_checkpoints import WholeCheckpoints

log = logging.getLogger("jointface.train")  # __name__ would be "__main__" under `python -m`

# Runs are measured in steps: the sources are endless streams, and their batches are already split among processes.
IN_STEPS = {
    "max_epochs": -1, "check_val_every_n_epoch": None, "use_distributed_sampler": False, "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}  # fmt: skip
NOISE = (  # warnings that libraries give at every start and that users cannot act on
    ".*Experiment logs directory .* exists and is not empty",  # it holds config.yaml
    ".*Checkpoint directory .* exists and is not empty",  # in a resumed run
    ".*does not have many workers",
    ".*It is recommended to use .self.log.*sync_dist=True",  # metrics and losses are already averaged
    ".*treespec, LeafSpec",
    ".*Using padding='same' with even kernel lengths",
    ".*number of training batches .* is smaller than the logging interval",
    ".*The dirpath has changed from",  # in a run that starts from another run's checkpoint
    ".*AMP with fp16 is not supported on CPU",  # an error here
)


@entry_point("train")
def main(config: DictConfig) -> dict[str, float]:
    """Trains and tests the model in the config."""
    metrics = train(config)
    if config.dry_run or not config.keep_files:
        remove_unused_folder()
    return metrics


@explained_loader_failures()
def train(config: DictConfig) -> dict[str, float]:
    """Trains the config's model and tests its best checkpoint; writes config, metrics, checkpoints and figures to
    `paths.run_dir`. With `dry_run`, it only prints what it would do.

    Returns:
        The test metrics, `test/data set/metric`, and the best value of the metric that chose the checkpoint.

    Raises:
        ConfigError: the config's parts do not fit together.
        DataError: data is missing or broken.
        CheckpointError: the run cannot resume from `checkpoint`, or a checkpoint cannot be saved.
        DivergedError: a loss or gradient was not finite.
        RunStopped: a signal asked the run to stop.
        TrialPruned: the run is a trial that its study has pruned.
    """
    with ExitStack() as stack:
        if not config.keep_files:
            config.paths.run_dir = stack.enter_context(TemporaryDirectory(prefix="jointface_"))
        stack.enter_context(finished_dashboards())
        stack.enter_context(one_job())
        given = begin(config)
        if given == AUTO and not config.dry_run and (finished := metrics_if_finished(config)) is not None:
            log.info("The run in %s has finished: nothing is left to do", config.paths.run_dir)
            return finished
        trainer = build_trainer(config)
        datamodule = open_data(config, trainer)
        module = build_module(config, datamodule)
        if isinstance(module, JointFaceModule):
            processes = trainer.world_size if config.trainer.get("sync_batchnorm") else 1
            validate_batch_norm(module.network, datamodule, processes)
        start = validate_checkpoint(config, module) if config.checkpoint else None
        if config.dry_run:
            describe_run(config, datamodule, getattr(module, "network", module), trainer.world_size)
            return {}
        write_config(Path(config.paths.run_dir), config, new=given is None)
        try:
            fit(config, trainer, module, datamodule, start, requeues=given == AUTO)
            return test(config, trainer, module, datamodule)
        except RuntimeError as error:
            if not str(error).startswith("Early stopping conditioned on metric"):
                raise
            raise ConfigError(f"callbacks.early_stopping.monitor: {shorten(str(error), 300)}") from error
        except MisconfigurationException as error:
            raise ConfigError(shorten(str(error), 300)) from error


def begin(config: DictConfig) -> str | None:
    """Resolves and checks the config, checks the run's folder, and seeds. Returns `checkpoint` as the user gave it."""
    quiet_libraries()
    OmegaConf.resolve(config)
    validate_config(config)
    run_dir, given = Path(config.paths.run_dir), config.checkpoint
    require_own_folder(run_dir, given)
    config.checkpoint = resolve_checkpoint(run_dir, given)
    if config.checkpoint:
        read_checkpoint(config.checkpoint, wanted="last.ckpt")  # refuses a wrong path before any data is opened
    if config.model.get("teacher"):
        load_model(config.model.teacher.checkpoint)  # the same
    if config.model.get("weights") and not config.checkpoint:
        load_model(config.model.weights)
    seed_everything(config.seed, workers=True, verbose=False)
    return given


def quiet_libraries() -> None:
    """Silences start-up warnings of libraries, and the logs of all processes but the first."""
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        logging.getLogger("jointface").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message)


def build_trainer(config: DictConfig) -> Trainer:
    """Builds the config's trainer with its callbacks and loggers.

    Raises:
        ConfigError: devices or precision are not available, or Lightning cannot do what the config asks for.
    """
    callbacks, loggers = [], []
    if not config.dry_run:
        callbacks = [callback for callback in instantiate(config.callbacks).values() if callback is not None]
        loggers = list(instantiate(config.logger).values())
    callbacks.sort(key=lambda callback: isinstance(callback, WeightAverage))  # must end validations last
    torchrun = TorchElasticEnvironment.detect()  # takes precedence, also in a SLURM job
    if config.trainer.devices == "auto" and torchrun:
        config.trainer.devices = int(os.environ["LOCAL_WORLD_SIZE"])  # on CPUs, Lightning would use one
    wanted = f"trainer.accelerator={config.trainer.accelerator} trainer.devices={config.trainer.devices}"
    plugins = list(instantiate(config.trainer.get("plugins") or []))
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeCheckpoints())
    if SLURMEnvironment.detect() and not torchrun and not any(isinstance(p, ClusterEnvironment) for p in plugins):
        plugins.append(SLURMEnvironment(auto_requeue=False))  # done by LastCheckpoint and `requeue`
    fixed = {**IN_STEPS, "default_root_dir": config.paths.run_dir, "plugins": plugins}
    try:
        trainer: Trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, **fixed)
    except InstantiationException as error:
        if not isinstance(error.__cause__, MisconfigurationException | RuntimeError | TypeError | ValueError):
            raise
        reason = " ".join(str(error.__cause__).split())
        raise ConfigError(f"cannot build a trainer with {wanted}: {reason} (without a GPU: trainer=cpu)") from error
    if torchrun and trainer.num_devices * trainer.num_nodes != int(os.environ["WORLD_SIZE"]):
        raise ConfigError(
            f"{wanted} on {trainer.num_nodes} nodes: torchrun started {os.environ['WORLD_SIZE']} processes, so set "
            "trainer=ddp, and +trainer.num_nodes to the number of its nodes"
        )
    if isinstance(trainer.accelerator, CPUAccelerator):
        _validate_cpu_trainer(config, trainer, wanted)
    apply_precision(trainer, config.trainer.precision, config.float32_matmul_precision)
    return trainer


def _validate_cpu_trainer(config: DictConfig, trainer: Trainer, wanted: str) -> None:
    if config.trainer.accelerator == "auto":
        log.warning("There is no GPU here: training on the CPU; trainer=cpu does so without this warning")
    if trainer.num_devices == 1:
        return
    if config.trainer.accelerator != "cpu":
        raise ConfigError(f"{wanted}: there is no GPU here; trainer=cpu starts that many processes on CPU cores")
    if trainer.num_devices > (cores := os.cpu_count() or 1):
        raise ConfigError(f"{wanted}: this machine has {cores} CPU cores")
    if config.trainer.get("sync_batchnorm"):
        raise ConfigError(f"{wanted}: torch synchronises batch norm only on GPUs, set trainer.sync_batchnorm=false")


def build_data(config: DictConfig) -> JointDataModule:
    """Builds the config's data module, which has not opened any data set yet."""
    run_settings = {"image_size": config.image_size, "seed": config.seed, "num_workers": config.num_workers}
    datamodule: JointDataModule = instantiate(
        config.data, **run_settings, packed_dir=config.paths.packed_dir, _convert_="all"
    )
    return datamodule


def open_data(config: DictConfig, trainer: Trainer) -> JointDataModule:
    """Builds the data module and opens all data sets, so that a missing test set is reported before the training."""
    datamodule = build_data(config)
    datamodule.setup("fit")
    datamodule.setup("test")
    if "_target_" not in config.model:
        validate_labels(config, datamodule)
    if datamodule.compiles_drawing():
        require_compiler(trainer.strategy.root_device, "drawing.compile")
    return datamodule


def build_module(config: DictConfig, datamodule: JointDataModule) -> LightningModule:
    """Builds the LightningModule: for the label sets of the data, or the one that `model` names by `_target_`."""
    model = config.model
    if "_target_" in model:
        module: LightningModule = instantiate(model)
        return module
    label_sets = datamodule.label_sets() if model.attribute_classifier else {}
    morphable_model: Any = instantiate(config.morphable_model) if model.shape_decoder else None
    label_models = datamodule.label_models() if morphable_model else {}
    own = morphable_model.content_hash() if label_models else ""
    label_models = {name: other for name, other in label_models.items() if other.content_hash() != own}
    needed = {"model/auxiliary": model.auxiliary, "model.prior_weight": model.prior_weight and morphable_model}
    for key, value in needed.items():
        if value and not datamodule.shape_sources() - set(label_models):
            raise ConfigError(
                f"{key} measures coefficients in units of labelled faces: add a source whose 3D labels refer to "
                "morphable_model"
            )
    return JointFaceModule(
        network=network_config(config),
        loss=instantiate(model.loss),
        optimizer=instantiate(model.optimizer),
        scheduler=instantiate(model.scheduler) if model.scheduler else None,
        label_sets=label_sets,
        alpha={name: datamodule.datasets["train"][name].alpha() for name in label_sets},
        morphable_model=morphable_model,
        contour=model.contour,
        landmark_weight=model.landmark_weight,
        part_weights=model.part_weights,
        label_models=label_models,
        foreign_labels=model.foreign_labels,
        rms=model.rms,
        detach_points=model.detach_points,
        prior_weight=model.prior_weight,
        auxiliary=instantiate(model.auxiliary) if model.auxiliary else None,
        people=datamodule.people() if model.auxiliary else None,
        shuffle_attributes=model.shuffle_attributes,
        log_gradients_every_n_steps=model.log_gradients_every_n_steps or 0,
        compile_mode="default" if model.compile is True else model.compile or None,
        teacher=instantiate(model.teacher) if model.teacher else None,
        weights=None if config.checkpoint else model.weights,
    )


def network_config(config: DictConfig) -> dict[str, Any]:
    """The config for `build_network`, in plain containers."""
    model = OmegaConf.to_container(config.model, resolve=True)
    assert isinstance(model, dict)
    parts = ("channels_last", "backbone", "shape_decoder", "attribute_classifier", "landmark_uncertainty")
    return {"image_size": config.image_size, **{part: model[part] for part in parts}}


def fit(
    config: DictConfig, trainer: Trainer, module: LightningModule, datamodule: JointDataModule, start: int | None,
    requeues: bool,
) -> None:  # fmt: skip
    """Trains from scratch or from the config's checkpoint.

    Args:
        start: step of the checkpoint, from which metrics.csv is continued; None without a checkpoint.
        requeues: whether the same command resumes the run, so that a SLURM job may be put back into the queue.

    Raises:
        RunStopped: a signal asked the run to stop; `last.ckpt` holds the last step.
        DivergedError: a loss or gradient was not finite.
        TrialPruned: the run is a trial that its study has pruned.
    """
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV) and start is not None:
            logger.resume_at_step(start)
    log.info("Training in %s", config.paths.run_dir)
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=config.checkpoint, weights_only=True)
    except SystemExit as end:  # raised by Lightning on Ctrl-C before the first step
        raise KeyboardInterrupt from end
    except RunStopped as stop:
        if stop.signal in AHEAD_OF_LIMIT and requeues:
            requeue()
        raise
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            reason = str(callback.stopping_reason_message).removesuffix(" Signaling Trainer to stop.")
            log.info("Stopped early, after step %d: %s", trainer.global_step, reason)
    raise_if_pruned(trainer)


def test(
    config: DictConfig, trainer: Trainer, module: LightningModule, datamodule: JointDataModule
) -> dict[str, float]:
    """Tests best.ckpt and prints the result beside the trivial predictors. Returns the metrics, see `train`.

    Raises:
        ConfigError: the training ended before its first validation, for instance by trainer.max_time.
    """
    checkpoint = trainer.checkpoint_callback  # the first one keeps the best
    assert isinstance(checkpoint, ModelCheckpoint)
    assert checkpoint.monitor is not None
    if checkpoint.best_model_score is None:
        raise ConfigError(
            f"the training ended after step {trainer.global_step}, before its first validation, so there is no "
            "checkpoint to test: let it run longer or lower trainer.val_check_interval; to resume, add checkpoint="
            f"{Path(config.paths.run_dir) / LAST}"
        )
    chosen = {checkpoint.monitor: checkpoint.best_model_score.item()}
    if not datamodule.datasets["test"] or trainer.limit_test_batches == 0:
        return chosen
    best = trainer.strategy.broadcast(checkpoint.best_model_path)
    trainer.test(module, datamodule=datamodule, ckpt_path=best, weights_only=True, verbose=False)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    if trainer.is_global_zero:
        Console().print(results_table(metrics))
    run_dir = Path(config.paths.run_dir)
    if config.keep_files:
        log.info("Config, metrics, checkpoints and figures are in %s", run_dir)
        if (profile := run_dir / "fit-profile.txt").is_file():
            log.info("The profile is %s", profile)
    else:
        log.info("Training, validation and test have finished; no files are kept (keep_files=false)")
    return metrics | chosen


def results_table(metrics: Mapping[str, float]) -> Table:
    """A table of the test's mean metrics beside those of the trivial predictors (mean face, majority class)."""
    table = Table(title="Test of checkpoints/best.ckpt")
    for title in ("data set", "metric", "model", "trivial predictor"):
        table.add_column(title, justify="left" if title in ("data set", "metric") else "right")
    for name, value in metrics.items():
        source, metric = name.removeprefix("test/").split("/", 1)
        if "/" in metric:
            continue
        trivial = metrics.get(f"test/{source}/trivial/{metric}")
        table.add_row(source, metric, f"{value:.4f}", "" if trivial is None else f"{trivial:.4f}")
    return table


if __name__ == "__main__":
    main()
