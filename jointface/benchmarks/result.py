"""What a benchmark gives: numbers, tables, a row for each image, figures, and whose protocol it is."""

from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure


@dataclass
class Table:
    """A table of a report: rows are methods (or attributes), columns are numbers.

    title: short. caption: what is measured, whose protocol it is, with its citation. frame: the index names the rows;
    numbers stay numbers. decimals: shown. lower_is_better: of all columns; None where it is not so simple. quoted:
    names of rows that are figures printed in papers, not measured here. reference: names of rows that do not compete:
    the benchmark's floor, trivial predictors.
    """

    title: str
    caption: str
    frame: pd.DataFrame
    decimals: int = 2
    lower_is_better: bool | None = True
    quoted: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()


@dataclass
class BenchmarkResult:
    """What one benchmark says of all methods.

    name: "aflw2000". metrics: flat, `method/metric[/part]` to a number. tables: see `Table`. per_image: a row for each
    image and method: `file`, `index`, `method`, and a column for each error. figures: by file stem. notes: what was
    left out or chosen, one sentence each. captions: of figures, by the same names; others are called by their name.
    """

    name: str
    metrics: dict[str, float]
    tables: list[Table]
    per_image: pd.DataFrame
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)
