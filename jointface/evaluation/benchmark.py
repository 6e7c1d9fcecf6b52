"""Benchmarks of a config: each has test data, participants, and protocols that it runs on them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset
from jointface.errors import ConfigError, DataError, JointFaceError
from jointface.evaluation.comparability import (
    count_images,
    drop_empty_tables,
    note_incomplete_data,
    note_incomplete_rows,
    require_comparable,
)
from jointface.evaluation.methods import FolderMethod, MeanFaceMethod, NetworkMethod
from jointface.evaluation.participants import Participants, folders_by_benchmark, require_different
from jointface.evaluation.result import BenchmarkResult
from jointface.evaluation.shape_figures import add_shape_figures
from jointface.modules.network import FaceNetwork

log = logging.getLogger(__name__)

PROTOCOLS = {"shape": "3D faces", "attributes": "attributes", "features": "features"}  # and what they compare
HEADS = {"shape": "shape_decoder", "attributes": "attribute_classifier"}  # that a protocol asks of a network
IMAGE_SIZE = 256  # pixels of rendered faces and of the report's pictures; networks make crops of their own


def open_split(
    config: DictConfig, data_dir: str | Path, split: str = "test", num_images: int | None = None
) -> FaceDataset:
    """A split of a benchmark's data set, or at most `num_images` of it, evenly spaced.

    Args:
        config: of the benchmark. data_dir: where data sets are; an error names it if it is no folder.

    Raises:
        DataError: the data set is missing or broken.
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
            f"paths.data_dir={data_dir} is no folder: set it to the one that holds the data sets; {cause}"
        ) from error
    return dataset if num_images is None else dataset.subset(num_images)


@dataclass
class Benchmark:
    """A benchmark and who takes part in it.

    name: "aflw2000". config: its entry in `benchmarks`. data_dir: where data sets are. num_images: at most so many of
    the test and of the validation split; None takes all.
    """

    name: str
    config: DictConfig
    participants: Participants
    data_dir: str
    num_images: int | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def test(self) -> FaceDataset:
        return open_split(self.config, self.data_dir, "test", self.num_images)

    def protocols(self) -> list[str]:
        """The protocols that a participant can take part in.

        Raises:
            ConfigError: there is none.
        """
        if not self.participants.names:
            raise ConfigError("no folder of predictions holds one for its photos")
        protocols = [protocol for protocol in PROTOCOLS if protocol in self.config]
        possible = [protocol for protocol in protocols if self.able(protocol)]
        if not possible:
            raise ConfigError(
                f"benchmark {self.name} asks for {' or '.join(PROTOCOLS[protocol] for protocol in protocols)}, which "
                f"{', '.join(self.participants.names)} predicts none of: choose another benchmark or checkpoint"
            )
        return possible

    def able(self, protocol: str) -> list[str]:
        """The participants that predict what a protocol compares."""
        folders = self.participants.folders if protocol == "shape" else ()
        return [*self.participants.networks_with(HEADS.get(protocol)), *folders]

    def keep_folders(self, folders: Mapping[str, Path]) -> None:
        """Leaves out the other folders of predictions, with a note."""
        absent = [name for name in self.participants.folders if name not in folders]
        self.notes += [f"{name} is left out: it has no prediction for any photo." for name in absent]
        self.participants = replace(self.participants, folders=folders)

    def run(self) -> list[BenchmarkResult]:
        """Runs the protocols. The first result is called after the benchmark, the others NAME_PROTOCOL."""
        run = {"shape": self._shape, "attributes": self._attributes, "features": self._features}
        results: list[BenchmarkResult] = []
        for protocol in self.protocols():
            result = run[protocol](self.test)
            note_incomplete_data(result, self.test, self.num_images)
            unable = [name for name in self.participants.names if name not in self.able(protocol)]
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
        """The protocol's tables, and the figures that all protocols of 3D faces share."""
        model = instantiate(self.config.morphable_model)
        judge = instantiate(self.config.shape, _convert_="all")
        networks = self.participants.networks_with("shape_decoder")
        folders = [FolderMethod(name, folder, model) for name, folder in self.participants.folders.items()]
        methods = [NetworkMethod(name, network, **self._placement()) for name, network in networks.items()] + folders
        references = [MeanFaceMethod(model)] if self.config.mean_face else []  # else the protocol adds its own
        require_different([method.name for method in (*methods, *references)])
        result: BenchmarkResult = judge([*methods, *references], test)
        for table in result.tables:
            table.reference += tuple(method.name for method in references)
        require_comparable(result, self.participants.folders)
        add_shape_figures(result, methods, test, model, self.config.curves)
        result.notes[:0] = [remark for folder in folders for remark in folder.remarks()]
        return result

    def _attributes(self, test: FaceDataset) -> BenchmarkResult:
        networks = self.participants.networks_with("attribute_classifier")
        related = {name: network for name, network in networks.items() if _shares_attribute(network, test)}
        val, train = self._optional_split("val", self.num_images), self._optional_split("train")
        alpha = None if train is None else train.alpha()
        judge = instantiate(self.config.attributes, _convert_="all")
        result: BenchmarkResult = judge(related or networks, test, val, alpha, **self._placement())
        unrelated = sorted(networks.keys() - related.keys())
        result.notes += [f"{name} is left out: it knows none of these attributes." for name in unrelated]
        return result

    def _features(self, test: FaceDataset) -> BenchmarkResult:
        judge = instantiate(self.config.features, _convert_="all")
        return judge(self.participants.networks, test, **self._placement())

    def _placement(self) -> dict[str, Any]:
        return {"batch_size": self.participants.batch_size, "device": self.participants.device}

    def _optional_split(self, split: str, num_images: int | None = None) -> FaceDataset | None:
        """A split that the benchmark can do without; its notes then say so."""
        if split not in self.config.data.splits:
            return None
        try:
            return open_split(self.config, self.data_dir, split, num_images)
        except DataError as error:
            log.warning("Going on without the %s split: %s", split, error)
            return None


