"""Resuming a run: finds its checkpoint, checks it against the config, and builds the command that resumes."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning import LightningModule
from omegaconf import DictConfig, OmegaConf

from jointface.errors import ConfigError
from jointface.modules.checkpoint import read_checkpoint, require_training_state
from jointface.running.checks import steps_between_validations
from jointface.running.expected_errors import override_of
from jointface.running.finished_runs import FINISHED, find_runs

AUTO = "auto"  # value of `checkpoint`: the run's own last.ckpt, if there is one
LAST = Path("checkpoints") / "last.ckpt"
_KEPT = ("model", "data", "morphable_model", "image_size", "batch_size", "seed")  # what a finished run is known by
TRAINING_WEIGHTS = "training_weights"  # key of a checkpoint: the trained weights, if state_dict holds averaged ones


def resolve_checkpoint(folder: Path, checkpoint: str | None) -> str | None:
    """The file that the value of `checkpoint` refers to; None to start from scratch."""
    last = str(folder / LAST) if (folder / LAST).is_file() else None
    return last if checkpoint == AUTO else checkpoint


def metrics_if_finished(config: DictConfig) -> dict[str, float] | None:
    """The metrics of the run in `paths.run_dir` if it has finished; None if it has not, or if it may be made longer.

    Raises:
        ConfigError: it has finished with another config, and not for fewer steps.
        DataError: a file of the run is damaged.
    """
    folder = Path(config.paths.run_dir)
    if not (folder / "config.yaml").is_file():
        return None
    (run,) = find_runs(folder).to_dict("records")
    if run["state"] != FINISHED:
        return None
    then = OmegaConf.load(folder / "config.yaml")
    changed = [key for key in _KEPT if not _same(OmegaConf.select(then, key), OmegaConf.select(config, key))]
    if not changed and then.trainer.max_steps == config.trainer.max_steps:
        return run["metrics"]
    if config.trainer.max_steps > then.trainer.max_steps:
        return None
    raise ConfigError(
        f"the run in {folder} has finished with another config (see {', '.join(changed) or 'trainer.max_steps'} in its "
        "config.yaml): choose another folder"
    )


def _same(then: Any, now: Any) -> bool:
    """Whether two parts of configs train alike. Runs of older versions lack settings that are new: these are not
    compared, but a part that one config has and the other has not makes a difference."""
    if not (isinstance(then, Mapping) and isinstance(now, Mapping)):
        return bool(then == now)
    lacking = [(then if key in then else now)[key] for key in then.keys() ^ now.keys()]
    parts = any(isinstance(value, Mapping) for value in lacking)
    return not parts and all(_same(then[key], now[key]) for key in then.keys() & now.keys())


def run_folder_of(checkpoint: str | None) -> Path | None:
    """The folder of the run whose `last.ckpt` this is; None for any other checkpoint."""
    if checkpoint is None or Path(checkpoint).parts[-2:] != LAST.parts:
        return None
    run = Path(checkpoint).parents[1]
    return run if (run / "config.yaml").is_file() else None


def validate_checkpoint(config: DictConfig, module: LightningModule) -> int:
    """Checks before the training that it can resume from the config's checkpoint.

    Returns:
        The number of optimiser steps that the checkpoint was trained for.

    Raises:
        CheckpointError: the file is missing, broken, or holds another model.
        ConfigError: the averaged weights would be lost, or no validation would follow.
    """
    checkpoint = read_checkpoint(config.checkpoint, wanted="last.ckpt")
    require_training_state(checkpoint, config.checkpoint)
    module.on_load_checkpoint(checkpoint)
    if not config.callbacks.get("ema") and TRAINING_WEIGHTS in checkpoint:
        raise ConfigError(
            f"{config.checkpoint}: its run averages the weights, but this config does not: add callbacks/ema=default"
        )
    start, steps, interval = checkpoint["global_step"], config.trainer.max_steps, steps_between_validations(config)
    elsewhere = Path(config.checkpoint).resolve().parents[1] != Path(config.paths.run_dir).resolve()
    if elsewhere and interval and steps // interval <= start // interval:
        raise ConfigError(
            f"{config.checkpoint} is from step {start}; with trainer.max_steps={steps} and trainer.val_check_interval="
            f"{config.trainer.val_check_interval} no validation would follow: raise trainer.max_steps"
        )
    return start


def resume_command(checkpoint: Path) -> str:
    """The command line that repeats this run's overrides and resumes from the checkpoint."""
    hydra = HydraConfig.get()
    words = ["python", "-m", f"jointface.{hydra.job.config_name}"]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            words += ["--config-dir", source.path]
    words += [word for word in hydra.overrides.task if not word.startswith("checkpoint=")]
    shown = checkpoint.relative_to(Path.cwd()) if Path.cwd() in checkpoint.parents else checkpoint
    words.append(override_of("checkpoint", str(shown)))
    if hydra.mode == RunMode.MULTIRUN:
        words.append("hydra.mode=RUN")  # this job alone
    return shlex.join(words)
