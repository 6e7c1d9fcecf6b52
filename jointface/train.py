"""Trains: `python -m jointface.train experiment=joint_celeba_300wlp scale=small paths.data_dir=DATA`."""

import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from jointface.callbacks import MetricsCSV, WeightAverage, finished_dashboards, raise_if_pruned
from jointface.callbacks.ema import KEY as TRAINING_WEIGHTS
from jointface.command_line import entry_point, remove_unused_folder
from jointface.datamodules import JointDataModule
from jointface.errors import ConfigError, DataError, RunStopped
from jointface.modules import JointFaceModule
from jointface.modules.checkpoint import read_checkpoint, require_training_state
from jointface.modules.compilation import require_compiler
from jointface.modules.precision import apply_precision
from jointface.running.dry_run import describe_run
from jointface.running.folder import AUTO, checkpoint_to_go_on_from, require_own_folder, write_config
from jointface.running.slurm import requeue
from jointface.running.stop_signals import AHEAD_OF_LIMIT
from jointface.running.sweep_jobs import one_job

log = logging.getLogger(__name__)


def train(config: DictConfig) -> dict[str, float]:
    """Trains the config's model and tests its best checkpoint; leaves config, metrics, checkpoints and figures in
    `paths.run_dir`. With `dry_run` it only says what it would do.

    Returns:
        The metrics of the test, `test/data set/metric`, and the best value of the metric that chose the checkpoint.

    Raises:
        ConfigError: the config's parts do not fit together.
        DataError: data is missing or broken.
        CheckpointError: `checkpoint` cannot be gone on from, or a checkpoint cannot be saved.
        DivergedError: a loss or gradient was not finite.
        RunStopped: a signal asked the run to stop.
        TrialPruned: the run is a trial of a study, which gave it up.
    """
    with ExitStack() as stack:
        if not config.get("keep_files", True):
            config.paths.run_dir = stack.enter_context(TemporaryDirectory(prefix="jointface_"))
        stack.enter_context(finished_dashboards())
        stack.enter_context(one_job())
        return _train(config)


def _train(config: DictConfig) -> dict[str, float]:
    quiet_libraries()
    OmegaConf.resolve(config)
    require_sense(config)
    run_dir, given = Path(config.paths.run_dir), config.checkpoint
    require_own_folder(run_dir, given)
    config.checkpoint = checkpoint_to_go_on_from(run_dir, given)
    seed_everything(config.seed, workers=True, verbose=False)
    trainer = build_trainer(config)
    datamodule: JointDataModule = instantiate(config.data)
    # The test data too is opened now: better to hear of a missing folder before the training than after it.
    datamodule.setup("fit")
    datamodule.setup("test")
    require_labels(config, datamodule)
    if datamodule.compiles_drawing():
        require_compiler(trainer.strategy.root_device, "drawing.compile")
    module = build_module(config, datamodule)
    if config.checkpoint:
        start = accept_checkpoint(config, module)
    if config.get("dry_run"):
        describe_run(config, datamodule, module.network, trainer.world_size)
        return {}
    write_config(run_dir, config, new=given is None)
    if config.checkpoint:
        keep_rows(trainer, start)
    log.info("Training in %s", run_dir)
    try:
        fit(trainer, module, datamodule, config.checkpoint)
    except RunStopped as stop:
        if stop.signal in AHEAD_OF_LIMIT and given == AUTO:  # else the job would begin again where it began
            requeue()
        raise
    raise_if_pruned(trainer)
    checkpoint = trainer.checkpoint_callback  # the first of them: the best
    assert isinstance(checkpoint, ModelCheckpoint)
    assert checkpoint.monitor is not None
    assert checkpoint.best_model_score is not None  # a run validates before it ends
    chosen = {checkpoint.monitor: checkpoint.best_model_score.item()}
    if not datamodule.datasets["test"]:
        return chosen
    best = trainer.strategy.broadcast(checkpoint.best_model_path)
    (metrics,) = trainer.test(module, datamodule=datamodule, ckpt_path=best, weights_only=True, verbose=False)
    if trainer.is_global_zero:
        Console().print(results_table(metrics))
    if config.get("keep_files", True):
        log.info("Config, metrics, checkpoints and figures are in %s", run_dir)
        if (profile := run_dir / "fit-profile.txt").is_file():
            log.info("Where the time went is in %s", profile)
    else:
        log.info("Training, validation and test ran to their end; no files are kept (keep_files=false)")
    return dict(metrics) | chosen


