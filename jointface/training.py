"""One run, from a config to a tested checkpoint."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from jointface.datamodules import JointDataModule
from jointface.errors import ConfigError, DataError
from jointface.modules import JointFaceModule
from jointface.modules.checkpoint import read_checkpoint

log = logging.getLogger(__name__)


def train(config: DictConfig) -> dict[str, float]:
    """Trains the config's model and tests its best checkpoint; leaves config, metrics, checkpoints and figures in
    `paths.run_dir`.

    Returns:
        The metrics of the test, `test/data set/metric`.

    Raises:
        ConfigError: the config's parts do not fit together.
        DataError: data is missing or broken.
    """
    quiet_libraries()
    OmegaConf.resolve(config)
    require_sense(config)
    seed_everything(config.seed, workers=True, verbose=False)
    datamodule: JointDataModule = instantiate(config.data)
    # The test data too is opened now: better to hear of a missing folder before the training than after it.
    datamodule.setup("fit")
    datamodule.setup("test")
    require_labels(config, datamodule)
    module = build_module(config, datamodule)
    if config.checkpoint:
        module.on_load_checkpoint(read_checkpoint(config.checkpoint))  # refused now rather than by the trainer
    run_dir = Path(config.paths.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, run_dir / "config.yaml")
    trainer: Trainer = instantiate(
        config.trainer,
        callbacks=list(instantiate(config.callbacks).values()),
        logger=list(instantiate(config.logger).values()),
    )
    log.info("Training in %s", run_dir)
    trainer.fit(module, datamodule=datamodule, ckpt_path=config.checkpoint, weights_only=True)
    if not datamodule.datasets["test"]:
        return {}
    assert isinstance(trainer.checkpoint_callback, ModelCheckpoint)  # the first of them: the best
    best = trainer.checkpoint_callback.best_model_path
    (metrics,) = trainer.test(module, datamodule=datamodule, ckpt_path=best, weights_only=True, verbose=False)
    Console().print(results_table(metrics))
    log.info("Config, metrics, checkpoints and figures are in %s", run_dir)
    return dict(metrics)


def quiet_libraries() -> None:
    """Keeps back what the libraries say at every start and no user can act on."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*Experiment logs directory .* exists and is not empty",  # config.yaml is in it already
        ".*does not have many workers",
        ".*treespec, LeafSpec",
        ".*Using padding='same' with even kernel lengths",
        ".*number of training batches .* is smaller than the logging interval",
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
    for key in ("seed", "image_size", "trainer.max_steps"):
        value = OmegaConf.select(config, key)
        if not isinstance(value, int) or (value < 1 and key != "seed"):
            raise ConfigError(f"{key}={value}: expected a whole number{'' if key == 'seed' else ' above 0'}")
    steps, interval = config.trainer.max_steps, config.trainer.val_check_interval
    if isinstance(interval, int) and interval > steps:
        raise ConfigError(
            f"trainer.max_steps={steps} with trainer.val_check_interval={interval}: a run must validate before it "
            "ends, lower trainer.val_check_interval"
        )
    folder = Path(config.paths.data_dir)
    packed = config.data.packed_dir
    sources = [source for source in config.data.sources.values() if not (packed and source.get("packed"))]
    roots = [source.dataset.get("root") for source in sources]
    if any(root and Path(root).is_relative_to(folder) for root in roots) and not folder.is_dir():
        raise DataError(f"no folder {folder.absolute()}: set paths.data_dir to the folder that holds the data sets")


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
