"""Tables for papers and web pages: Markdown, LaTeX with booktabs, and cells for HTML; sorted, the best value bold."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from jointface.evaluation.result import Table

QUOTED_MARK = "†"
QUOTED_NOTE = "Quoted from the papers, not measured here."
UNKNOWN = "–"

_MARKDOWN = re.compile(r"([\\`*_\[\]|<>])")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "°": r"$^\circ$", "±": r"$\pm$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$",
    "−": r"$-$", "–": "--", "—": "---", "²": r"$^2$", "α": r"$\alpha$", "µ": r"$\mu$", "†": r"$^\dagger$",
    "’": "'", "“": "``", "”": "''", "…": r"\ldots{}",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A number as it is shown; best: no other row that competes has a better one in its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table; kind: measured here, quoted from a paper, or a floor or trivial predictor for reference."""

    name: str
    kind: Literal["measured", "quoted", "reference"]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ShownTable:
    """A table as it is shown; header: name of the rows, then of the columns. note: what the mark of a row means, and
    what the numbers are over."""

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str


def show(table: Table) -> ShownTable:
    """Rows sorted, numbers rounded, the best value of each column found, where two rows or more compete: those that are
    measured here and over the same images. Equal as shown, all of them are best."""
    frame = sort_rows(table)
    columns = [_shown_column(table, frame.iloc[:, place]) for place in range(frame.shape[1])]
    names = [_marked(table, name) for name in frame.index]
    rows = [
        Row(name, _kind(table, label), tuple(column[place] for column in columns))
        for place, (name, label) in enumerate(zip(names, frame.index, strict=True))
    ]
    header = (_text(frame.index.name or "method"), *(_marked(table, column) for column in frame.columns))
    quoted = f"{QUOTED_MARK} {QUOTED_NOTE}" if any(row.kind == "quoted" for row in rows) else ""
    note = " ".join(part for part in (quoted, table.scope) if part)
    return ShownTable(table.title, table.caption, header, tuple(rows), note)


def sort_rows(table: Table) -> pd.DataFrame:
    """The table's frame, best row first, by the column `sort_by`, else `mean`, else the last one of numbers; a row
    `mean` stays last.

    Where it is not said whether lower or higher is better the order stays as it is.
    """
    frame = table.frame
    numbers = [column for column in frame.columns if pd.api.types.is_numeric_dtype(frame[column])]
    if table.lower_is_better is None or not numbers:
        return frame
    means = [column for column in numbers if _text(column).lower() == "mean"]
    first = (means or numbers)[-1] if table.sort_by is None else table.sort_by
    keys = frame[[numbers[-1], first]].to_numpy(dtype=float, na_value=np.nan).T
    keys = np.nan_to_num(keys if table.lower_is_better else -keys, nan=np.inf)
    is_mean = np.array([_text(name).lower() == "mean" for name in frame.index], dtype=bool)
    return frame.iloc[np.lexsort((*keys, is_mean))]


def _shown_column(table: Table, column: pd.Series) -> list[Cell]:
    if not pd.api.types.is_numeric_dtype(column):
        return [Cell(UNKNOWN if pd.isna(value) else str(value)) for value in column]
    values = column.to_numpy(dtype=float, na_value=np.nan)
    shown = values.round(table.decimals)
    competes = np.array([_competes(table, name) for name in column.index]) & np.isfinite(values)
    best = None
    if table.lower_is_better is not None and competes.sum() > 1:
        best = shown[competes].min() if table.lower_is_better else shown[competes].max()
    return [
        Cell(_number(value, table.decimals), bool(best is not None and may and rounded == best))
        for value, rounded, may in zip(values, shown, competes, strict=True)
    ]


def _competes(table: Table, name: object) -> bool:
    return _kind(table, name) == "measured" and name not in table.unranked


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if np.isfinite(value) else UNKNOWN if np.isnan(value) else str(value)


def _kind(table: Table, name: object) -> Literal["measured", "quoted", "reference"]:
    return "quoted" if name in table.quoted else "reference" if name in table.reference else "measured"


def _marked(table: Table, label: object) -> str:
    """The name of a row or column, with what the table says of it: "PRNet (4 of 6)"."""
    mark = table.marks.get(label) if isinstance(label, str) else None
    return _text(label) if mark is None else f"{label} ({mark})"


def _text(label: object) -> str:
    return " ".join(str(part) for part in label if str(part)) if isinstance(label, tuple) else str(label)


def markdown(table: ShownTable) -> str:
    """The table for GitHub and the like, under its title and caption."""
    header = [_escape_markdown(text) for text in table.header]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in table.rows:
        name = _escape_markdown(row.name)
        cells = [_escape_markdown(cell.text) for cell in row.cells]
        if row.kind == "quoted":
            name, cells = f"*{name}* {QUOTED_MARK}", [f"*{cell}*" for cell in cells]
        bold = [f"**{text}**" if cell.best else text for text, cell in zip(cells, row.cells, strict=True)]
        lines.append([name, *bold])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    parts = [
        f"### {_escape_markdown(table.title)}", body, _escape_markdown(table.note), _escape_markdown(table.caption)
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(table: ShownTable, label: str) -> str:
    """The table as a LaTeX float with booktabs rules."""
    lines = [" & ".join(escape_latex(text) for text in table.header) + r" \\", r"\midrule"]
    for row in table.rows:
        name = escape_latex(row.name)
        cells = [escape_latex(cell.text) for cell in row.cells]
        if row.kind == "quoted":
            name, cells = rf"\textit{{{name}}}$^\dagger$", [rf"\textit{{{cell}}}" for cell in cells]
        bold = [rf"\textbf{{{text}}}" if cell.best else text for text, cell in zip(cells, row.cells, strict=True)]
        lines.append(" & ".join([name, *bold]) + r" \\")
    body = "\n    ".join(lines)
    note = rf"  \par\smallskip\footnotesize {escape_latex(table.note)}" + "\n" if table.note else ""
    return (
        "% needs \\usepackage{booktabs}\n"
        "\\begin{table}\n  \\centering\n"
        f"  \\caption{{{escape_latex(f'{table.title}. {table.caption}')}}}\n  \\label{{tab:{label}}}\n"
        f"  \\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}\n    \\toprule\n    {body}\n    \\bottomrule\n"
        f"  \\end{{tabular}}\n{note}\\end{{table}}\n"
    )


def escape_latex(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def _escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def slug(text: str) -> str:
    """A title as part of a file name: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "table"
