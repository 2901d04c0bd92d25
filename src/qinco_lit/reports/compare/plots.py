"""Plots of a comparison: narrow panels that a phone can show, the best rows in colour and the others grey."""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from qinco_lit.metrics import undominated
from qinco_lit.reports.compare.rows import Run
from qinco_lit.reports.kit.plots import LOOKS, dress, error_axis, log_x_axis, whole_x_axis
from qinco_lit.reports.kit.texts import number_text, plain, tick_text

Points = Sequence[tuple[float, float]]

MAX_IN_COLOUR = len(LOOKS)
_GREY = "#a0a0a0"
# A range wider than this is shown on a logarithmic axis.
_LOGARITHMIC_FROM = 3.0
_MAX_RECALLS = 2
# of a file's name
_MAX_SUFFIX = 100
# No axis shows more: beyond are errors of runs that diverged.
_LARGEST, _WIDEST = 1e30, 1e15


@dataclass(frozen=True)
class _Panel:
    """What is drawn: points of each row, those in colour first; `joined` by lines or not."""

    name: str
    title: str
    x_label: str
    y_label: str
    points: Mapping[Run, Points]
    joined: bool = True
    log_x: bool = False
    by_bytes: bool = True
    caption: str = ""


@dataclass(frozen=True)
class NamedPlot:
    """A plot: the name of its files and in words what it shows; drawn when it is asked for."""

    name: str
    title: str
    caption: str
    _panel: _Panel
    _labels: Mapping[Run, str]

    @cached_property
    def figure(self) -> Figure:
        """Return it drawn. Raises what matplotlib raises for figures that no axis can show."""
        return figure_of(self._panel, self.title, self._labels)


def plots(runs: Sequence[Run], labels: Mapping[Run, str]) -> Iterator[NamedPlot]:
    """Yield the plots that the rows have figures for, those of each data set by themselves.

    Args:
        runs: the best of each data set first.
        labels: what the legends call them.
    """
    several = len({run.data for run in runs}) > 1
    for data in dict.fromkeys(run.data for run in runs):
        ours = [run for run in runs if run.data == data]
        for panel in _panels(ours):
            suffix = f"_{re.sub(r'[^A-Za-z0-9.-]', '_', data)[:_MAX_SUFFIX]}" if several else ""
            title = f"{plain(data)}: {panel.title}"
            yield NamedPlot(panel.name + suffix, title, _caption(panel), panel, labels)


def _panels(runs: Sequence[Run]) -> Iterator[_Panel]:
    codecs = [run for run in runs if run.kind != "search"]
    trained = best_of_each_rate(
        sorted((run for run in codecs if len(run.curve.mse) > 1), key=lambda run: min(run.curve.mse))
    )
    if trained:
        epochs = {run: tuple(zip(run.curve.epochs, run.curve.mse, strict=True)) for run in trained}
        yield _Panel("learning_epochs", "learning curves", "epochs", "validation MSE", epochs)
        minutes = {
            run: tuple((each / 60, mse) for each, mse in zip(run.curve.seconds, run.curve.mse, strict=True))
            for run in trained
        }
        yield _Panel(
            "learning_time", "learning curves", "minutes since the first report", "validation MSE", minutes,
            caption="Pauses between a stop and its resumption are left out.",
        )  # fmt: skip
    evaluated = [run for run in codecs if run.evaluated]
    on = "database" if evaluated else "validation"
    measured = [run for run in (evaluated or codecs) if run.rates]
    if measured:
        rates = {run: run.rates for run in best_of_each_rate(measured)}
        caption = "Curves: prefixes of the codes that were found for the full rate."
        yield _Panel("mse_bytes", "MSE against bytes", "bytes per vector", f"{on} MSE", rates, caption=caption)
    timed = [run for run in evaluated if run.results.get("encode_vectors_per_s", 0) > 0 and "mse" in run.results]
    if timed:
        speeds = {run: (_speed(run),) for run in fronts_first(timed)}
        caption = "The best: nothing of as many bytes is as fast and as good. " + _circumstances(timed)
        yield _Panel(
            "mse_encode_time", "MSE against encoding time", "encoding, µs per vector", "database MSE", speeds,
            joined=False, log_x=True, caption=caption,
        )  # fmt: skip
    searches = [run for run in runs if run.fronts]
    for k in list(dict.fromkeys(k for run in searches for k, front in run.fronts.items() if front))[:_MAX_RECALLS]:
        fronts = {run: tuple((speed, 100 * recall) for speed, recall in run.fronts.get(k, ())) for run in searches}
        fronts = {run: front for run, front in fronts.items() if front}
        yield _Panel(
            f"search_recall_at_{k}", f"R@{k} against speed, Pareto fronts", "queries/s", f"R@{k} (%)", fronts,
            log_x=True, by_bytes=False, caption=_circumstances(searches),
        )  # fmt: skip


def best_of_each_rate(runs: Sequence[Run]) -> list[Run]:
    """Order rows so that the best at each number of bytes come first: the rest is grey."""
    by_bytes = _by_bytes(runs)
    rounds = itertools.zip_longest(*(by_bytes[each] for each in sorted(by_bytes)))
    return [run for each in rounds for run in each if run is not None]


