"""What `python -m jointface.evaluate` does: open models and data, run the benchmarks, write and print the report."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from jaxtyping import Float, Int
from omegaconf import DictConfig, ListConfig
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from torch import Tensor

from jointface.benchmarks.face_pictures import faces_figure, heat_map_figure
from jointface.benchmarks.methods import FolderMethod, MeanFaceMethod, NetworkMethod, ShapeMethod
from jointface.benchmarks.prediction_files import import_predictions
from jointface.benchmarks.report import Pictures, write_report
from jointface.benchmarks.result import BenchmarkResult
from jointface.benchmarks.shape_figures import area_under_curve, cumulative_errors, error_against_yaw
from jointface.benchmarks.table_formats import QUOTED_MARK, ShownTable, show
from jointface.datamodules.aflw2000 import AFLW2000
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample
from jointface.datamodules.florence import Florence
from jointface.datamodules.on_disk import Count, require_room_for
from jointface.datamodules.packed import fingerprint
from jointface.datamodules.synthetic import SyntheticFaces
from jointface.errors import ConfigError, DataError, JointFaceError
from jointface.geometry.morphable_model import MorphableModel
from jointface.modules.checkpoint import load_model
from jointface.modules.network import FaceNetwork

log = logging.getLogger(__name__)

GRID_FACES = 6
HEAT_MAP_FACES = 100
PROTOCOLS = {"shape": "3D faces", "attributes": "attributes", "features": "features"}  # and what they ask for
ROW_STYLES = {"measured": "", "quoted": "italic", "reference": "dim"}
FILE_WIDTH = 140  # characters of a line where the output goes to a file
PRINTED_ROWS = 20  # larger tables are only in the report
PICTURE_SIZE = 256  # pixels of drawn faces, the same whoever is judged, and of the report's pictures
_RUN_PARTS = re.compile(r"checkpoints|\d+|\d{4}-\d{2}-\d{2}.*|multirun_.*")  # of a path, that name no run


@dataclass(frozen=True)
class Evaluated:
    """A benchmark that was run; pictures: the pixels of an image by its index."""

    results: Sequence[BenchmarkResult]
    pictures: Pictures


@dataclass(frozen=True)
class Judged:
    """Who is judged: networks by name, and other methods' folders of predictions by name."""

    networks: Mapping[str, FaceNetwork]
    folders: Mapping[str, Path]
    batch_size: int
    device: torch.device


def evaluate(config: DictConfig) -> dict[str, float]:
    """Runs the config's benchmarks on its checkpoints and other methods' predictions; leaves a report, see
    `jointface.benchmarks.report.write_report`.

    Of several benchmarks those whose data or task is missing are left out and named; a single one must run.

    Returns:
        The numbers of metrics.json.

    Raises:
        ConfigError: checkpoints and benchmark share no task, two methods share a name, a setting makes no sense.
        DataError: data or predictions are missing or broken. CheckpointError: a checkpoint is.
    """
    require_sense(config)
    output_dir = Path(config.output_dir)
    if config["import"] is not None:
        _import(config, output_dir)
        return {}
    judged = _judged(config)
    require_room_for(output_dir)
    evaluated: dict[str, Evaluated] = {}
    skipped: list[str] = []
    for name, benchmark in config.benchmarks.items():
        log.info("Running %s", name)
        try:
            evaluated[str(name)] = _run(str(name), benchmark, judged, config.num_images)
        except (JointFaceError, InstantiationException) as error:
            if len(config.benchmarks) == 1:
                raise
            skipped.append(f"{name} was not run: {_reason(error)}")
            log.warning(skipped[-1])
    if not evaluated:
        raise ConfigError(f"no benchmark could be run; {'; '.join(skipped)}")
    results = [result for benchmark in evaluated.values() for result in benchmark.results]
    pictures = {result.name: benchmark.pictures for benchmark in evaluated.values() for result in benchmark.results}
    page = write_report(results, output_dir, "JointFace: evaluation", _facts(config, judged), pictures, skipped)
    _print(results)
    log.info("The report is %s; tables, figures and the errors of each image are beside it", page.absolute())
    return {f"{result.name}/{key}": value for result in results for key, value in result.metrics.items()}


