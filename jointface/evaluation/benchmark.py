"""Runs the benchmarks of a config: each runs its protocols on test data for all participants."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset
from jointface.errors import ConfigError, DataError, JointFaceError
from jointface.evaluation.benchmark_result import BenchmarkResult
from jointface.evaluation.comparability import (
    count_images,
    drop_empty_tables,
    note_incomplete_data,
    note_incomplete_rows,
    require_comparable,
)
from jointface.evaluation.group_gaps import ANCESTRY, BINARY, add_group_tables, groups_of_files
from jointface.evaluation.methods import FolderMethod, MeanFaceMethod, NetworkMethod, ShapeMethod
from jointface.evaluation.participants import Participants, folders_by_benchmark, require_different
from jointface.evaluation.shape_figures import add_shape_figures

log = logging.getLogger(__name__)

PROTOCOLS = {"shape": "3D faces", "attributes": "attributes", "features": "features"}  # what each protocol compares
HEADS = {"shape": "shape_decoder", "attributes": "attribute_classifier"}  # the head that each protocol requires
IMAGE_SIZE = 256  # side of rendered faces and of the report's pictures in pixels; networks use their own crops


def open_split(
    config: DictConfig, data_dir: str | Path, split: str = "test", num_images: int | None = None
) -> FaceDataset:
    """Opens a split of a benchmark's data set, or at most `num_images` evenly spaced samples of it.

    Raises:
        DataError: the data set is missing or broken. The message names `data_dir` if that folder does not exist.
    """
    data = config.data
    try:
        make_dataset = instantiate(data.dataset, _convert_="all")
        dataset = make_dataset(split=data.splits[split], transform=CropTransform(IMAGE_SIZE))
    except (JointFaceError, InstantiationException) as error:
        cause = _unwrap(error)
        if Path(data_dir).is_dir() or str(Path(data_dir).absolute()) not in str(cause):
            raise
        raise DataError(
            f"paths.data_dir={data_dir} is not a folder: set it to the one that holds the data sets; {cause}"
        ) from error
    return dataset if num_images is None else dataset.subset(num_images)


@dataclass
class Benchmark:
    """A benchmark and its participants. config: its entry in `benchmarks`. num_images: the largest number of images
    to use from the test and the validation split; None takes all. groups: of photos, see `group_gaps.read_groups`."""

    name: str
    config: DictConfig
    participants: Participants
    data_dir: str
    num_images: int | None = None
    groups: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def test(self) -> FaceDataset:
        return open_split(self.config, self.data_dir, "test", self.num_images)

    @cached_property
    def able(self) -> dict[str, list[str]]:
        """For each protocol of the benchmark, the participants that predict what it compares, if there are any.

        Raises:
            ConfigError: no protocol has a participant.
        """
        if not self.participants.names:
            raise ConfigError("no folder holds a prediction for its photos")
        protocols = [protocol for protocol in PROTOCOLS if protocol in self.config]
        able = {protocol: [*self.participants.networks_with(HEADS.get(protocol))] for protocol in protocols}
        if "shape" in able:
            able["shape"] += self.participants.folders
        if not any(able.values()):
            raise ConfigError(
                f"benchmark {self.name} needs {' or '.join(PROTOCOLS[protocol] for protocol in protocols)}, which none "
                f"of {', '.join(self.participants.names)} predicts: choose another benchmark or checkpoint"
            )
        return {protocol: names for protocol, names in able.items() if names}

    def keep_folders(self, folders: Mapping[str, Path]) -> None:
        """Keeps only these folders of predictions; notes which others are left out."""
        absent = [name for name in self.participants.folders if name not in folders]
        self.notes += [f"{name} is left out: it has no prediction for any photo." for name in absent]
        self.participants = replace(self.participants, folders=folders)
        del self.able

    def run(self) -> list[BenchmarkResult]:
        """Runs the protocols. The first result is named after the benchmark, the others NAME_PROTOCOL."""
        run = {"shape": self._shape, "attributes": self._attributes, "features": self._features}
        results: list[BenchmarkResult] = []
        for protocol, able in self.able.items():
            result = run[protocol](self.test)
            note_incomplete_data(result, self.test, self.num_images)
            unable = [name for name in self.participants.names if name not in able]
            result.notes += [f"{name} is left out: it has no {PROTOCOLS[protocol]}." for name in unable]
            note_incomplete_rows(result)
            drop_empty_tables(result)
            count_images(result, len(self.test))
            result.pictures = lambda index: self.test[index]["image"].permute(1, 2, 0).numpy()
            result.name = f"{self.name}_{protocol}" if results else self.name
            results.append(result)
        results[0].notes += self.notes
        return results

    def _shape(self, test: FaceDataset) -> BenchmarkResult:
        """The protocol's tables, and the figures that all protocols for 3D faces share."""
        model = instantiate(self.config.morphable_model)
        protocol = instantiate(self.config.shape, _convert_="all")
        networks = self.participants.networks_with("shape_decoder")
        folders = [FolderMethod(name, folder, model) for name, folder in self.participants.folders.items()]
        placement = self.participants.placement
        methods: list[ShapeMethod] = [NetworkMethod(name, network, **placement) for name, network in networks.items()]
        methods += folders
        references = [MeanFaceMethod(model)] if self.config.mean_face else []  # else the protocol adds its own
        require_different([method.name for method in (*methods, *references)])
        result: BenchmarkResult = protocol([*methods, *references], test)
        for table in result.tables:
            table.reference += tuple(method.name for method in references)
        require_comparable(result, self.participants.folders)
        add_shape_figures(result, methods, test, model, self.config.curves)
        of_images = result.per_image.drop_duplicates("index").set_index("index")
        groups = of_images[[column for column in (*BINARY, ANCESTRY) if column in of_images]]
        if (given := self._groups(test)) is not None:
            groups = given.loc[of_images.index].combine_first(groups)
            result.per_image = result.per_image.drop(columns=groups.columns, errors="ignore").join(groups, on="index")
        add_group_tables(result, [*groups], {curve.error: (curve.label, curve.scale) for curve in self.config.curves})
        result.notes[:0] = [remark for folder in folders for remark in folder.remarks()]
        return result

    def _attributes(self, test: FaceDataset) -> BenchmarkResult:
        networks = self.participants.networks_with("attribute_classifier")
        val, train = self._optional_split("val", self.num_images), self._optional_split("train")
        alpha = None if train is None else train.alpha()
        protocol = instantiate(self.config.attributes, _convert_="all")
        return protocol(networks, test, val, alpha, **self.participants.placement, groups=self._groups(test))

    def _features(self, test: FaceDataset) -> BenchmarkResult:
        protocol = instantiate(self.config.features, _convert_="all")
        return protocol(self.participants.networks, test, **self.participants.placement)

    def _groups(self, test: FaceDataset) -> pd.DataFrame | None:
        """The groups of the test samples in the given table, or those that the data set itself has, if any."""
        if self.groups is None:
            return test.groups
        if (groups := groups_of_files(test, self.groups)) is None:
            self.notes.append(f"groups: no row is of a photo of this benchmark, such as {test.name(0)}.")
            log.warning("%s: %s", self.name, self.notes[-1])
        return groups

    def _optional_split(self, split: str, num_images: int | None = None) -> FaceDataset | None:
        """Opens a split that the benchmark does not require; None if it is missing."""
        if split not in self.config.data.splits:
            return None
        try:
            return open_split(self.config, self.data_dir, split, num_images)
        except DataError as error:
            log.warning("Continuing without the %s split: %s", split, error)
            return None


