"""The LightningDataModule for joint training: every mini-batch contains every source."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Int
from lightning import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from jointface.attributes import LabelSet
from jointface.datamodules.augmentation import Augmentation
from jointface.datamodules.broken_samples import BrokenSamples
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.drawing import AheadRenderer, draw
from jointface.datamodules.face_dataset import FaceDataset, require_choice
from jointface.datamodules.in_memory import InMemoryFaces, border_of
from jointface.datamodules.loading import Batches, TimedLoader, identity_collate, start_worker
from jointface.datamodules.packed import PackedFaces, settings_of
from jointface.datamodules.sampling import BatchSample, EvaluationBatches, PeopleStream, Share, TrainingStream, seed_of
from jointface.datamodules.synthetic import SyntheticFaces
from jointface.datamodules.turning import FaceTurning
from jointface.errors import ConfigError
from jointface.geometry.morphable_model import MorphableModel
from jointface.settings import require_whole_number

Stage = Literal["train", "val", "test"]
STAGES: tuple[Stage, ...] = ("train", "val", "test")
STAGES_OF: dict[str, tuple[Stage, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


@dataclass
class Source:
    """A data set and its role in the joint training.

    dataset: builds the data set from `split` and `transform`. splits: the split that each stage ("train", "val",
    "test") uses; a stage that is not listed, or has None, does not use the source; by default, it is trained on and
    validated. batch_size: number of its samples in a training mini-batch. photos_per_person: how many consecutive
    samples of a training mini-batch show the same person; None: samples are chosen without regard to people. packed:
    its folder in `packed_dir`, None if it is never packed.
    """

    dataset: Callable[..., FaceDataset]
    splits: Mapping[str, Any] = field(default_factory=lambda: {"train": "train", "val": "val"})
    batch_size: int = 0
    photos_per_person: int | None = None
    packed: str | None = None

    def __post_init__(self) -> None:
        self.splits = {stage: split for stage, split in self.splits.items() if split is not None}


class JointDataModule(LightningDataModule):
    """Gives batches {source name: batch} from any set of sources.

    Each source is an endless stream that is reshuffled after each pass, so every mini-batch holds every source at its
    batch size, even if their lengths differ. Mini-batch n depends only on the seed and on n, so a training can resume
    in the middle of an epoch as if it had never stopped.

    Args:
        sources: by name, each a `Source` or its fields; the names appear in metrics.
        image_size: side of the crops in pixels.
        augmentation: varies the training crops; None: no augmentation.
        turning: turns training photos that have a fitted mesh out of plane, on the device; None: no turning.
        seed: for shuffling, augmentation and everything else that is random in a training step.
        eval_batch_size: samples of each source in a validation or test batch.
        num_workers: loader processes of each source.
        pin_memory: whether batches are page-locked, for copies to a GPU; None: if the trainer uses one.
        max_broken_fraction: fraction of a data set's samples that may be broken before the run stops.
        packed_dir: folder of packed copies to read instead of the published files; None: read the published files.
        max_train_samples: train only on the first samples of each source, at most this many; None: on all.
        in_memory: whether training crops are decoded once, kept in memory, and augmented on the device.
    """

    def __init__(
        self,
        sources: Mapping[str, Source | Mapping[str, Any]],
        image_size: int,
        augmentation: Augmentation | None = None,
        turning: FaceTurning | None = None,
        seed: int = 0,
        eval_batch_size: int = 64,
        num_workers: int = 4,
        pin_memory: bool | None = None,
        max_broken_fraction: float = 0.01,
        packed_dir: str | None = None,
        max_train_samples: int | None = None,
        in_memory: bool = False,
    ) -> None:
        super().__init__()
        self.sources = {name: self._source(name, source) for name, source in sources.items()}
        self.transforms = {stage: CropTransform(image_size) for stage in STAGES}
        self.in_memory, self.augmentation = in_memory, augmentation
        if in_memory:
            self.transforms["train"] = CropTransform(image_size, border=border_of(image_size, augmentation))
        elif augmentation is not None and augmentation.perspective:
            raise ConfigError(
                f"data.augmentation.perspective={augmentation.perspective} needs data.in_memory=true, which augments "
                "whole batches: set it, or leave out the perspective"
            )
        else:
            self.transforms["train"] = CropTransform(image_size, augmentation)
        self.turning, self.seed, self.packed_dir = turning, seed, packed_dir
        self.eval_batch_size, self.max_train_samples = eval_batch_size, max_train_samples
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.broken = BrokenSamples(max_broken_fraction)
        self.datasets: dict[Stage, dict[str, FaceDataset]] = {}
        self._ahead: AheadRenderer | None = None
        require_whole_number("data.num_workers", num_workers, 0)
        require_whole_number("data.eval_batch_size", eval_batch_size, 1)
        if max_train_samples is not None:
            require_whole_number("data.max_train_samples", max_train_samples, 1)
        for name, source in self.sources.items():
            for stage in source.splits:
                require_choice(f"data.sources.{name}.splits: stage", stage, STAGES)
            if "train" in source.splits:
                require_whole_number(f"data.sources.{name}.batch_size", source.batch_size, 1)
            if source.photos_per_person is not None:
                require_whole_number(f"data.sources.{name}.photos_per_person", source.photos_per_person, 1)

    @staticmethod
    def _source(name: str, source: Source | Mapping[str, Any]) -> Source:
        try:
            return source if isinstance(source, Source) else Source(**source)
        except TypeError as error:
            raise ConfigError(f"data.sources.{name}: {error}") from error

    def setup(self, stage: str) -> None:
        """Opens the data sets of a Lightning stage ("fit", "validate", "test")."""
        for part in STAGES_OF.get(stage, ()):
            if part not in self.datasets:
                self.datasets[part] = {
                    name: self._open_kept(name, source, part)
                    for name, source in self.sources.items()
                    if part in source.splits
                }

    def _open_kept(self, name: str, source: Source, stage: Stage) -> FaceDataset:
        """The data set of a stage, in memory if it is trained on and the config says so."""
        dataset = self._open(name, source, stage)
        if not self.in_memory or stage != "train":
            return dataset
        if isinstance(dataset, SyntheticFaces) and dataset.drawing.draw_on == "device":
            raise ConfigError(
                f"data.in_memory=true keeps training crops, but data.sources.{name} is drawn anew in each step: leave "
                "out data.in_memory=true or drawing=device"
            )
        return InMemoryFaces(dataset, self.augmentation)

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
        """The label set of each source in this stage that labels attributes."""
        return {name: data.label_set for name, data in self.datasets[stage].items() if data.label_set is not None}

    def shape_sources(self, stage: Stage = "train") -> set[str]:
        """The sources in this stage that label the 3D face."""
        return {name for name, data in self.datasets[stage].items() if data.has_shape}

    def label_models(self) -> dict[str, MorphableModel]:
        """The morphable model of each source that labels the 3D face and names a model of its own."""
        sources = {name for stage in self.datasets for name in self.shape_sources(stage)}
        settings = {name: getattr(self.sources[name].dataset, "keywords", {}) for name in sorted(sources)}
        return {name: keys["morphable_model"] for name, keys in settings.items() if "morphable_model" in keys}

    def landmark_sources(self, stage: Stage = "train") -> set[str]:
        """The sources in this stage that label landmarks without the 3D face."""
        return {name for name, data in self.datasets[stage].items() if data.has_landmarks}

    def people(self) -> dict[str, Int[Tensor, "people"]]:
        """The numbers of the people in each training source that is read person by person, ascending.

        Raises:
            ConfigError: a source does not know its people, or two are of different data sets.
        """
        people = {}
        for name, data in self.datasets["train"].items():
            if self.sources[name].photos_per_person is not None:
                people[name] = self._identity(name, data).unique()
        if len({getattr(self.sources[name].dataset, "keywords", {}).get("root") for name in people}) > 1:
            raise ConfigError(
                f"{', '.join(people)}: different data sets may number their people differently; set photos_per_person "
                "for one of them alone"
            )
        return people

    def _identity(self, name: str, data: FaceDataset) -> Int[Tensor, "samples"]:
        if data.identity is None:
            raise ConfigError(
                f"data.sources.{name}.photos_per_person={self.sources[name].photos_per_person}: the source does not "
                "know whom its photos show; add its file of identities, or set photos_per_person to null"
            )
        return data.identity[: self.num_samples("train", name)]

    def compiles_drawing(self) -> bool:
        """Whether faces are drawn on the device by compiled code."""
        return any(
            isinstance(data, SyntheticFaces) and data.drawing.compile for data in self.datasets["train"].values()
        )

    def num_samples(self, stage: Stage, name: str) -> int:
        """The number of samples of a source that a stage uses; 0 if it does not use the source."""
        count = len(self.datasets[stage].get(name, ()))
        return min(count, self.max_train_samples or count) if stage == "train" else count

    def train_dataloader(self) -> CombinedLoader:
        loaders = {}
        for name, dataset in self.datasets["train"].items():
            if isinstance(dataset, InMemoryFaces):
                dataset.load(name, self.num_samples("train", name), self.num_workers)
            loaders[name] = self._loader(dataset, self._stream(name, dataset))
        self.training_loader = TimedLoader(loaders, "min_size")  # any mode would do, as the streams are endless
        return self.training_loader

    def _stream(self, name: str, dataset: FaceDataset) -> TrainingStream:
        source, count = self.sources[name], self.num_samples("train", name)
        settings = source.batch_size, self.seed, self._share(), self._batches_done()
        if source.photos_per_person is None:
            return TrainingStream(name, count, *settings)
        return PeopleStream(name, self._identity(name, dataset), source.photos_per_person, *settings)

    def val_dataloader(self) -> CombinedLoader:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> CombinedLoader:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, stage: Stage) -> CombinedLoader:
        loaders = {
            name: self._loader(dataset, EvaluationBatches(len(dataset), self.eval_batch_size, self._share()))
            for name, dataset in self.datasets[stage].items()
        }
        # "max_size" gives None for an exhausted source, so each sample is seen once.
        return CombinedLoader(loaders, "max_size")

    def _loader(self, dataset: FaceDataset, batches: Sampler[BatchSample]) -> DataLoader[Any]:
        return DataLoader(
            Batches(dataset),
            batch_sampler=batches,  # type: ignore[arg-type]  # a BatchSample instead of a list
            num_workers=0 if isinstance(dataset, InMemoryFaces) else self.num_workers,
            pin_memory=self._feeds_a_gpu() if self.pin_memory is None else self.pin_memory,
            collate_fn=identity_collate,
            worker_init_fn=start_worker,
        )

    def _feeds_a_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Counts broken samples and removes sources that have no sample left. Seeds all random states before each
        training step, so that a resumed run does not need their saved values."""
        stage = self._running_stage()
        if stage == "train" and self.trainer is not None:
            if batch is self.training_loader.latest:  # Lightning has not fetched another batch to draw ahead
                self.training_loader.latest = None
            torch.manual_seed(seed_of(self.seed, "step", self._batches_done(), self._share().rank))
        accounted = {
            name: self.broken.count_and_remove(f"{stage}/{name}", self.datasets[stage][name], part)
            for name, part in batch.items()
            if part
        }
        return {name: part for name, part in accounted.items() if part}

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Draws synthetic faces and turns training photos, if the config has this done on the device."""
        stage = self._running_stage()
        if self._ahead is not None:
            self._ahead.wait()
        draw(batch, self.datasets[stage])
        if stage == "train" and self.in_memory:
            kept = cast(dict[str, InMemoryFaces], self.datasets["train"])
            batch = {name: kept[name].vary(part) for name, part in batch.items()}
        if self.turning is None or stage != "train":
            return batch
        models, train = self.label_models(), self.datasets["train"]
        turned = {name for name, part in batch.items() if "camera" in part and not train[name].rendered}
        return {name: self.turning(part, models.get(name)) if name in turned else part for name, part in batch.items()}

    def draw_ahead(self) -> None:
        """Starts drawing the faces of the next training mini-batch, if they are drawn on a GPU."""
        if self._feeds_a_gpu() and self.training_loader.latest:
            assert self.trainer is not None
            self._ahead = self._ahead or AheadRenderer(self.trainer.strategy.root_device)
            self._ahead.draw(self.training_loader.latest, self.datasets["train"])

    def _batches_done(self) -> int:
        """The number of mini-batches that the run has trained on, including those before it was resumed."""
        if self.trainer is None:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]

    def _share(self) -> Share:
        return Share() if self.trainer is None else Share(self.trainer.global_rank, self.trainer.world_size)

    def state_dict(self) -> dict[str, Any]:
        """The broken samples found so far. The positions in the sources follow from the number of steps."""
        return {"broken": {name: dict(reasons) for name, reasons in self.broken.reasons.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, reasons in state_dict["broken"].items():
            self.broken.reasons[name].update(reasons)

    def _running_stage(self) -> Stage:
        trainer = self.trainer
        if trainer is None or trainer.training:
            return "train"
        return "test" if trainer.testing else "val"
