"""A comparison written to a folder: compare.csv, compare.md, plots and one page that needs no server."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from qinco_lit.atomic import write_atomically
from qinco_lit.reports.compare.differences import constants_line, short_names, value_text
from qinco_lit.reports.compare.plots import NamedPlot, plots
from qinco_lit.reports.compare.rows import Run
from qinco_lit.reports.compare.tables import Comparison, csv_table, markdown_table, two_lines
from qinco_lit.reports.compare.texts import markdown, plain
from qinco_lit.reports.page import Block, Cell, Details, Heading, Link, Paragraph, Plot, TableBlock, html_page
from qinco_lit.reports.rate_distortion import figure_bytes

NOTES = (
    "MSE: mean over vectors of the sum over dimensions, raw space; of the database where the codec was evaluated, of "
    "the best epoch's validation else.\n"
    "R@k: true nearest neighbour among the first k. Of searches the best, and the speed of the fastest point within "
    "1 point of the best R@1.\n"
    "The best of each data set comes first. Empty: not measured, or an option that the version of then did not have."
)
_ADVICE = "Press a column's name to sort. All options and results are in `compare.csv`."
_MAX_LABEL = 52


@dataclass(frozen=True)
class Report:
    """What is compared, each best first."""

    title: str
    folders: str
    codecs: Comparison | None
    searches: Comparison | None
    warnings: Sequence[str]

    @property
    def parts(self) -> list[tuple[str, Comparison]]:
        """Return the comparisons there are, with their headings."""
        both = (("Codecs", self.codecs), ("Searches", self.searches))
        return [(name, part) for name, part in both if part is not None]

    @property
    def runs(self) -> list[Run]:
        """Return all rows."""
        return [run for _, part in self.parts for run in part.runs]


def write_report(report: Report, output_dir: Path, warn: Callable[[str], None]) -> None:
    """Write the files; where compare.html is, all are there. `warn` is told of plots that cannot be drawn."""
    output_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(output_dir / "compare.csv", csv_table(report.runs).encode(errors="backslashreplace"))
    drawn = []
    for plot in plots(report.runs, _labels(report)):
        try:
            svg, png = _drawn(plot)
        except (ValueError, ArithmeticError) as error:
            warn(f"left out the plot {plot.name}: {error}")
            continue
        write_atomically(output_dir / f"{plot.name}.svg", svg)
        write_atomically(output_dir / f"{plot.name}.png", png)
        drawn.append((plot, svg.decode()))
    write_atomically(output_dir / "compare.md", _markdown(report, [plot for plot, _ in drawn]))
    write_atomically(output_dir / "compare.html", _page(report, drawn, output_dir))


def _drawn(plot: NamedPlot) -> tuple[bytes, bytes]:
    """Return the plot as svg and png."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box stands for it
        svg = figure_bytes(plot.figure, "svg")
        plot.figure.set_layout_engine("none")  # where things are is settled; finding it is most of the time
        return svg, figure_bytes(plot.figure, "png")


def _markdown(report: Report, drawn: Sequence[NamedPlot]) -> str:
    parts = [f"# {report.title}", markdown(report.folders)]
    for name, part in report.parts:
        parts.append(f"## {name}\n\n{markdown_table(part)}")
        if part.options.constant:
            parts.append(f"The same in all: {markdown(constants_line(part.options))}.")
    parts += [NOTES, *(f"![{markdown(plot.title)}]({plot.name}.svg)" for plot in drawn)]
    parts += ["\n".join(f"- {markdown(warning)}" for warning in report.warnings)] if report.warnings else []
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _page(report: Report, drawn: Sequence[tuple[NamedPlot, str]], output_dir: Path) -> str:
    blocks: list[Block] = []
    for name, part in report.parts:
        blocks += [Heading(name), _table(part, output_dir), *_same(part)]
    blocks.append(Paragraph(NOTES))
    if drawn:
        blocks.append(Heading("Plots"))
        blocks += [Plot(svg, plot.title, plot.caption) for plot, svg in drawn]
    if report.warnings:
        count = f"{len(report.warnings)} folders or lines left out"
        blocks.append(Details(count, [Paragraph("\n".join(map(plain, report.warnings)))]))
    return html_page(report.title, blocks, subtitle=f"{report.folders}\n{_ADVICE}")


def _table(part: Comparison, output_dir: Path) -> TableBlock:
    name, *columns = part.columns()
    names: list[Cell] = [Link(plain(run.name), _relative(run.folder, output_dir)) for run in part.runs]
    header = [name.label, *(two_lines(column).label for column in columns)]
    rows = list(zip(names, *([_cell(cell) for cell in column.cells] for column in columns), strict=True))
    return TableBlock(header, rows)


def _same(part: Comparison) -> list[Block]:
    blocks: list[Block] = []
    if part.options.implied:
        names = ", ".join(f"`{name}`" for name in part.options.implied)
        blocks.append(Paragraph(f"Differs too, by the choice of model and recipe: {names}."))
    if part.options.constant:
        rows = [(name, value) for name, value in sorted(part.options.constant.items())]
        summary = f"The same in all: {constants_line(part.options, num_shown=3)}"
        blocks.append(Details(summary, [TableBlock(("option", "value"), rows)]))
    return blocks


def _labels(report: Report) -> Mapping[Run, str]:
    """What legends call rows: the name, and what tells the row apart as far as there is room."""
    labels = {}
    for _, part in report.parts:
        short = short_names(part.options.columns)
        for run in part.runs:
            facts = [f"{short[name]}={text}" for name in part.options.columns if (text := value_text(run, name))]
            own = [run.method] if run.kind == "search" else []
            text = "  ".join([run.name, *own, *facts])
            text = plain(text)
            labels[run] = text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"
    return labels


def _cell(text: str) -> Cell:
    return text or None


def _relative(folder: Path, output_dir: Path) -> str:
    """Return the URL: a name may hold #, ? and %, and what it begins with is no scheme."""
    path = Path(os.path.relpath(folder.resolve(), output_dir.resolve())).as_posix()
    return quote(os.fsencode(path if path.startswith("../") else f"./{path}"))