def run_benchmarks(
    configs: Mapping[str, DictConfig],
    participants: Participants,
    data_dir: str,
    num_images: int | None,
    groups: pd.DataFrame | None = None,
) -> tuple[list[BenchmarkResult], list[str]]:
    """Finds out which benchmarks can run and which folders hold predictions for them, then runs them.

    Returns:
        The results, and why the other benchmarks could not run. If there is only one benchmark, its error is raised.

    Raises:
        ConfigError: no benchmark could run. DataError: a folder holds no prediction for any photo of any benchmark.
    """
    skipped: list[str] = []

    @contextmanager
    def skip_on_error(name: str) -> Iterator[None]:
        try:
            yield
        except (JointFaceError, InstantiationException) as error:
            if len(configs) == 1:
                raise
            skipped.append(f"{name} was not run: {' '.join(str(_unwrap(error)).split())}")
            log.warning(skipped[-1])

    benchmarks: dict[str, Benchmark] = {}
    tests: dict[str, FaceDataset] = {}  # of 3D faces
    for name, config in configs.items():
        with skip_on_error(name):
            benchmark = Benchmark(name, config, participants, data_dir, num_images, groups)
            able, test = benchmark.able, benchmark.test
            benchmarks[name] = benchmark
            tests |= {name: test} if "shape" in able else {}
    for name, folders in folders_by_benchmark(participants.folders, tests).items():
        benchmarks[name].keep_folders(folders)
    results: list[BenchmarkResult] = []
    for name, benchmark in benchmarks.items():
        log.info("Running %s", name)
        with skip_on_error(name):
            results += benchmark.run()
    if not results:
        raise ConfigError(f"no benchmark could be run; {'; '.join(skipped)}")
    return results, skipped


def _unwrap(error: BaseException) -> BaseException:
    """The error of this package behind the error that Hydra raises if it cannot build an object."""
    return error.__cause__ if isinstance(error.__cause__, JointFaceError) else error
