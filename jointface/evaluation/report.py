"""Writes the report of an evaluation: metrics, tables, errors of each image, figures, and one page with all of them."""

import base64
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from jointface.evaluation.benchmark_result import DATA_SETS, MISSING_FILE, BenchmarkResult
from jointface.evaluation.comparability import error_columns
from jointface.evaluation.table_formats import ShownTable, latex, markdown, show, slug
from jointface.files import write_atomically

LISTED = 8  # worst and best images of each method
THUMBNAIL = 112  # pixels of the longer side
DPI = 150  # of PNG figures, and of pictures in PDF figures


def write_report(
    results: Sequence[BenchmarkResult],
    output_dir: Path,
    title: str = "Evaluation",
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Writes the report of an evaluation and replaces an earlier one.

        metrics.json                       BENCHMARK/METHOD/METRIC to a number, sorted; null if undefined
        tables/BENCHMARK_TITLE.md, .tex    each table; best values in bold, quoted rows in italics with a mark
        per_image/BENCHMARK.csv            a row for each image and method
        missing.csv                        the images for which a method has no prediction, if any
        figures/BENCHMARK_NAME.png, .pdf
        report.html                        everything on one page that needs no other file

    All contents are computed before the first file is written. Every file is written completely, report.html last.

    Args:
        results: results of the benchmarks. Their figures must not be changed afterwards.
        facts: what was evaluated, such as checkpoints and data, by name.
        notes: notes on the whole evaluation, such as benchmarks that could not run.

    Returns:
        The path of report.html.

    Raises:
        DataError: a file cannot be written. ValueError: a figure has no caption, or two tables share a title.
    """
    files = {"metrics.json": _metrics_json(results)}
    sections = []
    for result in results:
        tables = [show(table) for table in result.tables]
        images = {name: _image_files(figure) for name, figure in result.figures.items()}
        files |= _table_files(result.name, tables)
        for name, formats in images.items():
            files |= {f"figures/{_stem(result.name, name)}.{ending}": data for ending, data in formats.items()}
        if len(result.per_image):
            files[f"per_image/{slug(result.name)}.csv"] = _csv(result.per_image)
        sections.append({
            "title": _title(result.name),
            "notes": result.notes,
            "tables": tables,
            "figures": [_figure_on_page(result, name, formats["png"]) for name, formats in images.items()],
            "extremes": extremes_of(result),
        })  # fmt: skip
    missing = [(of.name, method, file) for of in results for method, names in of.missing.items() for file in names]
    if missing:
        files[MISSING_FILE] = _csv(pd.DataFrame(missing, columns=["benchmark", "method", "file"]))
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters["slug"] = slug
    page = pages.get_template("report.html.jinja").render(title=title, facts=facts, notes=notes, sections=sections)
    files["report.html"] = page.encode(errors="backslashreplace")
    _remove_report(output_dir)
    for path, data in files.items():
        write_atomically(output_dir / path, data)
    return output_dir / "report.html"


def _remove_report(output_dir: Path) -> None:
    """Removes the files of an earlier report, since the new one may not overwrite all of them."""
    if (output_dir / "report.html").is_file():
        for pattern in ("tables/*.md", "tables/*.tex", "figures/*.p[nd][gf]", "per_image/*.csv", MISSING_FILE):
            for path in output_dir.glob(pattern):
                path.unlink()


def _metrics_json(results: Iterable[BenchmarkResult]) -> bytes:
    metrics = {f"{result.name}/{key}": value for result in results for key, value in result.metrics.items()}
    defined = {key: value if math.isfinite(value) else None for key, value in sorted(metrics.items())}
    return (json.dumps(defined, indent=2, allow_nan=False) + "\n").encode()


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()


def _table_files(benchmark: str, tables: Iterable[ShownTable]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for table in tables:
        stem = _stem(benchmark, table.title)
        if f"tables/{stem}.md" in files:
            raise ValueError(f"two tables of {benchmark} are called {table.title!r}")
        files[f"tables/{stem}.md"] = markdown(table).encode()
        files[f"tables/{stem}.tex"] = latex(table, stem.replace("_", ":")).encode()
    return files


def _stem(benchmark: str, part: str) -> str:
    """The file stem BENCHMARK_PART, or only PART if it begins with the benchmark."""
    benchmark, part = slug(benchmark), slug(part)
    return part if part.startswith(benchmark) else f"{benchmark}_{part}"


def _title(benchmark: str) -> str:
    """The heading of a benchmark: "AFLW2000-3D", "Synthetic faces, attributes", "Feature space"."""
    known, _, part = benchmark.partition("_")
    if known not in DATA_SETS:
        return benchmark.replace("_", " ").capitalize()
    return f"{DATA_SETS[known]}, {part.replace('_', ' ')}" if part else DATA_SETS[known]


def _figure_on_page(result: BenchmarkResult, name: str, png: bytes) -> dict[str, Any]:
    """A figure's caption, alternative text (the start of the caption), image, and width in inches."""
    if not (caption := result.captions.get(name)):
        raise ValueError(f"figure {name!r} of {result.name} has no caption")
    alt = f"{_title(result.name)}: {re.split(r'[.:;](?: |$)', caption)[0]}"
    width = result.figures[name].get_figwidth()
    return {"caption": caption, "alt": alt, "image": _data_uri(png, "png"), "width": width}


def _image_files(figure: Figure) -> dict[str, bytes]:
    """A figure as PNG and PDF, without dates, so that equal figures give equal files."""
    files = {}
    figure.set_dpi(DPI)
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)
        figure.set_layout_engine(None)  # else Matplotlib would draw each file twice
    for ending, metadata in {"png": {"Software": None}, "pdf": {"CreationDate": None}}.items():
        stream = io.BytesIO()
        figure.savefig(stream, format=ending, dpi=DPI, metadata=metadata)
        files[ending] = stream.getvalue()
    return files


def extremes_of(result: BenchmarkResult, count: int = LISTED) -> list[dict[str, Any]]:
    """For each competing method, at most `count` images with the largest and with the smallest errors, by its first
    error column. Thumbnails are data URIs, empty if the result has no pictures."""

    @cache
    def thumbnail(index: int) -> str:
        if result.pictures is None:
            return ""
        stream = io.BytesIO()
        picture = Image.fromarray(result.pictures(index))
        ImageOps.contain(picture, (THUMBNAIL, THUMBNAIL)).save(stream, "JPEG", quality=85)
        return _data_uri(stream.getvalue(), "jpeg")

    extremes = []
    for method, rows in result.per_image.groupby("method", sort=False):
        errors = error_columns(rows.dropna(axis=1, how="all"))
        if not errors or method in result.references:
            continue
        rows = rows.rename(columns={errors[0]: "error"}).dropna(subset="error").sort_values(["error", "index"])
        half = min(count, math.ceil(len(rows) / 2))  # so that no image is in both lists
        worst, best = (
            some[["file", "error"]].assign(thumbnail=some["index"].map(thumbnail)).to_dict("records")
            for some in (rows[::-1][:half], rows[: min(half, len(rows) - half)])
        )
        extremes.append({"method": str(method), "error": errors[0], "worst": worst, "best": best})
    return extremes


def _data_uri(image: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
