"""The blocks of a page as Markdown: the same report where HTML is not shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from qinco_lit.reports.page import Block, Cell, Details, Heading, Link, Paragraph, Plot, TableBlock, number_text


@dataclass(frozen=True)
class StoredPlot(Plot):
    """A plot that also lies in a file, relative to the report."""

    path: str = ""


def markdown_report(title: str, blocks: Sequence[Block], *, subtitle: str = "") -> str:
    """Return title, subtitle and blocks as Markdown text; plots are linked from their files."""
    parts = [f"# {title}", *([subtitle] if subtitle else []), *(_block(block) for block in blocks)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return _lines(text)
        case TableBlock():
            return _table(block)
        case StoredPlot():
            return f"![{block.alt}]({block.path})\n\n{_lines(block.caption)}"
        case Details(summary, blocks):
            inside = "\n\n".join(_block(each) for each in blocks)
            return f"<details>\n<summary>{summary}</summary>\n\n{inside}\n\n</details>"
    raise TypeError(f"no Markdown for {type(block).__name__}")


def _table(block: TableBlock) -> str:
    lines = [list(block.header), ["---"] * len(block.header), *([_cell(cell) for cell in row] for row in block.rows)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{_lines(block.caption)}\n\n{text}" if block.caption else text


def _cell(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Link):
        return f"[{_escaped(cell.text)}]({cell.href})"
    return _escaped(cell if isinstance(cell, str) else number_text(cell))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _lines(text: str) -> str:
    return text.replace("\n", "  \n")
