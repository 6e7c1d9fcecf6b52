"""What a benchmark returns: metrics, tables, the errors of each image, and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from matplotlib.figure import Figure

# Data sets as papers spell them, by the name of their benchmark or label set.
DATA_SETS = {
    "aflw2000": "AFLW2000-3D", "florence": "MICC Florence", "celeba": "CelebA", "lfwa": "LFWA",
    "synthetic": "Synthetic faces",
}  # fmt: skip
MISSING_FILE = "missing.csv"  # the report's list of `BenchmarkResult.missing`


@dataclass
class Table:
    """A table of a report. Rows are methods or attributes, columns are numbers.

    The best number of a column is bold among the rows that compete: those that are not quoted, reference or unranked.

    caption: what is measured, by whose protocol, with its citation. frame: its index names the rows. lower_is_better:
    in all columns; None where columns differ. quoted: names of rows that papers print and nobody measured here.
    reference: names of rows that do not compete, such as trivial predictors. unranked: names of rows that cover other
    images than the rest. sort_by: the column that sorts the rows; None takes `mean`, else the last column of numbers.
    marks: what follows the name of a row or column in brackets, such as "4 of 6" images. scope: a sentence on the
    images behind the numbers, where they are not the published test set.
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

    name: "aflw2000". metrics: `method/metric[/part]` to a number. tables: see `Table`. per_image: a row for each image
    and method with `file`, `index`, `method` and a column for each error. figures: by file stem. notes: a sentence on
    each thing that was left out or chosen. captions: of all figures, by the same stems. missing: by method the files of
    the images that it has no prediction for. pictures: from an image's `index` to its pixels, for thumbnails.

    Metrics also hold counts without a method: `num_images` is how many images were evaluated (a benchmark sets it where
    broken images were left out), `num_subjects` and the like are its own. A method that lacks predictions has a
    `method/num_images`.
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
        """Methods that compete in none of the tables."""
        return {name for table in self.tables for name in table.reference}