def require_sense(config: DictConfig) -> None:
    """Raises a ConfigError that names the setting that makes no sense."""
    if not isinstance(config.seed, int) or config.seed < 0:
        raise ConfigError(f"seed={config.seed}: expected a whole number of at least 0")
    for key in ("batch_size", "num_images"):
        value = config[key]
        if not (isinstance(value, int) and value > 0) and not (key == "num_images" and value is None):
            raise ConfigError(f"{key}={value}: expected a whole number above 0")
    if not _listed(config.checkpoint) and not _listed(config.compare) and config["import"] is None:
        raise ConfigError("nothing to judge: set checkpoint=RUN/checkpoints/best.ckpt or compare=[NAME:FOLDER]")
    if config["import"] is not None and len(config.benchmarks) != 1:
        raise ConfigError("import needs to know whose photos the files belong to: set benchmark=aflw2000 or another")


def _reason(error: Exception) -> str:
    """What a class raised while Hydra built it, without Hydra's own words."""
    cause = error.__cause__ if isinstance(error.__cause__, JointFaceError) else error
    return " ".join(str(cause).split())


# Who is judged


def _listed(setting: Any) -> list[str]:
    """A setting that is null, one word or a list."""
    if setting is None:
        return []
    return [str(value) for value in setting] if isinstance(setting, ListConfig | list) else [str(setting)]


def _judged(config: DictConfig) -> Judged:
    device = _device(config.device)
    checkpoints = named_checkpoints(_listed(config.checkpoint))
    folders = dict(_named_folder(entry) for entry in _listed(config.compare))
    names = [*checkpoints, *(_named_folder(entry)[0] for entry in _listed(config.compare))]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two methods are called {repeated[0]!r}: write NAME:PATH to name one otherwise")
    networks = {name: load_model(path) for name, path in checkpoints.items()}
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


def named_checkpoints(entries: Sequence[str]) -> dict[str, Path]:
    """Checkpoints by name: PATH, named after its run's folder, or NAME:PATH.

    runs/joint/2026-11-22_20-02-27/checkpoints/best.ckpt is called joint; where two would be called alike, they are
    told apart by the folders below it.

    Raises:
        ConfigError: two have one name.
    """
    given = [_split_name(entry) for entry in entries]
    short = [name or _run_name(path) for name, path in given]
    names = [
        _long_name(path, of_run) if name is None and short.count(of_run) > 1 else of_run
        for (name, path), of_run in zip(given, short, strict=True)
    ]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two checkpoints are called {repeated[0]!r}: write NAME:PATH to name one otherwise")
    return dict(zip(names, (path for _, path in given), strict=True))


def _split_name(entry: str) -> tuple[str | None, Path]:
    name, colon, path = entry.partition(":")
    if not colon or Path(entry).exists():
        return None, Path(entry)
    return _checked_name(name, entry), Path(path)


def _checked_name(name: str, entry: str) -> str:
    if not name or "/" in name:
        raise ConfigError(f"{entry}: a method's name is a word or more, without /, before the colon")
    return name


def _run_name(path: Path) -> str:
    """The last folder that is neither a date nor a number."""
    parents = path.absolute().parent.parts[1:]
    return next((part for part in reversed(parents) if not _RUN_PARTS.fullmatch(part)), path.stem)


def _long_name(path: Path, run: str) -> str:
    parts = path.absolute().with_suffix("").parts
    below = parts[len(parts) - parts[::-1].index(run) :] if run in parts else parts[-1:]
    return " ".join([run, *(part for part in below if part != "checkpoints")])


def _named_folder(entry: str) -> tuple[str, Path]:
    name, colon, folder = entry.partition(":")
    if not colon:
        raise ConfigError(f"compare={entry}: expected NAME:FOLDER, the name of the method and its predictions")
    return _checked_name(name, entry), Path(folder)


# One benchmark


