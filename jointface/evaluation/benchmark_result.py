"""The result of a benchmark: metrics, tables, the errors of each image, and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from matplotlib.figure import Figure

# The data sets' names as papers spell them, by the name of their benchmark or label set.
DATA_SETS = {
    "aflw2000": "AFLW2000-3D", "florence": "MICC Florence", "celeba": "CelebA", "lfwa": "LFWA",
    "synthetic": "Synthetic faces", "fairface": "FairFace", "now": "NoW", "realy": "REALY",
}  # fmt: skip
MISSING_FILE = "missing.csv"  # the report's list of `BenchmarkResult.missing`


@dataclass
class Table:
    """A table in a report. Rows are methods or attributes, columns are numbers.

    In each column, the best number among competing rows is bold; quoted, reference and unranked rows do not compete.

    caption: what is measured, and by which protocol, with its citation. frame: the numbers; its index names the rows.
    lower_is_better: for all columns; None if columns differ. quoted: names of rows printed in papers and not measured
    here. reference: names of rows that do not compete, such as trivial predictors. unranked: names of rows that cover
    other images than the rest. sort_by: the column that sorts the rows; None takes `mean`, else the last column of
    numbers. marks: text in brackets after the name of a row or column, such as "4 of 6" images. scope: a sentence about
    the images behind the numbers, if they are not the published test set.
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
    """The result of one benchmark for all methods.

    name: for example "aflw2000". metrics: `method/metric[/part]` to a number. tables: see `Table`. per_image: a row for
    each image and method with `file`, `index`, `method` and a column for each error. figures: by file stem. notes:
    sentences about everything that was left out or chosen. captions: for all figures, by the same stems. missing: by
    method, the files of the images without a prediction. pictures: from an image's `index` to its pixels, for
    thumbnails.

    Metrics also hold counts without a method: `num_images` is the number of evaluated images (set by benchmarks that
    leave out broken images); some benchmarks add others such as `num_subjects`. A method that lacks predictions has its
    own `method/num_images`.
    """

    name: str
    metrics: dict[str, float]
    tables: list[Table]
    per_image: pd.DataFrame
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pictures: Callable[[int], UInt8[np.ndarray, "height width 3"]] | None = None

    @property
    def references(self) -> set[str]:
        """The methods that do not compete."""
        return {name for table in self.tables for name in table.reference}
