"""Judges trained models by published protocols: `python -m jointface.evaluate checkpoint=PATH benchmark=aflw2000`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig

from jointface.command_line import entry_point
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset
from jointface.datamodules.on_disk import require_room_for
from jointface.errors import ConfigError, DataError, JointFaceError
from jointface.evaluation.comparability import (
    count_images,
    drop_empty_tables,
    note_incomplete_data,
    note_incomplete_rows,
    require_comparable,
)
from jointface.evaluation.drawn_photos import photo_files, write_images
from jointface.evaluation.imported_predictions import import_predictions
from jointface.evaluation.method_names import named_checkpoints, named_folders, require_different
from jointface.evaluation.methods import (
    FolderMethod,
    MeanFaceMethod,
    NetworkMethod,
    ShapeMethod,
    prediction_files,
)
from jointface.evaluation.photo_names import folders_by_benchmark
from jointface.evaluation.quick_look import shortened
from jointface.evaluation.report import Pictures, write_report
from jointface.evaluation.result import BenchmarkResult
from jointface.evaluation.shape_figures import add_shape_figures
from jointface.evaluation.table_formats import print_results
from jointface.geometry.morphable_model import MorphableModel
from jointface.modules.checkpoint import load_model
from jointface.modules.network import FaceNetwork

log = logging.getLogger(__name__)

PROTOCOLS = {"shape": "3D faces", "attributes": "attributes", "features": "features"}  # and what they ask for
PICTURE_SIZE = 256  # pixels of drawn faces, the same whoever is judged, and of the report's pictures


@dataclass(frozen=True)
class Judged:
    """Who is judged: networks by name, and other methods' folders of predictions by name."""

    networks: Mapping[str, FaceNetwork]
    folders: Mapping[str, Path]
    batch_size: int
    device: torch.device

    def able(self, protocol: str) -> dict[str, Any]:
        """Those that predict what a protocol asks for."""
        match protocol:
            case "shape":
                return {**self.with_head("shape_decoder"), **self.folders}
            case "attributes":
                return {**self.with_head("attribute_classifier")}
            case _:
                return {**self.networks}

    def with_head(self, head: str) -> dict[str, FaceNetwork]:
        return {name: network for name, network in self.networks.items() if getattr(network, head) is not None}


def evaluate(config: DictConfig) -> dict[str, float]:
    """Runs the config's benchmarks on its checkpoints and other methods' predictions; leaves a report, see
    `jointface.evaluation.report.write_report`. With `import` it only makes a folder of predictions, with `images` alone
    one of pictures.

    Of several benchmarks those whose data or task is missing are left out and named; a single one must run.

    Returns:
        The numbers of metrics.json.

    Raises:
        ConfigError: checkpoints and benchmark share no task, two methods share a name, a setting makes no sense.
        DataError: data or predictions are missing or broken. CheckpointError: a checkpoint is.
    """
    require_sense(config)
    if config.images is not None and config["import"] is None:
        _write_images(config)
        return {}
    output_dir = _output_dir(config)
    require_room_for(output_dir)
    if config["import"] is not None:
        _import(config, output_dir)
        return {}
    judged = _judged(config)
    tests, skipped = _open_tests(config, judged)
    with_faces = {name: test for name, test in tests.items() if "shape" in config.benchmarks[name]}
    folders = folders_by_benchmark(judged.folders, with_faces)
    results: dict[str, list[BenchmarkResult]] = {}
    for name, test in tests.items():
        log.info("Running %s", name)
        there = replace(judged, folders=folders.get(name, judged.folders))
        try:
            results[name] = _run(name, config.benchmarks[name], test, there, config.num_images)
        except (JointFaceError, InstantiationException) as error:
            skipped.append(_skip(name, error, config))
            continue
        absent = [method for method in judged.folders if method not in there.folders]
        results[name][0].notes += [f"{method} is left out: it has no prediction for any photo." for method in absent]
    if not results:
        raise ConfigError(f"no benchmark could be run; {'; '.join(skipped)}")
    pictures = {
        result.name: _pictures(tests[name]) for name, of_benchmark in results.items() for result in of_benchmark
    }
    flat = [result for of_benchmark in results.values() for result in of_benchmark]
    page = write_report(flat, output_dir, "JointFace: evaluation", _facts(config, judged), pictures, skipped)
    print_results(flat)
    beside = (
        "tables, figures and the errors of each image" if any(len(r.per_image) for r in flat) else "tables and figures"
    )
    log.info("The report is %s; %s are beside it", page.absolute(), beside)
    return {f"{result.name}/{key}": value for result in flat for key, value in result.metrics.items()}


