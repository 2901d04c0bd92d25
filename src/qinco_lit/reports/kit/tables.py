"""A table of texts, for the terminal, as Markdown, and values as csv."""

import csv
import io
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Grid:
    """A table as text; names of columns may have two lines.

    Attributes:
        header: names of columns; without any text there is no header on a terminal.
        rows: a text for each column.
        title: above the table.
        left: places of the columns that are aligned to the left; the others, of numbers, are to the right.
        bold: places of rows that stand out on a terminal.
        ends: places of rows after which a terminal shows a line.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    left: Collection[int] = (0,)
    bold: Collection[int] = ()
    ends: Collection[int] = ()

    def rich(self, *, gap: int = 1, titled: bool = True, edge: bool = True, wrap: bool = False) -> Table:
        """Return it for a terminal.

        Args:
            gap: spaces between columns.
            titled: False: without the title.
            edge: with an empty line above and below.
            wrap: all columns but the first may be broken where the terminal is narrow; else none.
        """
        table = Table(
            title=self.title if titled and self.title else None, title_justify="left", box=box.SIMPLE_HEAD,
            show_header=any(self.header), show_edge=edge, pad_edge=False, padding=(0, gap - 1, 0, 0),
        )  # fmt: skip
        for place, name in enumerate(self.header):
            table.add_column(name, justify="left" if place in self.left else "right", no_wrap=not (wrap and place))
        for place, row in enumerate(self.rows):
            style = "bold" if place in self.bold else ""
            table.add_row(*map(Text, row), style=style, end_section=place in self.ends)
        return table

    def markdown(self, escape: Callable[[str], str] = str) -> str:
        """Return header and rows as Markdown, without the title."""
        alignment = [":--" if place in self.left else "--:" for place in range(len(self.header))]
        names = [name.replace("\n", " ").strip() for name in self.header]
        return markdown_lines([map(escape, names), alignment, *(map(escape, row) for row in self.rows)])


def markdown_lines(lines: Iterable[Iterable[str]]) -> str:
    """Return lines of cells as lines of a Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of values as csv, None as an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
