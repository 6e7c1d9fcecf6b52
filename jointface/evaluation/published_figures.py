"""Figures that papers print, to stand beside what is measured here."""

from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
import yaml

from jointface.evaluation.result import Table


@dataclass(frozen=True)
class QuotedRow:
    """A row of a table as it is printed. method: its row. paper: of the method, with its year. source: where the
    numbers are printed. values: by the columns of the table, those that are printed."""

    method: str
    paper: str
    source: str
    values: dict[str, float]


def quoted_rows(benchmark: str, table: str) -> list[QuotedRow]:
    """The rows of one table, e.g. "aflw2000" and "nme_2d_68"; none where nothing is quoted."""
    data = _data()
    return [
        QuotedRow(row["method"], row["paper"], data["sources"][row["source"]], row["values"])
        for row in data["tables"].get(benchmark, {}).get(table, [])
    ]


def with_quoted(table: Table, rows: list[QuotedRow]) -> Table:
    """The table with quoted rows below the measured ones, each named "METHOD (YEAR)", their sources in the caption."""
    if not rows:
        return table
    names = [f"{row.method} ({row.paper[-4:]})" for row in rows]
    quoted = pd.DataFrame([row.values for row in rows], index=names)
    frame = pd.concat([table.frame, quoted.reindex(columns=table.frame.columns)])
    sources = "; ".join(dict.fromkeys(row.source for row in rows))
    caption = f"{table.caption} Quoted figures are not measured here; they are printed in: {sources}."
    return replace(table, frame=frame, caption=caption, quoted=(*table.quoted, *names))


@cache
def _data() -> dict[str, Any]:
    return yaml.safe_load(
        resources.files("jointface.evaluation").joinpath("published_figures.yaml").read_text(encoding="utf-8")
    )