def require_sense(config: DictConfig) -> None:
    """Raises a ConfigError that names the setting that makes no sense."""
    if not isinstance(config.seed, int) or config.seed < 0:
        raise ConfigError(f"seed={config.seed}: expected a whole number of at least 0")
    for key in ("batch_size", "num_images"):
        value = config[key]
        if not (isinstance(value, int) and value > 0) and not (key == "num_images" and value is None):
            raise ConfigError(f"{key}={value}: expected a whole number above 0")
    makes_a_folder = config["import"] is not None or config.images is not None
    if not _listed(config.checkpoint) and not _listed(config.compare) and not makes_a_folder:
        raise ConfigError("nothing to judge: set checkpoint=RUN/checkpoints/best.ckpt or compare=[NAME:FOLDER]")
    if config.images is not None and len(config.benchmarks) != 1:
        raise ConfigError("images needs to know whose faces to draw: set benchmark=florence or synthetic")
    if config["import"] is not None and len(config.benchmarks) != 1:
        raise ConfigError("import needs to know whose photos the files belong to: set benchmark=aflw2000 or another")


def _output_dir(config: DictConfig) -> Path:
    if config.output_dir is not None:
        return Path(config.output_dir)
    if config["import"] is not None:
        return Path("predictions", config.name, Path(config["import"]).absolute().name)
    return Path("evaluation", config.name)


def _skip(name: str, error: Exception, config: DictConfig) -> str:
    """Why a benchmark of several is not run; the error of a single one is the evaluation's own."""
    if len(config.benchmarks) == 1:
        raise error
    cause = error.__cause__ if isinstance(error.__cause__, JointFaceError) else error  # without Hydra's own words
    reason = f"{name} was not run: {' '.join(str(cause).split())}"
    log.warning(reason)
    return reason


# Who is judged


def _listed(setting: Any) -> list[str]:
    """A setting that is null, one word or a list."""
    if setting is None:
        return []
    return [str(value) for value in setting] if isinstance(setting, ListConfig | list) else [str(setting)]


def _judged(config: DictConfig) -> Judged:
    device = _device(config.device)
    checkpoints = named_checkpoints(_listed(config.checkpoint))
    folders = named_folders(_listed(config.compare))
    require_different([*checkpoints, *folders])
    for name, folder in folders.items():
        prediction_files(name, folder)  # that they are there, before anything is opened
    precision = _precision(config.precision, device)
    networks = {name: load_model(path).to(precision) for name, path in checkpoints.items()}
    return Judged(networks, folders, config.batch_size, device)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's words for an unknown and for an absent device
        raise ConfigError(f"device={name}: there is no such device here; set auto or cpu") from error
    return device


def _precision(name: str, device: torch.device) -> torch.dtype:
    """In float64 the algorithms that batches of different sizes take agree to far more digits than are reported."""
    known = {"float64": torch.float64, "float32": torch.float32}
    if name not in known:
        raise ConfigError(f"precision={name}: known are {', '.join(known)}")
    if name == "float64" and device.type == "mps":
        raise ConfigError("device=mps has no float64: set precision=float32, or device=cpu")
    return known[name]


# Data