def _run(name: str, benchmark: DictConfig, judged: Judged, num_images: int | None) -> Evaluated:
    """Opens the data of a benchmark and runs each of its protocols that a method can take part in."""
    able: dict[str, Mapping[str, Any]] = {
        "shape": {**_with_head(judged.networks, "shape_decoder"), **judged.folders},
        "attributes": _with_head(judged.networks, "attribute_classifier"),
        "features": judged.networks,
    }
    protocols = [protocol for protocol in able if protocol in benchmark and able[protocol]]
    if not protocols:
        raise ConfigError(_no_task(name, benchmark, judged))
    test = open_split(benchmark.data, "test", PICTURE_SIZE, num_images)
    run = {"shape": _shape, "attributes": _attributes, "features": _features}
    results = []
    for protocol in protocols:
        result = run[protocol](benchmark, test, judged, num_images)
        result.notes += [*_incomplete(test, num_images), *_left_out(protocol, able[protocol], judged)]
        _rank_only_the_complete(result)
        results.append(replace(result, name=name if protocol == protocols[0] else f"{name}_{protocol}"))
    return Evaluated(results, lambda index: test[index]["image"].permute(1, 2, 0).numpy())


def _rank_only_the_complete(result: BenchmarkResult) -> None:
    """A mean over fewer images is over other images: it stands beside the others, but is not the best of them."""
    if "index" not in result.per_image or result.per_image.empty:
        return
    errors = result.per_image.drop(columns=["file", "index", "method"]).select_dtypes("number")
    images = errors.notna().any(axis=1).groupby(result.per_image["method"]).sum()
    fewer = tuple(str(name) for name in images.index[images < images.max()])
    for table in result.tables:
        table.reference = tuple(dict.fromkeys((*table.reference, *fewer)))
    if fewer:
        result.notes.append(f"Means over fewer images than others, not ranked: {', '.join(fewer)}.")


def _incomplete(dataset: FaceDataset, num_images: int | None) -> list[str]:
    """What to say where the data set is not the published one, whole."""
    if num_images is not None:
        return [f"A quick look at {len(dataset):,} images: figures quoted from papers cannot be compared with these."]
    short = [c for c in dataset.inventory() if c.published is not None and c.found < c.published]
    if not short:
        return []
    return [
        f"Only {short[0].found:,} of the {short[0].published:,} published {short[0].what} are on disk: figures quoted "
        "from papers are of all of them and cannot be compared with these."
    ]


def _with_head(networks: Mapping[str, FaceNetwork], head: str) -> dict[str, FaceNetwork]:
    return {name: network for name, network in networks.items() if getattr(network, head) is not None}


def _no_task(name: str, benchmark: DictConfig, judged: Judged) -> str:
    asked = " or ".join(what for protocol, what in PROTOCOLS.items() if protocol in benchmark)
    judges = ", ".join([*judged.networks, *judged.folders])
    return f"benchmark {name} asks for {asked}, which {judges} predicts none of: choose another benchmark or checkpoint"


def _left_out(protocol: str, able: Mapping[str, Any], judged: Judged) -> list[str]:
    names = [name for name in (*judged.networks, *judged.folders) if name not in able]
    return [f"{name} is left out: it has no {PROTOCOLS[protocol]}." for name in names]


