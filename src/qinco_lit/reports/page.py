"""A report as one HTML file: no server, no internet; phones, dark mode and paper."""

import html
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources

# A browser that obeys this can load nothing at all, whatever ends up in the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_LEADING_NUMBER = re.compile(r"[-+\N{MINUS SIGN}]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?(?=$|[\s%±×])")
# A box to type words into is of no use above a table that can be taken in at a glance.
_FILTER_FROM_ROWS = 8


class Block(ABC):
    """A part of a page."""

    @abstractmethod
    def html(self, numbers: Iterator[int]) -> str:
        """Return it as HTML; `numbers` gives each table and plot of the page one of its own."""


@dataclass(frozen=True)
class Link:
    """A cell that leads somewhere, relative to the page; `href` is a URL, in which names are quoted."""

    text: str
    href: str


Cell = str | float | int | None | Link


@dataclass(frozen=True)
class Heading(Block):
    """A heading; the page's title has level 1."""

    text: str
    level: int = 2

    def html(self, numbers: Iterator[int]) -> str:  # noqa: ARG002 (none needed)
        """Return it as HTML."""
        return f"<h{self.level}>{html.escape(self.text)}</h{self.level}>"


@dataclass(frozen=True)
class Paragraph(Block):
    """Plain text: `code` between backticks, line breaks kept."""

    text: str

    def html(self, numbers: Iterator[int]) -> str:  # noqa: ARG002 (none needed)
        """Return it as HTML."""
        return f"<p>{_prose(self.text)}</p>"


@dataclass(frozen=True)
class TableBlock(Block):
    """A table in a box that scrolls by itself; names of columns may have line breaks.

    Sorting takes a number, or the number a text begins with (`66.9 ± 0.3`), by its value and keeps empty cells last.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    sortable: bool = True

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows), "a cell for every column"

    def html(self, numbers: Iterator[int]) -> str:
        """Return it as HTML, above it a box to filter its rows when there are many."""
        number = next(numbers)
        columns = [[row[place] for row in self.rows] for place in range(len(self.header))]
        numeric = [any(cell is not None for cell in cells) and all(map(_is_numeric, cells)) for cells in columns]
        marks = [' class="n"' if each else "" for each in numeric]
        names = [html.escape(name).replace("\n", "<br>") for name in self.header]
        if self.sortable:
            names = [f'<button type="button">{name}</button>' for name in names]
        head = "".join(f'<th scope="col"{mark}>{name}</th>' for mark, name in zip(marks, names, strict=True))
        body = "\n".join(
            "<tr>" + "".join(_cell(cell, mark) for cell, mark in zip(row, marks, strict=True)) + "</tr>"
            for row in self.rows
        )
        caption = f"<caption>{_prose(self.caption)}</caption>" if self.caption else ""
        sortable = f' data-name="t{number}"' if self.sortable else ""
        table = f"<table{sortable}>{caption}<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
        label = html.escape(self.caption.split("\n")[0] or f"table {number}", quote=True)
        box = f'<div class="box" role="region" tabindex="0" aria-label="{label}">{table}</div>'
        if self.sortable and len(self.rows) >= _FILTER_FROM_ROWS:
            words = f'type="search" placeholder="filter rows" aria-label="filter rows of {label}" data-for="t{number}"'
            box = f'<p class="filter"><input {words}> <output></output></p>{box}'
        return box


@dataclass(frozen=True)
class Plot(Block):
    """An SVG, inlined; dark mode inverts its brightness, so it should have no background of its own."""

    svg: str = field(repr=False)
    alt: str
    caption: str = ""

    def html(self, numbers: Iterator[int]) -> str:
        """Return it as HTML."""
        caption = f"<figcaption>{_prose(self.caption)}</figcaption>" if self.caption else ""
        return f"<figure>{inline_svg(self.svg, self.alt, f'p{next(numbers)}-')}{caption}</figure>"


@dataclass(frozen=True)
class Details(Block):
    """Blocks that are folded away until asked for."""

    summary: str
    blocks: Sequence[Block]

    def html(self, numbers: Iterator[int]) -> str:
        """Return it as HTML."""
        parts = "\n".join(block.html(numbers) for block in self.blocks)
        return f"<details><summary>{_prose(self.summary)}</summary>\n{parts}\n</details>"


def html_page(title: str, blocks: Sequence[Block], *, subtitle: str = "") -> str:
    """Return a page that needs nothing but itself: style, script and plots are inside."""
    numbers = itertools.count(1)
    body = "\n".join(block.html(numbers) for block in blocks)
    assets = resources.files("qinco_lit.reports")
    style, script = (assets.joinpath(f"page.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js"))
    below = f'<p class="subtitle">{_prose(subtitle)}</p>\n' if subtitle else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
{below}{body}
</main>
<script>
{script}</script>
</body>
</html>
"""


def number_text(value: float) -> str:
    """Return a number for readers: four digits, thousands separated, no exponent where none is expected."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 1000 and value == value and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def inline_svg(svg: str, alt: str, prefix: str) -> str:
    """Return an SVG file as an element of a page: scaled to its box, named by `alt`, `prefix` before its ids."""
    start = svg.index("<svg")
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[start:], flags=re.DOTALL).strip()
    head, rest = svg[: (end := svg.index(">"))], svg[end:]
    width, height = (re.search(rf'\b{side}="([\d.]+)', head) for side in ("width", "height"))
    if "viewBox" not in head and width and height:
        head += f' viewBox="0 0 {width[1]} {height[1]}"'
    size = f' style="width:{width[1]}pt;min-width:{0.6 * float(width[1]):g}pt"' if width else ""
    head = re.sub(r'\s(width|height|version|xmlns:\w+|style)="[^"]*"', "", head)
    rest = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", rest).replace("xlink:href=", "href=")
    return f'{head} role="img" aria-label="{html.escape(alt, quote=True)}"{size}{rest}'


def _is_numeric(cell: Cell) -> bool:
    return cell is None or cell == "" or _sort_value(cell) is not None


def _sort_value(cell: Cell) -> float | None:
    """What a cell is sorted by; None: by its text."""
    if isinstance(cell, int | float):
        return float(cell)
    text = cell.text if isinstance(cell, Link) else cell or ""
    match = _LEADING_NUMBER.match(text)
    return None if match is None else float(match[0].replace(",", "").replace("\N{MINUS SIGN}", "-"))


def _cell(cell: Cell, mark: str) -> str:
    if cell is None:
        return f"<td{mark}></td>"
    value = _sort_value(cell)
    data = "" if value is None or value != value else f' data-v="{value:.12g}"'
    if isinstance(cell, Link):
        text = f'<a href="{html.escape(cell.href, quote=True)}">{html.escape(cell.text)}</a>'
    else:
        text = html.escape(cell if isinstance(cell, str) else number_text(cell))
    return f"<td{mark}{data}>{text}</td>"


def _prose(text: str) -> str:
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", html.escape(text)).replace("\n", "<br>\n")
