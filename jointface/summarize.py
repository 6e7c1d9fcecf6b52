"""The table over many runs: `python -m jointface.summarize runs/NAME`."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from jointface.errors import JointFaceError
from jointface.summary.tables import summarize, write_summary


def main() -> None:
    """Summarizes the runs below a folder; what goes wrong is said in one line, with exit code 1."""
    parser = ArgumentParser("python -m jointface.summarize", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds the folders of runs, at any depth: of a multirun, of a study")
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="NAME",
        help="of metrics.json, or patterns like 'test/*/nme_*'; the first one ranks; default: val/error and tests",
    )
    parser.add_argument("--best", type=int, default=5, metavar="N", help="best runs to name, of each kind; default: 5")
    parser.add_argument(
        "--output", type=Path, help="for summary.md, summary.csv and summary_runs.csv; default: the folder itself"
    )
    arguments = parser.parse_args()
    try:
        summary = summarize(arguments.folder, arguments.metrics)
        print(write_summary(summary, arguments.output or arguments.folder, arguments.best))
    except JointFaceError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