def _shape(benchmark: DictConfig, test: FaceDataset, judged: Judged, num_images: int | None) -> BenchmarkResult:
    """The benchmark's own tables, with the figures that all benchmarks of 3D faces share."""
    model: MorphableModel = instantiate(benchmark.morphable_model)
    networks = _with_head(judged.networks, "shape_decoder")
    methods: list[ShapeMethod] = [
        *(NetworkMethod(name, network, judged.batch_size, judged.device) for name, network in networks.items()),
        *(FolderMethod(name, folder, model) for name, folder in judged.folders.items()),
    ]
    result = _judge_shape(benchmark, methods, test, model)
    images = result.per_image.drop_duplicates("index").set_index("index")
    for curve in benchmark.curves:
        _add_curves(result, curve, images[benchmark.yaw])
    from_frontal = images.iloc[np.argsort(images[benchmark.yaw].abs(), kind="stable")]
    indices, stems = _some(from_frontal, GRID_FACES)
    result.figures["faces"] = faces_figure(methods, test, indices, stems, model)
    result.captions["faces"] = (
        f"Faces, evenly spread by yaw. {methods[0].name} over the photo and, its pose taken back, from two views; then "
        "other methods and the ground truth over the photo."
    )
    indices, stems = _some(images.sort_index(), HEAT_MAP_FACES)
    heat_map = heat_map_figure(methods, test, indices, stems, model)
    if heat_map is not None:
        result.figures["errors_on_the_mean_face"] = heat_map
        result.captions["errors_on_the_mean_face"] = (
            f"Where errors lie: the mean 3D error of each vertex over {len(indices)} images, on the mean face of "
            f"{model.name}, in per cent of sqrt(width x height) of the true landmark box; z relative to the mean."
        )
    result.notes += [
        f"{method.name} predicts the vertices of another morphable model than {model.name}: it takes part where "
        "landmarks and pose are compared, not in dense errors."
        for method in methods
        if isinstance(method, NetworkMethod)
        and method.topology != fingerprint(model)
        and "nme_3d_dense" in result.per_image
    ]
    return result


def _judge_shape(
    benchmark: DictConfig, methods: Sequence[ShapeMethod], test: FaceDataset, model: MorphableModel
) -> BenchmarkResult:
    """The benchmark's result, with the mean face beside the methods where the benchmark itself adds no references."""
    judge = instantiate(benchmark.shape, _convert_="all")
    if not benchmark.mean_face:
        return judge(methods, test)
    mean_face = MeanFaceMethod(model)
    if mean_face.name in {method.name for method in methods}:
        raise ConfigError(f"two methods are called {mean_face.name!r}: write NAME:PATH to name one otherwise")
    result = judge([*methods, mean_face], test)
    for table in result.tables:
        table.reference = (*table.reference, mean_face.name)
    return result


def _attributes(benchmark: DictConfig, test: FaceDataset, judged: Judged, num_images: int | None) -> BenchmarkResult:
    networks = _with_head(judged.networks, "attribute_classifier")
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


# Data


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


class Shortened(FaceDataset):
    """Some samples of a data set, in its order."""

    def __init__(self, dataset: FaceDataset, indices: Int[np.ndarray, "chosen"]) -> None:
        self.dataset, self.indices, self.transform = dataset, indices, dataset.transform
        self.split = dataset.split
        self.label_set = dataset.label_set  # type: ignore[misc]
        self.has_shape = dataset.has_shape  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.indices)

    def path(self, index: int) -> Path:
        return self.dataset.path(int(self.indices[index]))

    def read(self, index: int) -> FaceSample:
        return self.dataset.read(int(self.indices[index]))

    def alpha(self) -> Float[Tensor, "attributes"]:
        return self.dataset.alpha()

    def inventory(self) -> list[Count]:
        return self.dataset.inventory()


def shortened(dataset: FaceDataset, num_images: int) -> FaceDataset:
    """A data set of at most so many of its samples, evenly spread; whole subjects of Florence."""
    chosen = _spread(len(dataset), num_images)
    match dataset:  # benchmarks ask these for more than a sample
        case AFLW2000():
            dataset.names = dataset.names[chosen]
        case Florence():
            views = len(dataset.angles)
            subjects = _spread(len(dataset.scans), math.ceil(num_images / views))
            dataset.subjects, dataset.scans = dataset.subjects[subjects], dataset.scans[subjects]
        case SyntheticFaces():
            dataset.num_faces = len(chosen)
        case _:
            return Shortened(dataset, chosen)
    return dataset


