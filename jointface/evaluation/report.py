"""The report of an evaluation: numbers, tables for papers, errors of each image, figures, one page with all of it."""

import base64
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import jinja2
import numpy as np
import pandas as pd
from jaxtyping import UInt8
from matplotlib.figure import Figure

from jointface.evaluation.comparability import error_columns
from jointface.evaluation.result import DATA_SETS, MISSING_FILE, BenchmarkResult
from jointface.evaluation.table_formats import ShownTable, latex, markdown, show, slug
from jointface.files import write_atomically

Pictures = Callable[[int], UInt8[np.ndarray, "height width 3"]]

LISTED = 8  # worst and best images of each method
THUMBNAIL = 112  # pixels


@dataclass(frozen=True)
class Listed:
    """An image in the lists of worst and best ones; thumbnail: a data URI, empty where there is no picture."""

    file: str
    error: float
    thumbnail: str


@dataclass(frozen=True)
class Extremes:
    """The worst and the best images of a method by one of its errors."""

    method: str
    error: str
    worst: tuple[Listed, ...]
    best: tuple[Listed, ...]


@dataclass(frozen=True)
class ShownFigure:
    """A figure on the page; image: a data URI. alt: what it is, for who cannot see it. width: in inches."""

    caption: str
    alt: str
    image: str
    width: float


@dataclass(frozen=True)
class Section:
    """A benchmark on the page."""

    title: str
    notes: Sequence[str]
    tables: Sequence[ShownTable]
    figures: Sequence[ShownFigure]
    extremes: Sequence[Extremes]


