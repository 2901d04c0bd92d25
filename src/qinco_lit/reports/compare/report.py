"""A comparison made, and written to a folder: compare.csv, compare.md, plots and one page that needs no server."""

import fnmatch
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from qinco_lit.atomic import write_atomically
from qinco_lit.options import closest
from qinco_lit.reports.compare.columns import check_metric, constants_line, ranked, short_names, value_text
from qinco_lit.reports.compare.plots import NamedPlot, plots
from qinco_lit.reports.compare.records import find_folders
from qinco_lit.reports.compare.rows import Run
from qinco_lit.reports.compare.runs import read_runs
from qinco_lit.reports.compare.tables import Comparison, csv_table, markdown_table, two_lines
from qinco_lit.reports.kit.page import Block, Cell, Details, Heading, Link, Paragraph, Plot, TableBlock, html_page
from qinco_lit.reports.kit.plots import figure_bytes
from qinco_lit.reports.kit.texts import markdown, plain

# Where nothing was evaluated it orders by the validation error.
DEFAULT_METRIC = "mse"
NOTES = (
    "MSE: mean over vectors of the sum over dimensions, raw space; of the database where the codec was evaluated, of "
    "the best epoch's validation else.\n"
    "R@k: true nearest neighbour among the first k. Of searches the best, and the speed of the fastest point within "
    "1 point of the best R@1.\n"
    "The best of each data set comes first. Empty: not measured, or an option that the version of then did not have."
)
_ADVICE = "Press a column's name to sort. All options and results are in `compare.csv`."
_MAX_LABEL = 52
_MANY_PATHS = 5
_FACTS = ("name", "kind", "method", "data_set", "state")

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What is compared, each best first."""

    title: str
    folders: str
    codecs: Comparison | None
    searches: Comparison | None
    warnings: list[str]
    """What was left out, a line each."""

    @property
    def parts(self) -> list[tuple[str, Comparison]]:
        """Return the comparisons there are, with their headings."""
        both = (("Codecs", self.codecs), ("Searches", self.searches))
        return [(name, part) for name, part in both if part is not None]

    @property
    def runs(self) -> list[Run]:
        """Return all rows."""
        return [run for _, part in self.parts for run in part.runs]


def compare(paths: Sequence[Path], *, warn: Warn, sort_by: str = DEFAULT_METRIC, filters: Sequence[str] = ()) -> Report:
    """Read what was trained, evaluated and searched below some folders, and put it side by side.

    Args:
        paths: folders of runs, sweeps, evaluations or searches, or folders of such.
        warn: is told, a line each, of what is left out and why.
        sort_by: one of `METRICS`.
        filters: KEY=PATTERN: only rows with that option.

    Raises:
        FileNotFoundError, ValueError: nothing to compare, an unknown metric, a filter that nothing passes.
    """
    check_metric(sort_by)
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        warn(text)

    found = find_folders(paths)
    for warning in found.warnings:
        tell(warning)
    runs = read_runs(found, tell)
    if not runs:
        what = "no summary.json, metrics.json or search.json is readable there"
        raise ValueError(f"nothing to compare in {_listed(paths)}: {what}")
    runs = ranked(_filtered(runs, filters), sort_by)
    if sort_by != DEFAULT_METRIC and not any(sort_by in run.results for run in runs):
        warn(f"no row has {sort_by}: sorted by MSE and recall")
    codecs = [run for run in runs if run.kind != "search"]
    searches = [run for run in runs if run.kind == "search"]
    return Report(
        _title(len(codecs), len(searches)),
        _listed(paths),
        Comparison.of(codecs, sort_by) if codecs else None,
        Comparison.of(searches, sort_by) if searches else None,
        told,
    )


def _filtered(runs: Sequence[Run], filters: Sequence[str]) -> list[Run]:
    known = {*_FACTS, *(name for run in runs for name in run.options)}
    kept = list(runs)
    for each in filters:
        key, equals, pattern = each.partition("=")
        if not equals:
            raise ValueError(f"--filter {each} is not of the form KEY=VALUE")
        if key not in known:
            raise ValueError(f"--filter {each}: no row has the option {key}{closest(key, known)}")
        facts = {run: (run.name, run.kind, run.method, run.data, run.state) for run in kept}
        values = {run: facts[run][_FACTS.index(key)] if key in _FACTS else value_text(run, key) for run in kept}
        left = [run for run in kept if fnmatch.fnmatchcase(values[run], pattern)]
        if not left:
            there = ", ".join(sorted({value for value in values.values() if value})[:8])
            raise ValueError(f"--filter {each}: no row passes; {key} is one of {there}")
        kept = left
    return kept


def _listed(paths: Sequence[Path]) -> str:
    if len(paths) < _MANY_PATHS:
        return ", ".join(map(str, paths))
    return f"{paths[0]} and {len(paths) - 1} more folders"


def _title(num_codecs: int, num_searches: int) -> str:
    counts = {"codec": num_codecs, "searched index": num_searches}
    ending = {"codec": "s", "searched index": "es"}
    parts = [f"{count} {name}{'' if count == 1 else ending[name]}" for name, count in counts.items() if count]
    return f"Comparison of {' and '.join(parts)}"


# --- files ----------------------------------------------------------------------------------------------------------


def write_report(report: Report, output_dir: Path, warn: Warn) -> None:
    """Write the files; where compare.html is, all are there. `warn` is told of plots that cannot be drawn."""
    output_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(output_dir / "compare.csv", csv_table(report.runs).encode(errors="backslashreplace"))
    drawn = []
    for plot in plots(report.runs, _labels(report)):
        try:
            svg, png = _drawn(plot)
        except (ValueError, ArithmeticError) as error:
            report.warnings.append(f"left out the plot {plot.name}: {error}")
            warn(report.warnings[-1])
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