def fronts_first(runs: Sequence[Run]) -> list[Run]:
    """Order rows so that those come first that no faster one of the same bytes beats."""
    groups = _by_bytes(runs).values()
    fronts = [each for group in groups for each in undominated(group, lambda run: _speed(run)[0], _error)]
    on_front = set(fronts)
    return best_of_each_rate([run for run in runs if run in on_front]) + [run for run in runs if run not in on_front]


def _by_bytes(runs: Sequence[Run]) -> dict[float, list[Run]]:
    groups: dict[float, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.results.get("bytes_per_vector", 0.0)].append(run)
    return groups


def _speed(run: Run) -> tuple[float, float]:
    return 1e6 / run.results["encode_vectors_per_s"], run.results["mse"]


def _error(run: Run) -> float:
    return run.results["mse"]


def _circumstances(runs: Sequence[Run]) -> str:
    """Say when speeds were measured under unlike conditions and cannot be compared."""
    names = ("evaluate.device", "evaluate.threads", "evaluate.processor", "search.threads", "search.processor")
    unlike = [
        name.partition(".")[2] for name in names if len({run.options[name] for run in runs if name in run.options}) > 1
    ]
    return f"Not all were measured alike: {', '.join(dict.fromkeys(unlike))} differ." if unlike else ""


def _caption(panel: _Panel) -> str:
    hidden = len(panel.points) - MAX_IN_COLOUR
    which = ", of each number of bytes" if panel.by_bytes else ""
    grey = f"In colour the best {MAX_IN_COLOUR} of {len(panel.points)}{which}; the others grey." if hidden > 0 else ""
    return " ".join(each for each in (panel.caption, grey) if each)


def figure_of(panel: _Panel, title: str, labels: Mapping[Run, str]) -> Figure:
    """Return a panel drawn, its legend below."""
    in_colour = list(panel.points)[:MAX_IN_COLOUR]
    figure = Figure(figsize=(4.6, 3.1 + 0.17 * len(in_colour)), layout="constrained")
    axes = figure.add_subplot()
    _draw_grey(axes, [panel.points[run] for run in list(panel.points)[MAX_IN_COLOUR:]], joined=panel.joined)
    for place, (run, look) in enumerate(zip(in_colour, LOOKS, strict=False)):
        points = panel.points[run]
        line = look if panel.joined and len(points) > 1 else {**look, "linestyle": "none"}
        size = 5.0 if len(points) == 1 else 3.5
        label = f" {labels[run]}"  # one that began with _ would be hidden
        axes.plot(
            *zip(*points, strict=True), markersize=size, label=label, linewidth=1.8,
            markevery=max(1, len(points) // 12), zorder=6 + MAX_IN_COLOUR - place, **line,
        )  # fmt: skip
    _dress(axes, panel)
    axes.set_title(title, loc="left", fontsize=10, parse_math=False)
    legend = figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower left", frameon=False, fontsize=8.5, borderpad=0,
        labelspacing=0.3,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may hold dollars
    return figure


def _draw_grey(axes: Axes, rows: Sequence[Points], *, joined: bool) -> None:
    """One path for all: hundreds of lines stay small."""
    gap = (math.nan, math.nan)
    points = [point for row in rows for point in (*row, gap)]
    if points:
        look = {"linewidth": 0.7} if joined else {"linestyle": "none"}
        marker = "." if not joined or any(len(row) == 1 for row in rows) else None
        axes.plot(*zip(*points, strict=True), color=_GREY, alpha=0.6, marker=marker, markersize=4, zorder=2, **look)


def _dress(axes: Axes, panel: _Panel) -> None:
    in_colour = [panel.points[run] for run in list(panel.points)[:MAX_IN_COLOUR]]
    _dress_x(axes, panel, [x for points in panel.points.values() for x, _ in points])
    if panel.y_label.endswith("(%)"):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    else:
        lowest = min(y for points in panel.points.values() for _, y in points)
        # one diverged run among the grey ones would press all others together
        _dress_errors(axes, lowest, max(y for points in in_colour for _, y in points))
    dress(axes, panel.x_label, panel.y_label)


def _dress_x(axes: Axes, panel: _Panel, xs: Sequence[float]) -> None:
    if panel.log_x and min(xs) > 0 and max(xs) > _LOGARITHMIC_FROM * min(xs):
        log_x_axis(axes, subs=(1, 2, 5) if max(xs) < 50 * min(xs) else (1,))
    elif panel.x_label in ("epochs", "bytes per vector"):
        whole_x_axis(axes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))


def _dress_errors(axes: Axes, low: float, high: float) -> None:
    margin = 0.05
    low, high = (max(-_LARGEST, min(each, _LARGEST)) for each in (low, high))
    if low > 0 and high > _LOGARITHMIC_FROM * low:
        low = max(low, 1 / _LARGEST)
        high = min(high, low * _WIDEST)
        axes.set_ylim(low, high)  # first: the scale would be fitted to what is cut off
        error_axis(axes, subs=(1, 2, 5) if high < 200 * low else (1,))
        axes.set_ylim(low * (low / high) ** margin, high * (high / low) ** margin)
    elif high > low:
        axes.set_ylim(low - margin * (high - low), high + margin * (high - low))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
