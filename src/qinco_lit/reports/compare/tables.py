"""Runs as tables: for a terminal of any width, as Markdown, as csv."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from qinco_lit.reports.compare.columns import (
    METRICS,
    Differences,
    Metric,
    differences,
    present,
    short_names,
    value_text,
)
from qinco_lit.reports.compare.rows import Run
from qinco_lit.reports.kit.tables import Grid, csv_text
from qinco_lit.reports.kit.texts import markdown, plain, shown

# A terminal shows so many rows; the page and the csv hold all.
MAX_TERMINAL_ROWS = 40
_MAX_VALUE = 24
_MAX_NAME = 40
_MIN_NAME = 24
_GAP = 2
# Where the terminal is narrow: results that stay, and which of the others go first.
_KEPT = ("mse", "recall_at_1", "queries_per_s")
_FIRST_LEFT_OUT = (
    "parameters", "epochs", "wall_s", "decode_vectors_per_s", "recall_at_100", "latency_median_s", "best_val_mse",
    "bytes_per_vector", "encode_vectors_per_s", "recall_at_10",
)  # fmt: skip
# So many options are read on the way to the results; more are in their way.
_FEW = 4


@dataclass(frozen=True)
class Column:
    """A column of text without control characters; its label may have two lines."""

    label: str
    cells: list[str]
    is_number: bool

    def __post_init__(self) -> None:
        self.cells[:] = map(plain, self.cells)


@dataclass(frozen=True)
class Comparison:
    """Rows of one kind (codecs and baselines, or searches) and what is to be shown of them."""

    runs: list[Run]
    options: Differences
    metrics: list[Metric]
    sorted_by: str = "mse"

    @classmethod
    def of(cls, runs: Sequence[Run], sorted_by: str) -> "Comparison":
        """Compare rows in their order; baselines have no options that could differ."""
        subjects = [run for run in runs if run.kind != "baseline"] or list(runs)
        return cls(list(runs), differences(subjects), present(runs), sorted_by)

    def name_column(self) -> Column:
        """Return the first column: the rows' names."""
        return Column("run", [run.name for run in self.runs], is_number=False)

    def option_columns(self) -> list[Column]:
        """Return a column for each option that differs, and for what else tells rows apart."""
        columns = []
        if len({run.data for run in self.runs}) > 1:
            columns.append(Column("data", [run.data for run in self.runs], is_number=False))
        if len({run.method for run in self.runs}) > 1:
            columns.append(Column("method", [run.method for run in self.runs], is_number=False))
        if len({run.state for run in self.runs if run.kind == "codec"}) > 1:
            states = [run.state if run.kind == "codec" else "" for run in self.runs]
            columns.append(Column("state", states, is_number=False))
        labels = short_names(self.options.columns)
        return columns + [
            Column(labels[name], [value_text(run, name) for run in self.runs], is_number=False)
            for name in self.options.columns
            if name != "data"
        ]

    def columns(self) -> list[Column]:
        """Return all columns; many options come after the results, few before."""
        options, results = self.option_columns(), self.result_columns()
        return [self.name_column(), *(options + results if len(options) <= _FEW else results + options)]

    def result_columns(self, metrics: Sequence[Metric] | None = None) -> list[Column]:
        """Return a column for each of the metrics; None: for each result that any row has."""
        return [
            Column(metric.label, [_result(run, metric) for run in self.runs], is_number=True)
            for metric in (self.metrics if metrics is None else metrics)
        ]


