"""Tables of attribute scores: means over the same attributes in every row, and scores of each attribute."""

from collections.abc import Mapping, Sequence

import pandas as pd

from jointface.attributes import CELEBA, LabelSet
from jointface.evaluation.benchmark_result import DATA_SETS, Table
from jointface.evaluation.published_figures import QuotedRow, quoted_rows, with_quoted

TRIVIAL = "trivial"  # the predictor's name, as in the metrics of training
GAP = "accuracy_gap_"  # prefix of the gaps in accuracy between groups of people
VAL = "_val_threshold"  # suffix of scores at the thresholds of the validation split
HEADINGS = {
    "positives": "positives",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "average_precision": "average precision",
    f"accuracy{VAL}": "accuracy, val. thresholds",
    f"balanced_accuracy{VAL}": "balanced accuracy, val. thresholds",
    f"f1{VAL}": "F1, val. thresholds",
    "calibration_error": "calibration error",
}
NOT_RANKED = ("positives", "calibration_error")  # left out of tables of means
PROTOCOL = (
    "Per cent, on the {split} split ({faces:,} faces). Accuracy and F1 read the calibrated probability, balanced "
    "accuracy the balanced one, each at 1/2, the one-threshold protocol of Liu, Luo, Wang, Tang, ICCV 2015"
)
VAL_PROTOCOL = (
    "; with val. thresholds, of each attribute the threshold is the one that maximises accuracy (for accuracy and F1) "
    "or balanced accuracy on the validation split, thresholds from {val_faces:,} validation faces"
)

# By method: a row for each attribute that it is evaluated on, columns of HEADINGS in [0, 1].
Scores = Mapping[str, pd.DataFrame]


def attribute_tables(label_set: LabelSet, scores: Scores, split: str, faces: int, val_faces: int = 0) -> list[Table]:
    """All tables for a data set.

    Means are over the attributes that all methods know. If some methods know more attributes, a further table shows
    their means over these. In each table, the trivial predictor covers the same attributes as the other rows.

    Args:
        scores: include the trivial predictor's, for all attributes of the data set.
        split, faces: the evaluated split and its number of faces. val_faces: number of faces used for thresholds.
    """
    data_set = DATA_SETS.get(label_set.name, label_set.name)
    calibrated = any(column.endswith(VAL) for column in scores[TRIVIAL])
    thresholds = VAL_PROTOCOL.format(val_faces=val_faces) if calibrated else ""
    caption = f"{PROTOCOL.format(split=split, faces=faces)}{thresholds}."
    tables = [
        _mean_table(f"{data_set}, {title}", caption, _over(scores, chosen), quoted)
        for title, chosen, quoted in _subsets(label_set, scores)
    ]
    if common := common_attributes(scores):
        title = f"{data_set}, calibration error over {_count(common)}"
        tables.append(_calibration_table(title, _over(scores, common)))
    return tables + [_attribute_table(data_set, method, scores, caption) for method in scores if method != TRIVIAL]


def common_attributes(scores: Scores) -> list[str]:
    """The attributes that all methods are evaluated on, in the data set's order."""
    known = [set(frame.index) for method, frame in scores.items() if method != TRIVIAL]
    return [name for name in scores[TRIVIAL].index if all(name in names for names in known)]


def _subsets(label_set: LabelSet, scores: Scores) -> list[tuple[str, list[str], list[QuotedRow]]]:
    """Title, attributes and quoted rows of each table of means."""
    everything, common = list(scores[TRIVIAL].index), common_attributes(scores)
    quoted = quoted_rows(label_set.name, "accuracy")
    known_by = {method: tuple(frame.index) for method, frame in scores.items() if method != TRIVIAL}
    groups = {known: [method for method in known_by if known_by[method] == known] for known in known_by.values()}
    titled = {f"mean over {_count(common)}": common}
    if len(groups) > 1:
        titled = {f"mean over the {_count(common)} that all know": common} | {
            f"mean over the {_count(known)} of {', '.join(methods)}": list(known)
            for known, methods in groups.items()
            if list(known) != common
        }
    subsets = [
        (title, chosen, quoted if label_set == CELEBA and chosen == everything else [])
        for title, chosen in titled.items()
    ]
    of_celeba = [name for name in everything if name in CELEBA.attributes]
    if quoted and label_set != CELEBA and any(set(of_celeba) <= set(known) for known in groups):
        subsets.append((f"mean over the {_count(of_celeba)} that CelebA has too", of_celeba, quoted))
    return [subset for subset in subsets if subset[1]]


def _count(attributes: Sequence[str]) -> str:
    return f"{len(attributes)} attribute{'s' if len(attributes) != 1 else ''}"


def _over(scores: Scores, chosen: Sequence[str]) -> Scores:
    """The scores of some attributes for the methods that know all of them."""
    return {method: frame.loc[list(chosen)] for method, frame in scores.items() if set(chosen) <= set(frame.index)}


def _mean_table(title: str, caption: str, scores: Scores, quoted: list[QuotedRow]) -> Table:
    columns = [column for column in HEADINGS if column in scores[TRIVIAL] and column not in NOT_RANKED]
    means = {method: 100 * frame[columns].mean() for method, frame in scores.items()}
    frame = pd.DataFrame(means).T.rename(columns=HEADINGS)
    if quoted:
        caption += " Quoted figures are means over the 40 attributes of CelebA."
    table = Table(title, caption, frame, lower_is_better=False, reference=(TRIVIAL,), sort_by=HEADINGS["accuracy"])
    return with_quoted(table, quoted)


def _calibration_table(title: str, scores: Scores) -> Table:
    errors = 100 * pd.DataFrame({method: frame["calibration_error"] for method, frame in scores.items()})
    frame = pd.DataFrame({"mean": errors.mean(), "largest of an attribute": errors.max()})
    caption = (
        "Expected calibration error of the calibrated probability in per cent, 15 bins of equal width (Guo, Pleiss, "
        "Sun, Weinberger, ICML 2017), over attributes. The trivial predictor's error only measures how much the share "
        "of positives differs from the split it is based on, so a low error alone says little. With few faces, chance "
        "raises the error."
    )
    return Table(title, caption, frame, reference=(TRIVIAL,))


def _attribute_table(data_set: str, method: str, scores: Scores, caption: str) -> Table:
    of_method = scores[method]
    gaps = {column: f"gap by {column.removeprefix(GAP)}" for column in of_method if column.startswith(GAP)}
    headings = {column: heading for column, heading in HEADINGS.items() if column in of_method} | gaps
    frame = 100 * of_method[[*headings]].rename(columns=headings)
    frame.insert(2, "trivial accuracy", 100 * scores[TRIVIAL]["accuracy"].reindex(frame.index))
    frame.loc["mean"] = frame.mean()
    frame.index.name = "attribute"
    return Table(f"{data_set}, each attribute, {method}", caption, frame, decimals=1, lower_is_better=None)
