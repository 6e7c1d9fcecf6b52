"""Checks a training's config and data before the first step."""

from collections.abc import Callable, Collection
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jointface.datamodules import JointDataModule
from jointface.datamodules.joint import Stage
from jointface.errors import ConfigError, DataError
from jointface.modules.network import FaceNetwork
from jointface.settings import LARGEST_SEED, require_whole_number

WHOLE_NUMBERS = {  # by key: the least
    "image_size": 1, "trainer.max_steps": 1, "trainer.accumulate_grad_batches": 1, "trainer.log_every_n_steps": 0,
}  # fmt: skip
PARTS = (  # which may be left out
    "data.augmentation", "data.turning", "model.shape_decoder", "model.attribute_classifier",
    "model.landmark_uncertainty", "model.auxiliary", "model.teacher",
)  # fmt: skip
NO_BEST = {  # settings with which Lightning keeps no best checkpoint, by key: their default
    "trainer.fast_dev_run": False, "trainer.barebones": False, "trainer.enable_checkpointing": True,
    "callbacks.checkpoint.save_top_k": 1, "callbacks.checkpoint.every_n_epochs": 1,
}  # fmt: skip


def validate_config(config: DictConfig) -> None:
    """Checks numbers, parts, the validation interval, the best checkpoint, the profiler and the data folder.

    Raises:
        ConfigError: a value is out of range, or the run would end without a validation or a checkpoint to test.
        DataError: a source needs `paths.data_dir`, and this folder does not exist.
    """
    require_whole_number("seed", config.seed, 0, LARGEST_SEED)
    for key, least in WHOLE_NUMBERS.items():
        require_whole_number(key, OmegaConf.select(config, key), least)
    for key in PARTS:
        part = OmegaConf.select(config, key)
        if isinstance(part, DictConfig) and "_target_" not in part:  # a group's null came before an experiment's keys
            raise ConfigError(
                f"{key} has {', '.join(map(str, part))} but no _target_: write {key}=null to leave it out, or choose "
                f"a file of conf/{key.replace('.', '/')}/"
            )
    batches, interval = config.trainer.val_check_interval, steps_between_validations(config)
    if not isinstance(batches, float | str | DictConfig):  # which are left to Lightning: fractions, durations
        require_whole_number("trainer.val_check_interval", batches, 1)
    accumulated = config.trainer.accumulate_grad_batches
    if interval is not None and interval * accumulated != batches:  # a checkpoint would hold half a step's gradients
        raise ConfigError(
            f"trainer.val_check_interval={batches} counts batches, and a step takes trainer.accumulate_grad_batches="
            f"{accumulated} of them: the first must be a multiple of the second"
        )
    if interval is not None and interval > config.trainer.max_steps:
        raise ConfigError(
            f"trainer.max_steps={config.trainer.max_steps} with trainer.val_check_interval={batches}: a run must "
            "validate before it ends, lower trainer.val_check_interval"
        )
    if config.trainer.get("limit_val_batches") == 0:
        raise ConfigError("trainer.limit_val_batches=0: a run must validate, set it to at least 1, or to null for all")
    _require_best_checkpoint(config)
    if isinstance(profiler := config.trainer.get("profiler"), str):
        raise ConfigError(f"trainer.profiler={profiler}: choose a profiler by trainer/profiler={profiler}")
    folder = Path(config.paths.data_dir)
    sources = [
        source for source in config.data.sources.values() if not (config.paths.packed_dir and source.get("packed"))
    ]
    roots = [source.dataset.get("root") for source in sources]
    if any(root and Path(root).is_relative_to(folder) for root in roots) and not folder.is_dir():
        raise DataError(f"no folder {folder.absolute()}: set paths.data_dir to the folder that holds the data sets")


