"""Figures that papers print, quoted beside those that are measured here."""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import yaml

from jointface.evaluation.result import Table

PUBLISHED = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class QuotedRow:
    """A row of a printed table. paper: of the method, ends with its year. source: where the numbers are printed.
    values: by the columns of the table."""

    method: str
    paper: str
    source: str
    values: dict[str, float]


def quoted_rows(benchmark: str, table: str) -> list[QuotedRow]:
    """The rows to quote in a table, e.g. of "aflw2000" in "nme_2d_68", of "celeba" in "accuracy"; there may be none."""
    rows = PUBLISHED["tables"].get(benchmark, {}).get(table, [])
    return [QuotedRow(**{**row, "source": PUBLISHED["sources"][row["source"]]}) for row in rows]


def with_quoted(table: Table, rows: list[QuotedRow]) -> Table:
    """The table with quoted rows named "METHOD (YEAR)", and their sources in the caption."""
    if not rows:
        return table
    names = [f"{row.method} ({row.paper[-4:]})" for row in rows]
    quoted = pd.DataFrame([row.values for row in rows], index=names)
    frame = pd.concat([table.frame, quoted.reindex(columns=table.frame.columns)])
    sources = "; ".join(dict.fromkeys(row.source for row in rows))
    caption = f"{table.caption} Quoted figures are not measured here; they are printed in: {sources}."
    return replace(table, frame=frame, caption=caption, quoted=(*table.quoted, *names))