def _spread(length: int, count: int) -> Int[np.ndarray, "count"]:
    """At most `count` indices, evenly spread."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))


# Figures


def _add_curves(result: BenchmarkResult, curve: DictConfig, yaw: pd.Series) -> None:
    """Error curves and error against yaw of one column of the errors of each image, and the area under the curve."""
    errors = errors_by_method(result.per_image, curve.error)
    if not errors:
        return
    label, limit = str(curve.label), float(curve.limit)
    scaled = {name: float(curve.scale) * values for name, values in errors.items()}
    for name, values in scaled.items():
        result.metrics[f"{name}/{curve.error}/auc"] = area_under_curve(values, limit)
    by_error, by_yaw = f"{curve.error}_curve", f"{curve.error}_by_yaw"
    result.figures[by_error] = cumulative_errors(scaled, limit, label)
    result.captions[by_error] = (
        f"Cumulative error distribution: the share of images below each error, {label}; with the area under the curve."
    )
    result.figures[by_yaw] = error_against_yaw(scaled, yaw.sort_index().to_numpy(dtype=np.float64), label)
    result.captions[by_yaw] = f"{label}, of each image against its yaw, and its mean by yaw."


def errors_by_method(per_image: pd.DataFrame, error: str) -> dict[str, Float[np.ndarray, "images"]]:
    """Errors of each image by method, in the order of their `index`, infinite where a method has no prediction; without
    methods that have none at all."""
    if error not in per_image:
        return {}
    table = per_image.pivot(index="index", columns="method", values=error).dropna(axis=1, how="all")
    names = [name for name in per_image["method"].unique() if name in table]
    return {name: table[name].fillna(np.inf).to_numpy(dtype=np.float64) for name in names}


def _some(images: pd.DataFrame, count: int) -> tuple[list[int], list[str]]:
    """Index and stem of a few images, evenly spread over the rows."""
    chosen = images.iloc[_spread(len(images), count)]
    return chosen.index.tolist(), [Path(file).stem for file in chosen["file"]]


# Import and output


def _import(config: DictConfig, output_dir: Path) -> None:
    (benchmark,) = config.benchmarks.values()
    dataset = open_split(benchmark.data, "test", PICTURE_SIZE)
    if isinstance(dataset, Florence | SyntheticFaces):
        raise ConfigError(
            "import needs photos that are files, as benchmark=aflw2000 has; write .npz files for drawn ones"
        )
    photos = {dataset.path(index).stem: dataset.path(index) for index in range(len(dataset))}
    model = instantiate(benchmark.morphable_model) if "morphable_model" in benchmark else None
    triangles = None if model is None else model.triangles
    missing = import_predictions(Path(config["import"]), output_dir, photos, triangles)
    log.info("%d predictions are in %s: judge them with compare=[NAME:%s]", len(photos) - len(missing), output_dir,
             output_dir)  # fmt: skip


def _facts(config: DictConfig, judged: Judged) -> dict[str, str]:
    checkpoints = {
        f"checkpoint {name}": str(path) for name, path in named_checkpoints(_listed(config.checkpoint)).items()
    }
    folders = {f"predictions {name}": str(folder) for name, folder in judged.folders.items()}
    facts = {**checkpoints, **folders, "data": str(config.paths.data_dir)}
    if config.num_images is not None:
        facts["images"] = f"a quick look: at most {config.num_images} of each data set, evenly spread"
    return facts


def _print(results: Sequence[BenchmarkResult]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    for result in results:
        for table in map(show, result.tables):
            if len(table.rows) <= PRINTED_ROWS:
                console.print(rich_table(table))
        for note in result.notes:
            console.print(f"{result.name}: {note}", style="dim", markup=False, highlight=False)


def rich_table(table: ShownTable) -> RichTable:
    """A table for the terminal."""
    shown = RichTable(title=Text(table.title), caption=Text(table.note) if table.note else None)
    for place, heading in enumerate(table.header):
        shown.add_column(Text(heading), justify="right" if place else "left", no_wrap=not place)
    for row in table.rows:
        name = f"{row.name} {QUOTED_MARK}" if row.kind == "quoted" else row.name
        cells = [Text(cell.text, style="bold" if cell.best else "") for cell in row.cells]
        shown.add_row(Text(name), *cells, style=ROW_STYLES[row.kind])
    return shown
