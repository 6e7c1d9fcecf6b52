"""Checks a training's config and data before the first step."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from jointface.datamodules import JointDataModule
from jointface.errors import ConfigError, DataError
from jointface.settings import LARGEST_SEED, require_whole_number

WHOLE_NUMBERS = {"image_size": 1, "trainer.max_steps": 1, "trainer.accumulate_grad_batches": 1}  # key: the least


def validate_config(config: DictConfig) -> None:
    """Checks numbers, the validation interval, the profiler and the data folder.

    Raises:
        ConfigError: a value is out of range, or the run would end without a validation.
        DataError: a source needs `paths.data_dir`, and this folder does not exist.
    """
    require_whole_number("seed", config.seed, 0, LARGEST_SEED)
    for key, least in WHOLE_NUMBERS.items():
        require_whole_number(key, OmegaConf.select(config, key), least)
    batches, interval = config.trainer.val_check_interval, steps_between_validations(config)
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
    if isinstance(profiler := config.trainer.get("profiler"), str):
        raise ConfigError(f"trainer.profiler={profiler}: choose a profiler by trainer/profiler={profiler}")
    folder = Path(config.paths.data_dir)
    sources = [
        source for source in config.data.sources.values() if not (config.paths.packed_dir and source.get("packed"))
    ]
    roots = [source.dataset.get("root") for source in sources]
    if any(root and Path(root).is_relative_to(folder) for root in roots) and not folder.is_dir():
        raise DataError(f"no folder {folder.absolute()}: set paths.data_dir to the folder that holds the data sets")


def validate_labels(config: DictConfig, datamodule: JointDataModule) -> None:
    """Checks that each head has labels for training and validation, and that each training source trains a head.

    Raises:
        ConfigError: a head has no labels, or a source trains no head.
    """
    heads = {
        "shape_decoder": ("the 3D face", datamodule.shape_sources),
        "attribute_classifier": ("attributes", datamodule.label_sets),
    }
    present = {head: parts for head, parts in heads.items() if config.model[head]}
    if not present:
        raise ConfigError(
            "the model has no head: leave out model.shape_decoder=null or model.attribute_classifier=null"
        )
    for head, (labels, sources) in present.items():
        for stage in ("train", "val"):
            if not sources(stage):
                raise ConfigError(
                    f"model.{head} needs a {stage} source that labels {labels}; the sources are "
                    f"{', '.join(datamodule.datasets[stage]) or 'none'}: add one or set model.{head}=null"
                )
    taught = {name for _, sources in present.values() for name in sources("train")}
    if useless := set(datamodule.datasets["train"]) - taught:
        raise ConfigError(
            f"source {', '.join(sorted(useless))} labels nothing that the model predicts: leave it out of data.sources "
            "or add a head for it"
        )


def steps_between_validations(config: DictConfig) -> int | None:
    """The validation interval in optimiser steps, rounded down; None if it is a fraction of an epoch."""
    batches = config.trainer.val_check_interval
    return batches // config.trainer.accumulate_grad_batches if isinstance(batches, int) else None