def build_trainer(config: DictConfig) -> Trainer:
    """The trainer of the config, with its callbacks and loggers.

    Raises:
        ConfigError: it asks for devices or a precision that are not there, or for what Lightning cannot do.
    """
    callbacks, loggers = [], []
    if not config.get("dry_run"):
        callbacks = [callback for callback in instantiate(config.callbacks).values() if callback is not None]
        loggers = list(instantiate(config.logger).values())
    callbacks.sort(key=lambda callback: isinstance(callback, WeightAverage))  # it ends validations after the others
    torchrun = TorchElasticEnvironment.detect()  # which knows its processes better, also inside a job of SLURM
    if config.trainer.devices == "auto" and torchrun:
        config.trainer.devices = int(os.environ["LOCAL_WORLD_SIZE"])  # on processors Lightning would take one
    wanted = f"trainer.accelerator={config.trainer.accelerator} trainer.devices={config.trainer.devices}"
    plugins = list(instantiate(config.trainer.plugins or []))
    if SLURMEnvironment.detect() and not torchrun and not any(isinstance(p, ClusterEnvironment) for p in plugins):
        plugins.append(SLURMEnvironment(auto_requeue=False))  # that is LastCheckpoint's and `requeue`'s business
    try:
        trainer: Trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, plugins=plugins)
    except InstantiationException as error:
        if not isinstance(error.__cause__, MisconfigurationException | RuntimeError | TypeError | ValueError):
            raise
        reason = " ".join(str(error.__cause__).split())
        raise ConfigError(f"no trainer can be made with {wanted}: {reason} (without a GPU: trainer=cpu)") from error
    if torchrun and trainer.num_devices * trainer.num_nodes != int(os.environ["WORLD_SIZE"]):
        raise ConfigError(
            f"{wanted} on {trainer.num_nodes} nodes: torchrun started {os.environ['WORLD_SIZE']} processes, so set "
            "trainer=ddp, and +trainer.num_nodes to the number of its nodes"
        )
    if isinstance(trainer.accelerator, CPUAccelerator) and config.trainer.accelerator == "auto":
        log.warning("There is no GPU here: training on the processor, which trainer=cpu says on purpose")
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > 1:
        if config.trainer.accelerator != "cpu":
            raise ConfigError(f"{wanted}: there is no GPU here; trainer=cpu starts that many processes on processors")
        if trainer.num_devices > (cores := os.cpu_count() or 1):
            raise ConfigError(f"{wanted}: this machine has {cores} processor cores")
        if config.trainer.get("sync_batchnorm"):
            raise ConfigError(f"{wanted}: torch synchronises batch norm on GPUs only, set trainer.sync_batchnorm=false")
    apply_precision(trainer, config.trainer.precision, config.float32_matmul_precision)
    return trainer


def accept_checkpoint(config: DictConfig, module: JointFaceModule) -> int:
    """Refuses now, rather than by the trainer and later, what cannot be gone on from.

    Returns:
        Optimiser steps that the checkpoint has behind it.

    Raises:
        CheckpointError: the file is missing, broken, or of another model.
        ConfigError: nothing would be left to train.
    """
    checkpoint = read_checkpoint(config.checkpoint, wanted="last.ckpt")
    require_training_state(checkpoint, config.checkpoint)
    module.on_load_checkpoint(checkpoint)
    if "ema" in config.callbacks and config.callbacks.ema is None and TRAINING_WEIGHTS in checkpoint:
        raise ConfigError(
            f"{config.checkpoint}: its run averages the weights, which this config does not: repeat "
            "callbacks/ema=default"
        )
    start, steps, interval = checkpoint["global_step"], config.trainer.max_steps, _steps_between_validations(config)
    elsewhere = Path(config.checkpoint).resolve().parents[1] != Path(config.paths.run_dir).resolve()
    if elsewhere and interval and steps // interval <= start // interval:
        raise ConfigError(
            f"{config.checkpoint} is of step {start}, and trainer.max_steps={steps} with trainer.val_check_interval="
            f"{config.trainer.val_check_interval} leaves no validation to come: raise trainer.max_steps"
        )
    return start