def _open_tests(config: DictConfig, judged: Judged) -> tuple[dict[str, FaceDataset], list[str]]:
    """The test data of each benchmark that somebody can take part in, and why the others are not run."""
    tests: dict[str, FaceDataset] = {}
    skipped = []
    for name, benchmark in config.benchmarks.items():
        try:
            if not any(protocol in benchmark and judged.able(protocol) for protocol in PROTOCOLS):
                raise ConfigError(_no_task(name, benchmark, judged))
            with _naming_data_dir(config.paths.data_dir):
                tests[name] = open_split(benchmark.data, "test", PICTURE_SIZE, config.num_images)
        except (JointFaceError, InstantiationException) as error:
            skipped.append(_skip(name, error, config))
    return tests, skipped


@contextmanager
def _naming_data_dir(folder: str) -> Iterator[None]:
    """Where paths.data_dir is no folder, an error about something in it begins with that."""
    try:
        yield
    except (JointFaceError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, JointFaceError) else error
        if Path(folder).is_dir() or str(Path(folder).absolute()) not in str(cause):
            raise
        raise DataError(
            f"paths.data_dir={folder} is no folder: set it to the one that holds the data sets; {cause}"
        ) from error


def _no_task(name: str, benchmark: DictConfig, judged: Judged) -> str:
    asked = " or ".join(what for protocol, what in PROTOCOLS.items() if protocol in benchmark)
    judges = ", ".join([*judged.networks, *judged.folders])
    return f"benchmark {name} asks for {asked}, which {judges} predicts none of: choose another benchmark or checkpoint"


def open_split(data: DictConfig, stage: str, image_size: int, num_images: int | None = None) -> FaceDataset:
    """The split of a source's data set that a stage uses; with num_images only so many of it, evenly spread.

    Raises:
        DataError: the data set is missing or malformed.
    """
    dataset = instantiate(data.dataset, _convert_="all")(split=data.splits[stage], transform=CropTransform(image_size))
    return dataset if num_images is None else shortened(dataset, num_images)


def _open_if_there(data: DictConfig, stage: str, image_size: int, num_images: int | None) -> FaceDataset | None:
    """A split that a benchmark can do without, and that its notes then say it did without."""
    if stage not in data.splits:
        return None
    try:
        return open_split(data, stage, image_size, num_images)
    except DataError as error:
        log.warning("Going on without the %s split: %s", stage, error)
        return None


def _pictures(dataset: FaceDataset) -> Pictures:
    return lambda index: dataset[index]["image"].permute(1, 2, 0).numpy()


# One benchmark


def _run(
    name: str, benchmark: DictConfig, test: FaceDataset, judged: Judged, num_images: int | None
) -> list[BenchmarkResult]:
    """Runs each protocol of a benchmark that a method can take part in."""
    run = {"shape": _shape, "attributes": _attributes, "features": _features}
    protocols = [protocol for protocol in PROTOCOLS if protocol in benchmark and judged.able(protocol)]
    if not protocols:
        raise ConfigError("no folder of predictions holds one for its photos")
    results = []
    for protocol in protocols:
        result = run[protocol](benchmark, test, judged, num_images)
        others = [method for method in (*judged.networks, *judged.folders) if method not in judged.able(protocol)]
        note_incomplete_data(result, test, num_images)
        result.notes += [f"{method} is left out: it has no {PROTOCOLS[protocol]}." for method in others]
        note_incomplete_rows(result)
        drop_empty_tables(result)
        count_images(result, len(test))
        results.append(replace(result, name=name if protocol == protocols[0] else f"{name}_{protocol}"))
    return results


def _shape(benchmark: DictConfig, test: FaceDataset, judged: Judged, num_images: int | None) -> BenchmarkResult:
    """The benchmark's own tables, with the figures that all benchmarks of 3D faces share."""
    model: MorphableModel = instantiate(benchmark.morphable_model)
    networks = judged.with_head("shape_decoder")
    folders = [FolderMethod(name, folder, model) for name, folder in judged.folders.items()]
    methods: list[ShapeMethod] = [
        *(NetworkMethod(name, network, judged.batch_size, judged.device) for name, network in networks.items()),
        *folders,
    ]
    result = _judge_shape(benchmark, methods, test, model)
    require_comparable(result, judged.folders)
    add_shape_figures(result, methods, test, model, benchmark.curves)
    result.notes[:0] = [remark for folder in folders for remark in folder.remarks()]
    return result