def write_report(
    results: Sequence[BenchmarkResult],
    output_dir: Path,
    title: str = "Evaluation",
    facts: Mapping[str, str] | None = None,
    pictures: Mapping[str, Pictures] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Writes what benchmarks say of all methods.

        metrics.json                       flat: BENCHMARK/METHOD/METRIC to a number, sorted; null where undefined
        tables/BENCHMARK_TITLE.md, .tex    each table; the best value bold, rows quoted from papers in italics, marked
        per_image/BENCHMARK.csv            a row for each image and method
        missing.csv                        each image that a method has no prediction for, where there are some
        figures/BENCHMARK_NAME.png, .pdf
        report.html                        all of it on one page that needs no other file

    Everything is made before the first file is written, and each file is written whole; report.html comes last.

    Args:
        results: of the benchmarks; figures may be drawn on no more afterwards.
        output_dir: folder to write to. title: of the page.
        facts: what was evaluated, in words, by what it is: checkpoints, command, date.
        pictures: for each benchmark a function from an image's `index` to its pixels, for thumbnails.
        notes: of the evaluation as a whole, such as benchmarks that could not be run.

    Returns:
        The path of report.html.

    Raises:
        DataError: a file cannot be written. ValueError: a figure has no caption, or two tables have one title.
    """
    pictures = pictures or {}
    files = {Path("metrics.json"): _metrics_json(results)}
    sections = []
    for result in results:
        tables = [show(table) for table in result.tables]
        images = {name: picture_files(figure) for name, figure in result.figures.items()}
        files |= _table_files(result.name, tables) | _figure_files(result.name, images)
        if len(result.per_image):
            csv = result.per_image.to_csv(index=False, float_format="%.6g", lineterminator="\n")
            files[Path("per_image") / f"{slug(result.name)}.csv"] = csv.encode()
        figures = [_shown_figure(result, name, formats["png"]) for name, formats in images.items()]
        extremes = extremes_of(_competitors(result), pictures.get(result.name))
        sections.append(Section(_title(result.name), result.notes, tables, figures, extremes))
    if missing := _missing_csv(results):
        files[Path(MISSING_FILE)] = missing
    page = _page().render(title=title, facts=facts or {}, notes=notes, sections=sections)
    files[Path("report.html")] = page.encode()
    _remove_earlier(output_dir)
    for path, data in files.items():
        write_atomically(output_dir / path, data)
    return output_dir / "report.html"


def _remove_earlier(output_dir: Path) -> None:
    """Files of an earlier report, which may have had others."""
    if (output_dir / "report.html").is_file():
        of_report = ("tables/*.md", "tables/*.tex", "figures/*.png", "figures/*.pdf", "per_image/*.csv", MISSING_FILE)
        for pattern in of_report:
            for path in output_dir.glob(pattern):
                path.unlink()


def _metrics_json(results: Sequence[BenchmarkResult]) -> bytes:
    metrics = {f"{result.name}/{key}": value for result in results for key, value in result.metrics.items()}
    defined = {key: value if math.isfinite(value) else None for key, value in sorted(metrics.items())}
    return (json.dumps(defined, indent=2, allow_nan=False) + "\n").encode()


def _missing_csv(results: Sequence[BenchmarkResult]) -> bytes:
    """BENCHMARK, METHOD, FILE in the order of the results; empty where every method predicts every image."""
    rows = [
        (result.name, method, file) for result in results for method, files in result.missing.items() for file in files
    ]
    frame = pd.DataFrame(rows, columns=["benchmark", "method", "file"])
    return frame.to_csv(index=False, lineterminator="\n").encode() if rows else b""


def _shown_figure(result: BenchmarkResult, name: str, png: bytes) -> ShownFigure:
    if not result.captions.get(name):
        raise ValueError(f"figure {name!r} of {result.name} has no caption")
    alt = f"{_title(result.name)}: {re.split(r'[.:;](?: |$)', result.captions[name])[0]}"  # of a caption what it is
    width = float(result.figures[name].get_figwidth())
    return ShownFigure(result.captions[name], alt, _data_uri(png, "png"), width)


def _table_files(name: str, tables: Sequence[ShownTable]) -> dict[Path, bytes]:
    files: dict[Path, bytes] = {}
    for table in tables:
        stem = _stem(name, table.title)
        if (place := Path("tables") / f"{stem}.md") in files:
            raise ValueError(f"two tables of {name} are called {table.title!r}")
        files[place] = markdown(table).encode()
        files[place.with_suffix(".tex")] = latex(table, stem.replace("_", ":")).encode()
    return files


def _figure_files(name: str, images: Mapping[str, Mapping[str, bytes]]) -> dict[Path, bytes]:
    return {
        Path("figures") / f"{_stem(name, figure)}.{ending}": data
        for figure, formats in images.items()
        for ending, data in formats.items()
    }


def _stem(benchmark: str, part: str) -> str:
    """BENCHMARK_PART as part of a file name; what names the benchmark already stays as it is."""
    benchmark, part = slug(benchmark), slug(part)
    return part if part.startswith(benchmark) else f"{benchmark}_{part}"


def _competitors(result: BenchmarkResult) -> pd.DataFrame:
    """The errors of each image without those of floors and trivial predictors."""
    return result.per_image[~result.per_image["method"].isin(result.references)]


def _title(name: str) -> str:
    known, _, part = name.partition("_")
    if known not in DATA_SETS:
        return _words(name)
    return f"{DATA_SETS[known]}, {_words(part).lower()}" if part else DATA_SETS[known]


def _words(name: str) -> str:
    return re.sub(r"[_-]+", " ", name).capitalize()


def picture_files(figure: Figure) -> dict[str, bytes]:
    """A figure as PNG and PDF; without dates, so that equal figures are equal files."""
    files = {}
    for ending, metadata in {"png": {"Software": None}, "pdf": {"CreationDate": None}}.items():
        stream = io.BytesIO()
        figure.savefig(stream, format=ending, dpi=150, metadata=metadata)
        files[ending] = stream.getvalue()
    return files


def extremes_of(per_image: pd.DataFrame, pictures: Pictures | None, count: int = LISTED) -> list[Extremes]:
    """The images with the largest and the smallest error of each method, by the first error that the method has.

    Args:
        per_image: of a `BenchmarkResult`. pictures: makes thumbnails. count: images of each kind.
    """
    errors = error_columns(per_image)
    if not errors or "method" not in per_image:
        return []
    thumbnail = cache(lambda index: _thumbnail(pictures(index)) if pictures is not None else "")

    def listed(rows: pd.DataFrame, error: str) -> tuple[Listed, ...]:
        return tuple(
            Listed(str(row["file"]), float(row[error]), thumbnail(int(row["index"]))) for _, row in rows.iterrows()
        )

    extremes = []
    for method, rows in per_image.groupby("method", sort=False):
        error = next((column for column in errors if rows[column].notna().any()), None)
        if error is None:
            continue
        ordered = rows.dropna(subset=[error]).sort_values([error, "index"], kind="stable")
        half = min(count, math.ceil(len(ordered) / 2))  # no image is among the worst and the best
        worst = ordered.iloc[::-1].head(half)
        best = ordered.head(min(half, len(ordered) - half))
        extremes.append(Extremes(str(method), error, listed(worst, error), listed(best, error)))
    return extremes


def _thumbnail(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    """A data URI of the picture, its longer side THUMBNAIL pixels."""
    height, width = picture.shape[:2]
    scale = THUMBNAIL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return _data_uri(jpeg.tobytes(), "jpeg")


def _data_uri(image: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _page() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["slug"] = slug
    return environment.get_template("report.html.jinja")