def terminal_tables(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    """Yield the comparison for a terminal of `width` columns: one table, in need without the results that tell least.

    Where the options alone leave no room, they are a table of their own.
    """
    name = _shortened(comparison.name_column(), _MAX_NAME)
    options = [_shortened(column, _MAX_VALUE) for column in map(two_lines, comparison.option_columns())]
    starts = _starts_of_data_sets(comparison.runs)
    kept, fits = _results_beside([name, *options], comparison, width)
    if fits:
        yield _table([name, *options, *comparison.result_columns(kept)], starts)
    else:
        number = Column("#", [str(place) for place in range(1, len(comparison.runs) + 1)], is_number=True)
        narrow = _shortened(name, max(_MIN_NAME, width - _width([number, *comparison.result_columns()]) - _GAP))
        kept, _ = _results_beside([number, narrow], comparison, width)
        yield _table([number, narrow, *comparison.result_columns(kept)], starts)
        shown, num_hidden = _fitting([number], options, width)
        more = f" ({num_hidden} more column{'s' if num_hidden > 1 else ''} in compare.html)" if num_hidden else ""
        yield Text(f"What differs{more}:")
        yield _table([number, *shown], starts)
    hidden = [metric.name for metric in comparison.metrics if metric not in kept]
    if hidden:
        yield Text(f"Not shown: {', '.join(hidden)}", style="dim")
    if len(comparison.runs) > MAX_TERMINAL_ROWS:
        yield Text(f"{len(comparison.runs) - MAX_TERMINAL_ROWS} more rows in compare.html", style="dim")


def _results_beside(others: list[Column], comparison: Comparison, width: int) -> tuple[list[Metric], bool]:
    """Return the results that fit beside other columns, or those that stay in any case; and whether they fit."""
    kept = list(comparison.metrics)
    needed = {*_KEPT, comparison.sorted_by}
    if not all("mse" in run.results for run in comparison.runs):
        needed.add("best_val_mse")  # all that some rows have
    while _width([*others, *comparison.result_columns(kept)]) > width:
        names = [metric.name for metric in kept if metric.name not in needed]
        if not names:
            return kept, False
        alike = [name for name in names if len({run.results.get(name) for run in comparison.runs}) == 1]
        least = (alike or sorted(names, key=_FIRST_LEFT_OUT.index))[0]
        kept = [metric for metric in kept if metric.name != least]
    return kept, True


def markdown_table(comparison: Comparison) -> str:
    """Return all rows and columns as Markdown."""
    return _grid(comparison.columns()).markdown(markdown) + "\n"


def csv_table(runs: Sequence[Run]) -> str:
    """Return all rows with all options and results: shares in 0..1, seconds, bytes, as they were recorded."""
    options = list(dict.fromkeys(name for run in runs for name in run.options))
    metrics = list(
        dict.fromkeys([*(metric.name for metric in present(runs)), *(name for run in runs for name in run.results)])
    )
    header = ["name", "kind", "method", "data_set", "state", "folder", *metrics, *options]
    rows = []
    for run in runs:
        facts = [run.name, run.kind, run.method, run.data, run.state, run.folder]
        results = [_plain(run.results.get(name)) for name in metrics]
        rows.append([*facts, *results, *(value_text(run, name) for name in options)])
    return csv_text(header, rows)


def _plain(value: float | None) -> str:
    return "" if value is None else repr(int(value) if value.is_integer() else value)


def _result(run: Run, metric: Metric) -> str:
    value = run.results.get(metric.name)
    return "" if value is None else shown(value, METRICS[metric.name].show)


def two_lines(column: Column) -> Column:
    """Break a long name of an option at the underscore or point nearest to its middle."""
    label = column.label
    breaks = [place + 1 for place, letter in enumerate(label) if letter in "_."]
    if len(label) <= 10 or not breaks:
        return column
    at = min(breaks, key=lambda place: abs(place - len(label) / 2))
    return Column(f"{label[:at]}\n{label[at:]}", column.cells, column.is_number)


def _shortened(column: Column, length: int) -> Column:
    """Cut long cells in front: the end of a path tells more."""
    cells = [cell if len(cell) <= length else "…" + cell[-(length - 1) :] for cell in column.cells]
    return Column(column.label, cells, column.is_number)


def _width(columns: Sequence[Column]) -> int:
    texts = [[*column.label.split("\n"), *column.cells[:MAX_TERMINAL_ROWS]] for column in columns]
    return sum(max(map(cell_len, each)) + _GAP for each in texts) - _GAP


def _fitting(first: list[Column], columns: list[Column], width: int) -> tuple[list[Column], int]:
    """Return as many columns as fit beside the first ones, and how many do not."""
    shown = list(columns)
    while shown and _width([*first, *shown]) > width:
        shown.pop()
    return shown, len(columns) - len(shown)


def _starts_of_data_sets(runs: Sequence[Run]) -> set[int]:
    return {place for place in range(1, len(runs)) if runs[place].data != runs[place - 1].data}


def _grid(columns: Sequence[Column], starts: set[int] | None = None) -> Grid:
    """Return columns as a table; `starts`: rows that begin a data set, the best of which comes first."""
    rows = list(zip(*(column.cells for column in columns), strict=True))
    left = [place for place, column in enumerate(columns) if not column.is_number]
    starts = starts or set()
    best = {0, *starts} if len(rows) > 1 else set()
    return Grid([column.label for column in columns], rows, left=left, bold=best, ends={place - 1 for place in starts})


def _table(columns: Sequence[Column], starts: set[int]) -> Table:
    shown = [Column(column.label, column.cells[:MAX_TERMINAL_ROWS], column.is_number) for column in columns]
    return _grid(shown, starts).rich(gap=_GAP, edge=False)