def _judge_shape(
    benchmark: DictConfig, methods: Sequence[ShapeMethod], test: FaceDataset, model: MorphableModel
) -> BenchmarkResult:
    """The benchmark's result, with the mean face beside the methods where the benchmark itself adds no references."""
    judge = instantiate(benchmark.shape, _convert_="all")
    if not benchmark.mean_face:
        return judge(methods, test)
    mean_face = MeanFaceMethod(model)
    require_different([*(method.name for method in methods), mean_face.name])
    result = judge([*methods, mean_face], test)
    for table in result.tables:
        table.reference = (*table.reference, mean_face.name)
    return result


def _attributes(benchmark: DictConfig, test: FaceDataset, judged: Judged, num_images: int | None) -> BenchmarkResult:
    networks = judged.with_head("attribute_classifier")
    related = {name: network for name, network in networks.items() if _shares_attribute(network, test)}
    val = _open_if_there(benchmark.data, "val", PICTURE_SIZE, num_images)
    train = _open_if_there(benchmark.data, "train", PICTURE_SIZE, None)
    judge = instantiate(benchmark.attributes, _convert_="all")
    alpha = None if train is None else train.alpha()
    # Where none is related, the benchmark says what they have.
    result = judge(related or networks, test, val, alpha, batch_size=judged.batch_size, device=judged.device)
    unrelated = sorted(networks.keys() - related.keys())
    result.notes += [f"{name} is left out: it knows none of these attributes." for name in unrelated]
    return result


def _shares_attribute(network: FaceNetwork, dataset: FaceDataset) -> bool:
    labelled = dataset.label_set.attributes if dataset.label_set is not None else ()
    return not set(network.attributes).isdisjoint(labelled)


def _features(benchmark: DictConfig, test: FaceDataset, judged: Judged, num_images: int | None) -> BenchmarkResult:
    judge = instantiate(benchmark.features, _convert_="all")
    return judge(judged.networks, test, batch_size=judged.batch_size, device=judged.device)


# Import, and what the report says of the evaluation


def _import(config: DictConfig, output_dir: Path) -> None:
    (benchmark,) = config.benchmarks.values()
    with _naming_data_dir(config.paths.data_dir):
        dataset = open_split(benchmark.data, "test", PICTURE_SIZE)
    photos = photo_files(dataset, None if config.images is None else Path(config.images))
    model = instantiate(benchmark.morphable_model) if "morphable_model" in benchmark else None
    source = Path(config["import"])
    missing = import_predictions(source, output_dir, photos, None if model is None else model.triangles)
    log.info("%d predictions are in %s: judge them with compare=[%s:%s]", len(photos) - len(missing),
             output_dir.absolute(), source.absolute().name, output_dir)  # fmt: skip


def _write_images(config: DictConfig) -> None:
    (benchmark,) = config.benchmarks.values()
    folder = Path(config.images)
    require_room_for(folder)
    with _naming_data_dir(config.paths.data_dir):
        dataset = open_split(benchmark.data, "test", PICTURE_SIZE, config.num_images)
    written = write_images(dataset, folder)
    log.info("%d pictures are in %s: judge what a method predicts from them, %s.npz and so on, with "
             "compare=[NAME:PREDICTIONS]", len(written), folder.absolute(), written[0])  # fmt: skip


def _facts(config: DictConfig, judged: Judged) -> dict[str, str]:
    checkpoints = named_checkpoints(_listed(config.checkpoint))
    facts = {f"checkpoint {name}": str(path) for name, path in checkpoints.items()}
    facts |= {f"predictions {name}": str(folder) for name, folder in judged.folders.items()}
    facts["data"] = str(config.paths.data_dir)
    if config.num_images is not None:
        facts["images"] = f"a quick look: at most {config.num_images} of each data set, evenly spread"
    return facts


@entry_point("evaluate")
def main(config: DictConfig) -> None:
    """Runs the benchmarks of the config."""
    evaluate(config)


if __name__ == "__main__":
    main()
