"""A report as blocks, and these as one HTML file (no server, no internet; phones, dark mode, paper) or as Markdown."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from qinco_lit.reports.kit.tables import markdown_lines
from qinco_lit.reports.kit.texts import MINUS, number_text

_LEADING_NUMBER = re.compile(rf"[-+{MINUS}]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?(?=$|[\s%±×])")
# A box to type words into is of no use above a table that can be taken in at a glance.
_FILTER_FROM_ROWS = 8


@dataclass(frozen=True)
class Link:
    """A cell that leads somewhere, relative to the page; `href` is a URL, in which names are quoted."""

    text: str
    href: str


Cell = str | float | int | None | Link


@dataclass(frozen=True)
class Heading:
    """A heading; the page's title has level 1."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Plain text: `code` between backticks, line breaks kept."""

    text: str


@dataclass(frozen=True)
class TableBlock:
    """A table in a box that scrolls by itself; names of columns may have line breaks.

    Sorting takes a number, or the number a text begins with (`66.9 ± 0.3`), by its value and keeps empty cells last.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    sortable: bool = True

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows), "a cell for every column"

    @cached_property
    def numeric(self) -> list[bool]:
        """Whether a column is of numbers, which are aligned to the right."""
        columns = [[row[place] for row in self.rows] for place in range(len(self.header))]
        return [any(cell is not None for cell in cells) and all(map(_is_numeric, cells)) for cells in columns]

    def cells(self) -> Iterator[list[tuple[bool, str, str | None, str]]]:
        """Yield of each row the cells: whether it is aligned to the right, sorted by, leads to, text."""
        for row in self.rows:
            yield [
                (
                    numeric,
                    _sort_text(cell),
                    *((cell.href, cell.text) if isinstance(cell, Link) else (None, _text(cell))),
                )
                for numeric, cell in zip(self.numeric, row, strict=True)
            ]


@dataclass(frozen=True)
class Plot:
    """An SVG, inlined; dark mode inverts its brightness, so it should have no background of its own.

    `path` is that of the same plot in a file, relative to the report, for Markdown.
    """

    svg: str = field(repr=False)
    alt: str
    caption: str = ""
    path: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until asked for."""

    summary: str
    blocks: "Sequence[Block]"


Block = Heading | Paragraph | TableBlock | Plot | Details


def html_page(title: str, blocks: Sequence[Block], *, subtitle: str = "") -> str:
    """Return a page that needs nothing but itself: style, script and plots are inside, all texts are escaped."""
    style, script = (Markup(_asset(f"page.{suffix}")) for suffix in ("css", "js"))
    numbers = itertools.count(1)  # of tables and plots
    return _template().render(
        title=title, subtitle=subtitle, blocks=blocks, style=style, script=script, numbers=numbers,
        filter_from_rows=_FILTER_FROM_ROWS,
    )  # fmt: skip


def markdown_page(title: str, blocks: Sequence[Block], *, subtitle: str = "") -> str:
    """Return title, subtitle and blocks as Markdown text; plots are linked from their files."""
    parts = [f"# {title}", *([subtitle] if subtitle else []), *map(_markdown, blocks)]
    return "\n\n".join(parts) + "\n"


def inline_svg(svg: str, alt: str, prefix: str) -> Markup:
    """Return an SVG file as an element of a page: scaled to its box, named by `alt`, `prefix` before its ids."""
    start = svg.index("<svg")
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[start:], flags=re.DOTALL).strip()
    head, rest = svg[: (end := svg.index(">"))], svg[end:]
    width, height = (re.search(rf'\b{side}="([\d.]+)', head) for side in ("width", "height"))
    if "viewBox" not in head and width and height:
        head += f' viewBox="0 0 {width[1]} {height[1]}"'
    size = f' style="width:{width[1]}pt;min-width:{0.54 * float(width[1]):g}pt"' if width else ""
    head = re.sub(r'\s(width|height|version|xmlns:\w+|style)="[^"]*"', "", head)
    rest = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", rest).replace("xlink:href=", "href=")
    return Markup(f'{head} role="img" aria-label="{escape(alt)}"{size}{rest}')


# --- HTML -----------------------------------------------------------------------------------------------------------


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {
        "kind": lambda block: type(block).__name__,
        "next": next,
        "prose": _prose,
        "lines": lambda text: escape(text).replace("\n", Markup("<br>")),
        "svg": lambda plot, prefix: inline_svg(plot.svg, plot.alt, prefix),
    }
    return environment.from_string(_asset("page.html"))


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _prose(text: str) -> Markup:
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(text))).replace("\n", "<br>\n"))


def _is_numeric(cell: Cell) -> bool:
    return cell is None or cell == "" or _sort_value(cell) is not None


def _sort_value(cell: Cell) -> float | None:
    """What a cell is sorted by; None: by its text."""
    if isinstance(cell, int | float):
        return float(cell)
    text = cell.text if isinstance(cell, Link) else cell or ""
    match = _LEADING_NUMBER.match(text)
    return None if match is None else float(match[0].replace(",", "").replace(MINUS, "-"))


def _sort_text(cell: Cell) -> str:
    value = _sort_value(cell)
    return "" if value is None or value != value else f"{value:.12g}"


def _text(cell: str | float | None) -> str:
    return "" if cell is None else cell if isinstance(cell, str) else number_text(cell)


# --- Markdown -------------------------------------------------------------------------------------------------------


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return _hard_breaks(text)
        case TableBlock(header, rows, caption):
            cells = [[_markdown_cell(cell) for cell in row] for row in rows]
            table = markdown_lines([header, ["---"] * len(header), *cells])
            return f"{_hard_breaks(caption)}\n\n{table}" if caption else table
        case Plot():
            return f"![{block.alt}]({block.path})\n\n{_hard_breaks(block.caption)}"
        case Details(summary, blocks):
            inside = "\n\n".join(map(_markdown, blocks))
            return f"<details>\n<summary>{summary}</summary>\n\n{inside}\n\n</details>"


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f"[{_markdown_cell(cell.text)}]({cell.href})"
    return _text(cell).replace("|", "\\|").replace("\n", " ")


def _hard_breaks(text: str) -> str:
    return text.replace("\n", "  \n")
