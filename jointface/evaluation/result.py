"""What a benchmark gives: numbers, tables, a row for each image, figures, and whose protocol it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

# Data sets as papers write them, by the name of their benchmark or label set.
DATA_SETS = {
    "aflw2000": "AFLW2000-3D", "florence": "MICC Florence", "celeba": "CelebA", "lfwa": "LFWA",
    "synthetic": "Synthetic faces",
}  # fmt: skip
MISSING_FILE = "missing.csv"  # of a report, lists what `BenchmarkResult.missing` holds


@dataclass
class Table:
    """A table of a report: rows are methods (or attributes), columns are numbers.

    title: short, with the data set. caption: what is measured, whose protocol it is, with its citation. frame: the
    index names the rows; numbers stay numbers. decimals: shown. lower_is_better: of all columns; None where it is not
    so simple. quoted: names of rows that are figures printed in papers, not measured here. reference: names of rows
    that do not compete: the benchmark's floor, trivial predictors. unranked: names of rows over other images than the
    rest. sort_by: the column that rows are sorted by; None takes `mean`, else the last one of numbers. marks: by row
    (or column) what is written behind its name, such as "4 of 6" images. scope: one sentence on what the numbers are
    over, where that is not the published data set.

    The best number of a column is bold among the measured rows that compete: neither quoted, reference nor unranked.
    """

    title: str
    caption: str
    frame: pd.DataFrame
    decimals: int = 2
    lower_is_better: bool | None = True
    quoted: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()
    unranked: tuple[str, ...] = ()
    sort_by: str | None = None
    marks: Mapping[str, str] = field(default_factory=dict)
    scope: str = ""


@dataclass
class BenchmarkResult:
    """What one benchmark says of all methods.

    name: "aflw2000". metrics: flat, `method/metric[/part]` to a number. tables: see `Table`. per_image: a row for each
    image and method: `file`, `index`, `method`, and a column for each error. figures: by file stem. notes: what was
    left out or chosen, one sentence each. captions: of all figures, by the same names. missing: files of the images
    that a method has no prediction for, by method.

    Beside the methods' numbers metrics hold how many images were judged, as `num_images` without a method, which a
    benchmark sets where it is not the whole test set (images left out as broken do not count), and may add counts of
    other things as `num_WHAT`, such as `num_subjects`. `method/num_images` is there for methods that lack some.
    """

    name: str
    metrics: dict[str, float]
    tables: list[Table]
    per_image: pd.DataFrame
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def references(self) -> set[str]:
        """Methods that do not compete in any of the tables."""
        return {name for table in self.tables for name in table.reference}
