"""What the protocols of 3D faces share: the errors of each image, and their means by yaw."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from jointface.datamodules.face_dataset import FaceDataset, FaceSample
from jointface.evaluation.methods import PredictedFace, ShapeMethod, is_finite
from jointface.evaluation.result import MISSING_FILE
from jointface.metrics.nme import YAW_BINS

BIN_NAMES = tuple(f"{'[' if low == 0 else '('}{low}, {high}]" for low, high in YAW_BINS)
POSE_ERRORS = {"yaw_error": "yaw", "pitch_error": "pitch", "roll_error": "roll"}  # and their columns of tables
BY_YAW = "mean and std are of the three bins, the std that of the population"


@dataclass(frozen=True)
class KnownFace:
    """A sample whose face is known.

    index: in the data set. facts: columns of per_image, among them yaw in degrees. errors: of a prediction, those that
    it allows.
    """

    index: int
    sample: FaceSample
    facts: Mapping[str, Any]
    errors: Callable[[PredictedFace], Mapping[str, float]]


class ShapeErrors:
    """The errors of each image and method.

    Args:
        per_image: a row for each image and method: file, index, method, facts of the images, whether the method
            `has_prediction`, and the errors, NaN where it has none.
    """

    def __init__(self, per_image: pd.DataFrame) -> None:
        self.per_image = per_image

    @classmethod
    def measure(
        cls,
        methods: Sequence[ShapeMethod],
        dataset: FaceDataset,
        batches: Iterable[Sequence[KnownFace]],
        errors: Sequence[str],
    ) -> "ShapeErrors":
        """Runs methods on samples.

        Args:
            methods: under evaluation. A prediction that is not finite is none.
            dataset: of the samples; names them.
            batches: samples that are in memory at the same time.
            errors: which of the known errors are kept.
        """
        rows: list[dict[str, object]] = []
        facts: dict[str, None] = {}
        for batch in batches:
            samples, names = [known.sample for known in batch], [dataset.name(known.index) for known in batch]
            for method in methods:
                for known, name, face in zip(batch, names, method.predict(samples, names), strict=True):
                    file = name if dataset.rendered else dataset.path(known.index).name
                    face = face if face is not None and is_finite(face) else None
                    row = {
                        "file": file,
                        "index": known.index,
                        "method": method.name,
                        "has_prediction": face is not None,
                    }
                    rows.append({**row, **known.facts, **(known.errors(face) if face is not None else {})})
                    facts |= dict.fromkeys(known.facts)
        return cls(pd.DataFrame(rows, columns=["file", "index", "method", *facts, "has_prediction", *errors]))

    def missing(self, has_prediction: pd.Series) -> tuple[dict[str, list[str]], list[str]]:
        """Files of the images without a prediction by method, of those that lack any, and a note on each of these."""
        lacking = self.per_image[~has_prediction].groupby("method", sort=False)["file"]
        missing = {str(method): [*files] for method, files in lacking}
        notes = [
            f"{method} has no prediction for {len(files):,} of {self.per_image['index'].nunique():,} photos, which its "
            f"errors leave out; {MISSING_FILE} lists them."
            for method, files in missing.items()
        ]
        return missing, notes

    def means(self, errors: Sequence[str]) -> pd.DataFrame:
        """The mean of each error, a row for each method."""
        return self.per_image.groupby("method", sort=False)[[*errors]].mean().rename_axis(None)

    def means_by_yaw(self, error: str, scale: float = 1) -> pd.DataFrame:
        """Rows are methods. Columns: the mean of each bin of |yaw|, their mean and standard deviation, NaN where a bin
        is empty, and the mean over all images."""
        scaled, methods = scale * self.per_image[error], self.per_image["method"]
        of_bins = scaled.groupby([methods, yaw_bins(self.per_image["yaw"])], observed=False).mean().unstack()
        table = pd.DataFrame(of_bins.reindex(methods.unique())[[*BIN_NAMES]].to_numpy(), methods.unique(), BIN_NAMES)
        spread = {"mean": table.mean(axis=1, skipna=False), "std": table.std(axis=1, ddof=0, skipna=False)}
        return table.assign(**spread, all=scaled.groupby(methods).mean())

    def metrics(self, errors: Sequence[str]) -> dict[str, float]:
        """`method/error`, over all images, and `.../yaw_0_30`, `.../yaw_30_60`, `.../yaw_60_90`, `.../mean`, `.../std`,
        see `means_by_yaw`; those that are defined."""
        parts = {"all": "", "mean": "/mean", "std": "/std"}
        parts |= {name: f"/yaw_{low}_{high}" for name, (low, high) in zip(BIN_NAMES, YAW_BINS, strict=True)}
        return {
            f"{method}/{error}{parts[part]}": float(value)
            for error in errors
            for (method, part), value in self.means_by_yaw(error).stack().items()
            if np.isfinite(value)
        }

    def count_by_yaw(self, what: str) -> str:
        """How many images there are, and how many in each bin of |yaw|, in words."""
        yaw = self.per_image.drop_duplicates("index")["yaw"]
        counts = ", ".join(f"{count:,} in {name}" for name, count in yaw_bins(yaw).value_counts(sort=False).items())
        return f"{len(yaw):,} {what}; by |yaw|: {counts}, the last bin with those beyond"


def yaw_bins(yaw: pd.Series) -> pd.Series:
    """The bin of each |yaw| in degrees: the bounds count below, and the last bin is open."""
    return pd.cut(yaw.abs(), [-1, *(high for _, high in YAW_BINS[:-1]), np.inf], labels=BIN_NAMES)
