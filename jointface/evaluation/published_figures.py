"""Figures printed in papers, quoted beside those measured here."""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import yaml

from jointface.evaluation.benchmark_result import Table

PUBLISHED = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class QuotedRow:
    """A row of a printed table. paper: the method's paper, ending with its year. source: where the numbers are printed.
    values: the numbers by column of the table."""

    method: str
    paper: str
    source: str
    values: dict[str, float]


def quoted_rows(benchmark: str, table: str) -> list[QuotedRow]:
    """The rows, possibly none, to quote in a table, such as "nme_2d_68" of "aflw2000" or "accuracy" of "celeba"."""
    rows = PUBLISHED["tables"].get(benchmark, {}).get(table, [])
    return [QuotedRow(**{**row, "source": PUBLISHED["sources"][row["source"]]}) for row in rows]


def with_quoted(table: Table, rows: list[QuotedRow]) -> Table:
    """Adds quoted rows, named "METHOD (YEAR)", to a table, and their sources to its caption."""
    if not rows:
        return table
    names = [f"{row.method} ({row.paper[-4:]})" for row in rows]
    quoted = pd.DataFrame([row.values for row in rows], index=names)
    frame = pd.concat([table.frame, quoted.reindex(columns=table.frame.columns)])
    sources = "; ".join(dict.fromkeys(row.source for row in rows))
    caption = f"{table.caption} Quoted figures are not measured here; they are printed in: {sources}."
    return replace(table, frame=frame, caption=caption, quoted=(*table.quoted, *names))
