"""Formats tables as Markdown, LaTeX with booktabs, rows for HTML, and text for the terminal. Best numbers are bold."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markdown import Markdown

from jointface.evaluation.benchmark_result import BenchmarkResult, Table

QUOTED_MARK = "†"
UNKNOWN = "–"
PRINTED_ROWS = 20  # larger tables are only in the report
FILE_WIDTH = 140  # characters per line if the output goes to a file

_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "°": r"$^\circ$", "±": r"$\pm$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$",
    "−": r"$-$", "–": "--", "—": "---", "²": r"$^2$", "α": r"$\alpha$", "µ": r"$\mu$", "†": r"$^\dagger$",
    "’": "'", "“": "``", "”": "''", "…": r"\ldots{}",
})  # fmt: skip


class Row(NamedTuple):
    """A row of text. kind: "measured", "quoted" (from a paper) or "reference" (such as a trivial predictor). best: for
    each cell, whether it is the best number in its column."""

    name: str
    kind: str
    cells: list[str]
    best: list[bool]


class ShownTable(NamedTuple):
    """A `Table` as text. header: the headings of the row names and of the columns. note: the meaning of marks, and the
    scope of the numbers."""

    title: str
    caption: str
    header: list[str]
    rows: list[Row]
    note: str


def show(table: Table) -> ShownTable:
    """Sorts the rows, rounds the numbers and finds the best number in each column."""
    frame = sort_rows(table)
    kinds = {**dict.fromkeys(table.reference, "reference"), **dict.fromkeys(table.quoted, "quoted")}
    rows = []
    for (name, values), best in zip(frame.iterrows(), _best(table, frame).to_numpy().tolist(), strict=True):
        texts = [_number(value, table.decimals) for value in values]
        rows.append(Row(_label(table, name), kinds.get(name, "measured"), texts, best))
    header = [str(frame.index.name or "method"), *(_label(table, column) for column in frame.columns)]
    quoted = f"{QUOTED_MARK} Quoted from the papers, not measured here." if "quoted" in kinds.values() else ""
    return ShownTable(table.title, table.caption, header, rows, f"{quoted} {table.scope}".strip())


def sort_rows(table: Table) -> pd.DataFrame:
    """The table's frame with the best row first and a row `mean` last; unchanged if `lower_is_better` is None."""
    frame, numbers = table.frame, table.frame.select_dtypes("number").columns
    if table.lower_is_better is None or numbers.empty:
        return frame
    means = [column for column in numbers if str(column).lower() == "mean"]
    keys = [table.sort_by or (means or list(numbers))[-1], numbers[-1]]
    ordered = frame.sort_values(keys, ascending=table.lower_is_better, kind="stable")
    return ordered.iloc[np.argsort(ordered.index.str.lower() == "mean", kind="stable")]


def _best(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """Which numbers are the best in their column, including ties after rounding; none in columns without a rival."""
    flags = pd.DataFrame(False, frame.index, frame.columns)
    competes = ~frame.index.isin([*table.quoted, *table.reference, *table.unranked])
    numbers = frame.select_dtypes("number").astype(float).round(table.decimals)
    numbers = numbers.where(np.isfinite(numbers) & competes[:, None])
    if table.lower_is_better is not None:
        best = numbers.min() if table.lower_is_better else numbers.max()
        flags[numbers.columns] = ((numbers == best) & (numbers.count() > 1)).to_numpy()
    return flags


def _number(value: object, decimals: int) -> str:
    if pd.isna(value):
        return UNKNOWN
    return f"{value:.{decimals}f}" if isinstance(value, float | int | np.number) else str(value)


def _label(table: Table, name: object) -> str:
    """The name of a row or column with its mark, such as "PRNet (4 of 6)"."""
    mark = table.marks.get(str(name))
    return f"{name} ({mark})" if mark else str(name)


def markdown(table: ShownTable) -> str:
    """The table as GitHub-flavoured Markdown, with title, note and caption."""
    header, *rows = _marked_up(table, escape_markdown, "**{}**", "*{}*", f" {QUOTED_MARK}")
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    parts = [f"### {escape_markdown(table.title)}", body, *map(escape_markdown, (table.note, table.caption))]
    return "\n\n".join(filter(None, parts)) + "\n"


def latex(table: ShownTable, label: str) -> str:
    """The table as a LaTeX float with booktabs rules."""

    def escape(text: str) -> str:
        return text.translate(_LATEX)

    lines = _marked_up(table, escape, r"\textbf{{{}}}", r"\textit{{{}}}", escape(QUOTED_MARK))
    header, *rows = map(" & ".join, lines)
    body = "\n    ".join(rf"{line} \\" for line in rows)
    note = f"  \\par\\smallskip\\footnotesize {escape(table.note)}\n" if table.note else ""
    return (
        "% needs \\usepackage{booktabs}\n"
        "\\begin{table}\n  \\centering\n"
        f"  \\caption{{{escape(f'{table.title}. {table.caption}')}}}\n  \\label{{tab:{label}}}\n"
        f"  \\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}\n"
        f"    \\toprule\n    {header} \\\\\n    \\midrule\n    {body}\n    \\bottomrule\n"
        f"  \\end{{tabular}}\n{note}\\end{{table}}\n"
    )


def _marked_up(
    table: ShownTable, escape: Callable[[str], str], bold: str, italic: str, quoted_mark: str
) -> list[list[str]]:
    """Header and rows in a markup language; quoted rows are in italics, with a mark after their names."""
    lines = [[escape(text) for text in table.header]]
    for name, kind, cells, best in table.rows:
        style, mark = (italic, quoted_mark) if kind == "quoted" else ("{}", "")
        texts = [(bold if flag else style).format(escape(cell)) for cell, flag in zip(cells, best, strict=True)]
        lines.append([style.format(escape(name)) + mark, *texts])
    return lines


def escape_markdown(text: str) -> str:
    """Escapes plain text for Markdown."""
    return re.sub(r"([\\`*_\[\]|<>])", r"\\\1", text)


def slug(text: str) -> str:
    """Converts a title to a part of a file name: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "table"


def print_results(results: Sequence[BenchmarkResult]) -> None:
    """Prints notes, and tables with at most PRINTED_ROWS rows, without their captions."""
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    for result in results:
        for table in map(show, result.tables):
            if len(table.rows) <= PRINTED_ROWS:
                console.print(Markdown(markdown(table._replace(caption=""))))
        for note in result.notes:
            console.print(f"{result.name}: {note}", style="dim", markup=False, highlight=False)
