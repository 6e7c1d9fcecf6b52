"""The joint LightningDataModule: every source in every mini-batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from lightning import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from jointface.attributes import LabelSet
from jointface.datamodules.augmentation import Augmentation
from jointface.datamodules.broken import UNDRAWN, Batches, BrokenSamples, as_it_is, start_worker
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset
from jointface.datamodules.packed import PackedFaces, settings_of
from jointface.datamodules.turning import FaceTurning
from jointface.errors import ConfigError

Stage = Literal["train", "val", "test"]
STAGES: tuple[Stage, ...] = ("train", "val", "test")
STAGES_OF: dict[str, tuple[Stage, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
MODES = ("max_size_cycle", "min_size", "max_size")


@dataclass
class Source:
    """A data set's part in the joint training.

    dataset: makes the data set from `split` and `transform`. splits: which of its splits a stage ("train", "val",
    "test") uses; a stage left out does without the source. batch_size: its samples in a training mini-batch. packed:
    its folder among the packed copies, None if it is never packed.
    """

    dataset: Callable[..., FaceDataset]
    splits: Mapping[str, str]
    batch_size: int = 0
    packed: str | None = None


class JointDataModule(LightningDataModule):
    """Batches {source name: batch} over any set of sources.

    Args:
        sources: by name; the name is used in metrics.
        image_size: side of the crops in pixels.
        augmentation: of the training crops; None trains without.
        turning: turns training faces with a fitted mesh out of plane, on the device; None leaves them.
        mode: of the training CombinedLoader: "max_size_cycle" repeats the smaller sources until the largest is through,
            "min_size" stops with the smallest, "max_size" goes on without the sources that are through.
        eval_batch_size: samples of each source in a validation or test batch.
        num_workers: loader processes of each source.
        pin_memory: page-locked batches, for copies to a GPU.
        max_broken_fraction: share of a data set's samples that may be broken before the run stops.
        packed_dir: folder of packed copies, which are read in place of the published files; None reads those.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        image_size: int,
        augmentation: Augmentation | None = None,
        turning: FaceTurning | None = None,
        mode: str = "max_size_cycle",
        eval_batch_size: int = 64,
        num_workers: int = 4,
        pin_memory: bool = False,
        max_broken_fraction: float = 0.01,
        packed_dir: str | None = None,
    ) -> None:
        super().__init__()
        self.sources = dict(sources)
        self.transforms = {
            stage: CropTransform(image_size, augmentation if stage == "train" else None) for stage in STAGES
        }
        self.turning = turning
        self.mode = mode
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.packed_dir = packed_dir
        self.broken = BrokenSamples(max_broken_fraction)
        self.datasets: dict[Stage, dict[str, FaceDataset]] = {}
        if mode not in MODES:
            raise ConfigError(f"data.mode={mode} is unknown, known are {', '.join(MODES)}")
        if num_workers < 0 or eval_batch_size < 1:
            raise ConfigError(
                f"num_workers={num_workers} and eval_batch_size={eval_batch_size}: must be at least 0 and 1"
            )
        for name, source in self.sources.items():
            if "train" in source.splits and source.batch_size < 1:
                raise ConfigError(f"data.sources.{name}.batch_size={source.batch_size}: must be at least 1")
            if unknown := set(source.splits) - set(STAGES):
                raise ConfigError(
                    f"source {name}: splits has unknown stages {sorted(unknown)}, known are {', '.join(STAGES)}"
                )

    def setup(self, stage: str) -> None:
        """Opens the data sets of a Lightning stage ("fit", "validate", "test")."""
        stages = STAGES_OF.get(stage, ())
        for part in stages:
            if part not in self.datasets:
                self.datasets[part] = {
                    name: self._open(name, source, part)
                    for name, source in self.sources.items()
                    if part in source.splits
                }

    def _open(self, name: str, source: Source, stage: Stage) -> FaceDataset:
        split, transform, dataset = source.splits[stage], self.transforms[stage], source.dataset
        if self.packed_dir and source.packed:
            assert isinstance(dataset, partial)
            model = dataset.keywords.get("morphable_model")
            return PackedFaces(Path(self.packed_dir) / source.packed, split, transform, settings_of(dataset), model)
        try:
            return dataset(split=split, transform=transform)
        except (TypeError, KeyError) as error:  # a key that the class does not have
            raise ConfigError(f"data.sources.{name} cannot be opened for {stage}: {error}") from error

    def label_sets(self, stage: Stage = "train") -> dict[str, LabelSet]:
        """The label sets of the stage's sources that label attributes."""
        return {name: data.label_set for name, data in self.datasets[stage].items() if data.label_set is not None}

    def shape_sources(self, stage: Stage = "train") -> set[str]:
        """The stage's sources that label the 3D face."""
        return {name for name, data in self.datasets[stage].items() if data.has_shape}

    def train_dataloader(self) -> CombinedLoader:
        loaders = {name: self._loader("train", name) for name in self.datasets["train"]}
        return CombinedLoader(loaders, cast(Literal["max_size_cycle", "min_size", "max_size"], self.mode))

    def val_dataloader(self) -> CombinedLoader:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> CombinedLoader:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, stage: Stage) -> CombinedLoader:
        # "max_size" gives None for a source that is through, so each sample is seen once.
        return CombinedLoader({name: self._loader(stage, name) for name in self.datasets[stage]}, "max_size")

    def _loader(self, stage: Stage, name: str) -> DataLoader[Any]:
        dataset, training = self.datasets[stage][name], stage == "train"
        batch_size = self.sources[name].batch_size if training else self.eval_batch_size
        return DataLoader(
            Batches(dataset),
            batch_size=batch_size,
            shuffle=training,
            drop_last=training and len(dataset) >= batch_size,
            num_workers=self.num_workers,
            persistent_workers=training and self.num_workers > 0,
            pin_memory=self.pin_memory,
            collate_fn=as_it_is,
            worker_init_fn=start_worker,
        )

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Leaves out the sources that gave nothing, and accounts for broken samples."""
        stage = self._running_stage()
        accounted = {
            name: self.broken.account(f"{stage}/{name}", self.datasets[stage][name], part)
            for name, part in batch.items()
            if part
        }
        return {name: part for name, part in accounted.items() if part}

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Draws synthetic faces that are drawn on the device, and turns training faces there."""
        stage = self._running_stage()
        for name, part in batch.items():
            if UNDRAWN in part:
                part["image"] = self.datasets[stage][name].draw(part.pop(UNDRAWN), part["index"].device)  # type: ignore[attr-defined]
        if self.turning is None or stage != "train":
            return batch
        return {name: self.turning(part) if "camera" in part else part for name, part in batch.items()}

    def _running_stage(self) -> Stage:
        trainer = self.trainer
        if trainer is None or trainer.training:
            return "train"
        return "test" if trainer.testing else "val"