def keep_rows(trainer: Trainer, start: int) -> None:
    """metrics.csv of a run that goes on keeps its rows."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.go_on_at(start)


def fit(trainer: Trainer, module: JointFaceModule, datamodule: JointDataModule, checkpoint: str | None) -> None:
    """Trains, and says so where it ends early.

    Raises:
        RunStopped: a signal asked for it; `last.ckpt` is of the last step.
        DivergedError: a loss or gradient was not finite.
    """
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as end:  # this is how Lightning takes a Ctrl-C that comes before the first step
        raise KeyboardInterrupt from end
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            reason = str(callback.stopping_reason_message).removesuffix(" Signaling Trainer to stop.")
            log.info("Stopped early, after step %d: %s", trainer.global_step, reason)


def quiet_libraries() -> None:
    """Keeps back what the libraries say at every start and no user can act on, and what the first of several processes
    says for all."""
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        logging.getLogger("jointface").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*Experiment logs directory .* exists and is not empty",  # config.yaml is in it already
        ".*Checkpoint directory .* exists and is not empty",  # of a run that goes on
        ".*does not have many workers",
        ".*It is recommended to use .self.log.*sync_dist=True",  # metrics gather by themselves, losses as they are made
        ".*treespec, LeafSpec",
        ".*Using padding='same' with even kernel lengths",
        ".*number of training batches .* is smaller than the logging interval",
        ".*The dirpath has changed from",  # of a run that begins from another's checkpoint
        ".*AMP with fp16 is not supported on CPU",  # an error here
    ):
        warnings.filterwarnings("ignore", message)


def build_module(config: DictConfig, datamodule: JointDataModule) -> JointFaceModule:
    """The LightningModule of the config, for the label sets of the data."""
    model = config.model
    has_shape = bool(model.shape_decoder)
    label_sets = datamodule.label_sets() if model.attribute_classifier else {}
    return JointFaceModule(
        network=network_config(config),
        loss=instantiate(model.loss),
        optimizer=instantiate(model.optimizer),
        scheduler=instantiate(model.scheduler) if model.scheduler else None,
        label_sets=label_sets,
        alpha={name: datamodule.datasets["train"][name].alpha() for name in label_sets},
        morphable_model=instantiate(config.morphable_model) if has_shape else None,
        log_gradients_every_n_steps=model.log_gradients_every_n_steps or 0,
        compile_mode=model.compile_mode if model.compile else None,
    )


def network_config(config: DictConfig) -> dict[str, Any]:
    """What `build_network` needs, in plain containers."""
    model = OmegaConf.to_container(config.model, resolve=True)
    assert isinstance(model, dict)
    return {
        "image_size": config.image_size,
        "channels_last": model["channels_last"],
        "backbone": model["backbone"],
        "shape_decoder": model["shape_decoder"],
        "attribute_classifier": model["attribute_classifier"],
    }


def require_sense(config: DictConfig) -> None:
    """Numbers must be numbers, a run must validate before it ends, and the data folder must be there if it is used.

    Raises:
        ConfigError, DataError: it is not so.
    """
    for key in ("seed", "image_size", "trainer.max_steps", "trainer.accumulate_grad_batches"):
        value = OmegaConf.select(config, key)
        if not isinstance(value, int) or (value < 1 and key != "seed"):
            raise ConfigError(f"{key}={value}: expected a whole number{'' if key == 'seed' else ' above 0'}")
    batches, interval = config.trainer.val_check_interval, _steps_between_validations(config)
    accumulated = config.trainer.accumulate_grad_batches
    if interval is not None and interval * accumulated != batches:  # else gradients would be under way in a checkpoint
        raise ConfigError(
            f"trainer.val_check_interval={batches} is counted in batches, and trainer.accumulate_grad_batches="
            f"{accumulated} of them make a step: it must be a multiple of that"
        )
    if interval is not None and interval > config.trainer.max_steps:
        raise ConfigError(
            f"trainer.max_steps={config.trainer.max_steps} with trainer.val_check_interval={batches}: a run must "
            "validate before it ends, lower trainer.val_check_interval"
        )
    if config.trainer.limit_val_batches == 0:
        raise ConfigError("trainer.limit_val_batches=0: a run must validate, set it to at least 1, or to null for all")
    if isinstance(profiler := config.trainer.get("profiler"), str):
        raise ConfigError(f"trainer.profiler={profiler}: a profiler is chosen by trainer/profiler={profiler}")
    folder = Path(config.paths.data_dir)
    packed = config.data.packed_dir
    sources = [source for source in config.data.sources.values() if not (packed and source.get("packed"))]
    roots = [source.dataset.get("root") for source in sources]
    if any(root and Path(root).is_relative_to(folder) for root in roots) and not folder.is_dir():
        raise DataError(f"no folder {folder.absolute()}: set paths.data_dir to the folder that holds the data sets")


def _steps_between_validations(config: DictConfig) -> int | None:
    """In optimiser steps, rounded down; None where the interval is a fraction of an epoch."""
    batches = config.trainer.val_check_interval
    return batches // config.trainer.accumulate_grad_batches if isinstance(batches, int) else None


def require_labels(config: DictConfig, datamodule: JointDataModule) -> None:
    """Each head must have something to learn from and to be validated on, and each source a head to teach.

    Raises:
        ConfigError: it is not so.
    """
    heads = {
        "shape_decoder": ("the 3D face", datamodule.shape_sources),
        "attribute_classifier": ("attributes", datamodule.label_sets),
    }
    present = {head: parts for head, parts in heads.items() if config.model[head]}
    if not present:
        raise ConfigError(
            "the model has no head: set model/shape_decoder or model/attribute_classifier to another than none"
        )
    for head, (labels, sources) in present.items():
        for stage in ("train", "val"):
            if not sources(stage):
                raise ConfigError(
                    f"model/{head} needs a {stage} source that labels {labels}, the sources are "
                    f"{', '.join(datamodule.datasets[stage]) or 'none'}: add one or set model/{head}=none"
                )
    taught = {name for _, sources in present.values() for name in sources("train")}
    if useless := set(datamodule.datasets["train"]) - taught:
        raise ConfigError(
            f"source {', '.join(sorted(useless))} labels nothing that the model predicts: leave it out of data.sources "
            "or add a head for it"
        )


def results_table(metrics: Mapping[str, float]) -> Table:
    """The test's mean metrics beside those of the trivial predictors (mean face, majority class)."""
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


@entry_point("train")
def main(config: DictConfig) -> dict[str, float]:
    """Trains and tests the model of the config."""
    metrics = train(config)
    if config.dry_run or not config.keep_files:
        remove_unused_folder()
    return metrics


if __name__ == "__main__":
    main()
