"""What an evaluation prints: tables and notes, for the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from jointface.evaluation.result import BenchmarkResult
from jointface.evaluation.table_formats import QUOTED_MARK, ShownTable, show

ROW_STYLES = {"measured": "", "quoted": "italic", "reference": "dim"}
FILE_WIDTH = 140  # characters of a line where the output goes to a file
PRINTED_ROWS = 20  # larger tables are only in the report


def print_results(results: Sequence[BenchmarkResult]) -> None:
    """Tables of at most 20 rows and the notes of each benchmark."""
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    for result in results:
        for table in map(show, result.tables):
            if len(table.rows) <= PRINTED_ROWS:
                console.print(rich_table(table))
        for note in result.notes:
            console.print(f"{result.name}: {note}", style="dim", markup=False, highlight=False)


def rich_table(table: ShownTable) -> RichTable:
    """A table for the terminal."""
    shown = RichTable(title=Text(table.title), caption=Text(table.note) if table.note else None)
    for place, heading in enumerate(table.header):
        shown.add_column(Text(heading), justify="right" if place else "left", no_wrap=not place)
    for row in table.rows:
        name = f"{row.name} {QUOTED_MARK}" if row.kind == "quoted" else row.name
        cells = [Text(cell.text, style="bold" if cell.best else "") for cell in row.cells]
        shown.add_row(Text(name), *cells, style=ROW_STYLES[row.kind])
    return shown