def _shares_attribute(network: FaceNetwork, dataset: FaceDataset) -> bool:
    labelled = dataset.label_set.attributes if dataset.label_set is not None else ()
    return not set(network.attributes).isdisjoint(labelled)


def open_benchmarks(
    configs: Mapping[str, DictConfig], participants: Participants, data_dir: str, num_images: int | None
) -> tuple[list[Benchmark], list[str]]:
    """Finds out which benchmarks can run, and which folders hold predictions for them.

    Returns:
        The benchmarks, and why the others cannot run. The error of a single one is raised.

    Raises:
        DataError: a folder holds no prediction for any photo of any benchmark.
    """
    benchmarks: dict[str, Benchmark] = {}
    tests: dict[str, FaceDataset] = {}
    skipped: list[str] = []
    for name, config in configs.items():
        with _skip_on_error(name, skipped, len(configs)):
            benchmark = Benchmark(name, config, participants, data_dir, num_images)
            protocols, test = benchmark.protocols(), benchmark.test
            benchmarks[name] = benchmark
            if "shape" in protocols:
                tests[name] = test
    for name, folders in folders_by_benchmark(participants.folders, tests).items():
        benchmarks[name].keep_folders(folders)
    return list(benchmarks.values()), skipped


def run_benchmarks(benchmarks: Sequence[Benchmark], skipped: list[str]) -> list[BenchmarkResult]:
    """The results of all benchmarks. Adds to `skipped` why one of several could not run.

    Raises:
        ConfigError: none could.
    """
    results = []
    several = len(benchmarks) + len(skipped)
    for benchmark in benchmarks:
        log.info("Running %s", benchmark.name)
        with _skip_on_error(benchmark.name, skipped, several):
            results += benchmark.run()
    if not results:
        raise ConfigError(f"no benchmark could be run; {'; '.join(skipped)}")
    return results


@contextmanager
def _skip_on_error(name: str, skipped: list[str], of: int) -> Iterator[None]:
    """Adds to `skipped` why one of several benchmarks cannot run. The error of a single one is raised."""
    try:
        yield
    except (JointFaceError, InstantiationException) as error:
        if of == 1:
            raise
        skipped.append(f"{name} was not run: {' '.join(str(_unwrap(error)).split())}")
        log.warning(skipped[-1])


def _unwrap(error: BaseException) -> BaseException:
    """The error of this package behind the one that Hydra raises where a class cannot be built."""
    return error.__cause__ if isinstance(error.__cause__, JointFaceError) else error
