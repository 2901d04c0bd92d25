"""The studies as curves and bars, in the manner of the papers' figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, ScalarFormatter

from qinco_lit.reports.iclr.numbers import dataset_label, metric_label, settings_text, unit_of, value_text
from qinco_lit.reports.iclr.studies import FRONTS, Point, error_metric, front_of, labelled_groups, varying_settings
from qinco_lit.reports.kit.plots import LOOKS, dress, error_axis, figure_bytes, log_x_axis, whole_x_axis
from qinco_lit.reports.kit.texts import number_text

_WIDTH = 7.2
_NUMBERS = FuncFormatter(lambda value, _: number_text(value))


@dataclass(frozen=True)
class Chart:
    """A figure with the name of its files and a sentence on what it shows."""

    name: str
    figure: Figure
    caption: str

    @cached_property
    def svg(self) -> str:
        """Return it as SVG without a background, the same text for the same content."""
        return figure_bytes(self.figure, "svg", transparent=True, salt=self.name).decode()

    def png(self) -> bytes:
        """Return it as PNG on white."""
        return figure_bytes(self.figure, "png")


def on_white(svg: str) -> str:
    """Return an SVG with a white ground, for viewers of a colour of their own."""
    end = svg.index(">", svg.index("<svg")) + 1
    return f'{svg[:end]}\n <rect width="100%" height="100%" fill="#ffffff"/>{svg[end:]}'


def section_chart(points: list[Point], section: str, dataset: str, base: str) -> Chart | None:
    """Return the figure of a section on a data set, None where too little was measured for one.

    `base` is the method whose bar in an ablation the others are compared with.
    """
    if section == "run_time":
        caption = "MSE against encoding time: the searches that were measured, the Pareto front as a line."
        return _fronts(points, section, dataset, caption, named=True)
    if section == "search":
        caption = "R@1 against queries per second: operating points, the Pareto fronts as lines."
        return _fronts(points, section, dataset, caption, named=False)
    if section == "dynamic_rate":
        return _error_against_rate(points, dataset)
    return _bars(points, dataset, base) if section == "ablation" else None


def _fronts(points: list[Point], section: str, dataset: str, caption: str, named: bool) -> Chart | None:
    """What was measured as faint points, the Pareto front of each method as a line.

    `named`: beside each point the settings that the others do not share.
    """
    metrics = FRONTS[section]
    known = _with_numbers(points, *metrics)
    if not known:
        return None
    varying = varying_settings(known)
    figure, axes = _axes()
    for look, (label, group) in zip(_cycle(), labelled_groups(known), strict=False):
        xs, ys = _coordinates(group, metrics, dataset)
        axes.plot(xs, ys, color=look["color"], marker=look["marker"], markersize=4, linestyle="none", alpha=0.35)
        axes.plot(*_coordinates(front_of(group, *metrics), metrics, dataset), label=label, **look)
        for point, x, y in zip(group if named else (), xs, ys, strict=False):
            text = settings_text(tuple((name, value) for name, value in point.settings if name in varying))
            axes.annotate(text, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
    log_x_axis(axes)
    if named:  # room for the name of the last point
        costs, _ = _coordinates(known, metrics, dataset)
        axes.set_xlim(min(costs) / 1.2, 1.2 * max(costs) * (max(costs) / min(costs)) ** 0.15)
    _dress(axes, metric_label(metrics[0]), metric_label(metrics[1], dataset))
    return Chart(f"{section}_{dataset}", figure, f"{dataset_label(dataset)}. {caption}")


def _error_against_rate(points: list[Point], dataset: str) -> Chart | None:
    """MSE of the prefixes of an encoding against their bytes."""
    known = _with_numbers(points, "mse")
    if len({point.num_bytes for point in known}) < 2:
        return None
    figure, axes = _axes()
    for look, (label, group) in zip(_cycle(), labelled_groups(known, of_encoding=True), strict=False):
        group.sort(key=lambda point: point.num_bytes)
        _, errors = _coordinates(group, ("mse", "mse"), dataset)
        axes.plot([point.num_bytes for point in group], errors, label=label, **look)
    error_axis(axes)
    whole_x_axis(axes)
    _dress(axes, "rate, bytes per vector", metric_label("mse", dataset))
    caption = "MSE against rate: the first codes of an encoding, decoded by the first steps (dynamic rate)."
    return Chart(f"dynamic_rate_{dataset}", figure, f"{dataset_label(dataset)}. {caption}")


def _bars(points: list[Point], dataset: str, base: str) -> Chart | None:
    """MSE of each variant of an ablation, the full recipe as a line across."""
    error = error_metric(points)
    known = _with_numbers(points, error)
    if len(known) < 2:
        return None
    figure, axes = _axes(height=0.9 + 0.34 * len(known))
    names = [point.method for point in known]
    _, errors = _coordinates(known, (error, error), dataset)
    spreads = [(point.measured[error].spread or 0.0) / unit_of(error, dataset).size for point in known]
    colors = [LOOKS[0]["color"] if name == base else "#8C8C8C" for name in names]
    bars = axes.barh(range(len(known)), errors, xerr=spreads if any(spreads) else None, color=colors, height=0.7)
    axes.bar_label(
        bars, [value_text(point.measured[error].mean, error, dataset) for point in known], padding=3, fontsize=8
    )
    if base in names:
        axes.axvline(errors[names.index(base)], color=LOOKS[0]["color"], linewidth=1.2, linestyle="--")
    axes.set_yticks(range(len(known)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(errors))
    _dress(axes, metric_label(error, dataset), "", legend=False)
    axes.grid(visible=False, axis="y")
    name = "MSE" if error == "mse" else "Validation MSE"
    caption = f"{name} of trainings with all ingredients of the recipe, and without those named."
    return Chart(f"ablation_{dataset}", figure, f"{dataset_label(dataset)}. {caption}")


def _axes(height: float = 4.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _with_numbers(points: Sequence[Point], *metrics: str) -> list[Point]:
    return [point for point in points if all(math.isfinite(point.value(metric) or math.nan) for metric in metrics)]


def _cycle() -> list[dict[str, Any]]:
    """Looks of more lines than a plot can show: colours repeat, their combination with a width does not."""
    return [{**look, "linewidth": width, "markersize": 5} for width in (1.8, 1.0, 2.6) for look in LOOKS]


def _coordinates(points: Sequence[Point], metrics: tuple[str, str], dataset: str) -> tuple[list[float], list[float]]:
    """Return the points in the units of the tables."""
    columns = []
    for metric in metrics:
        size = unit_of(metric, dataset).size
        columns.append([point.measured[metric].mean / size for point in points])
    return columns[0], columns[1]


def _dress(axes: Axes, x: str, y: str, legend: bool = True) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        if isinstance(axis.get_major_formatter(), ScalarFormatter):
            axis.set_major_formatter(_NUMBERS)
    dress(axes, x, y)
    if legend:
        axes.legend(frameon=False)