def _require_best_checkpoint(config: DictConfig) -> None:
    """Raises a ConfigError if the run would keep no best checkpoint, which it tests at its end."""
    values = {key: OmegaConf.select(config, key, default=usual) for key, usual in NO_BEST.items()}
    off = [f"{key}={value}" for key, value in values.items() if bool(value) != bool(NO_BEST[key])]
    if not config.callbacks.get("checkpoint") or not config.callbacks.checkpoint.get("monitor"):
        off.append("callbacks.checkpoint=null")
    if off:
        raise ConfigError(
            f"{', '.join(off)}: a run tests its best checkpoint, leave this out; debug=one_batch tries every part of a "
            "run on one batch, and keep_files=false leaves no files"
        )


def validate_labels(config: DictConfig, datamodule: JointDataModule) -> None:
    """Checks that each head has labels for training and validation, and that each training source trains a head.

    Raises:
        ConfigError: a head has no labels, or a source trains no head.
    """
    heads: dict[str, tuple[str, Callable[[Stage], Collection[str]]]] = {
        "shape_decoder": (
            "the 3D face or landmarks",
            lambda stage: datamodule.shape_sources(stage) | datamodule.landmark_sources(stage),
        ),
        "attribute_classifier": ("attributes", datamodule.label_sets),
    }
    present = {head: parts for head, parts in heads.items() if config.model[head]}
    if not present:
        raise ConfigError(
            "the model has no head: leave out model.shape_decoder=null or model.attribute_classifier=null"
        )
    for head, (labels, sources) in present.items():
        stages: tuple[Stage, ...] = ("train", "val")
        for stage in stages:
            if not sources(stage):
                raise ConfigError(
                    f"model.{head} needs a {stage} source that labels {labels}; the sources are "
                    f"{', '.join(datamodule.datasets[stage]) or 'none'}: add one or set model.{head}=null"
                )
    taught = {name for _, sources in present.values() for name in sources("train")}
    taught |= set(datamodule.people()) if config.model.auxiliary else set()
    taught |= set(datamodule.datasets["train"]) if config.model.teacher else set()
    if useless := set(datamodule.datasets["train"]) - taught:
        raise ConfigError(
            f"source {', '.join(sorted(useless))} labels nothing that the model predicts: leave it out of data.sources "
            "or add a head for it"
        )


def validate_batch_norm(network: FaceNetwork, datamodule: JointDataModule, processes: int = 1) -> None:
    """Checks that batch norm sees more than one value of a channel in a mini-batch. Where the features are down to one
    pixel, this takes two faces.

    Args:
        processes: number of processes over which batch norm is synchronised.

    Raises:
        ConfigError: a part of the network would be trained on a single face.
    """
    sizes = {name: processes * datamodule.sources[name].batch_size for name in datamodule.datasets["train"]}
    teachers = {
        "backbone": sizes, "shape_decoder": datamodule.shape_sources(), "attribute_classifier": datamodule.label_sets(),
    }  # fmt: skip
    alone = {part for part, sources in teachers.items() if sum(sizes[name] for name in sources) == 1}
    if alone and (parts := sorted(alone & _single_values(network))):
        raise ConfigError(
            f"the mini-batch has one face for model.{parts[0]}, whose batch norm needs at least two: raise batch_size"
        )


@torch.no_grad()
def _single_values(network: FaceNetwork) -> set[str]:
    """The parts of the network in which a batch norm sees a single value per channel and face."""
    found, training = set(), network.training

    def note(part: nn.Module, inputs: tuple[Tensor]) -> None:
        if inputs[0].shape[2:].numel() == 1:
            found.add(names[part].partition(".")[0])

    names: dict[nn.Module, str] = {part: name for name, part in network.named_modules() if isinstance(part, _BatchNorm)}
    hooks = [part.register_forward_pre_hook(note) for part in names]
    network.eval()(torch.zeros(1, 3, network.image_size, network.image_size, dtype=torch.uint8))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return found


def steps_between_validations(config: DictConfig) -> int | None:
    """The validation interval in optimiser steps, rounded down; None if it is a fraction of an epoch."""
    batches = config.trainer.val_check_interval
    return batches // config.trainer.accumulate_grad_batches if isinstance(batches, int) else None
