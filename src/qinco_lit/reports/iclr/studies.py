"""Tables of the studies: a measured point (method, rate, settings) a row, its metrics beside each other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qinco_lit.metrics import undominated
from qinco_lit.reports.iclr.numbers import (
    SEARCH_SETTINGS,
    WITHIN_NOISE,
    Measured,
    Measurements,
    Settings,
    dataset_label,
    difference_text,
    is_recall,
    is_within_noise,
    measured_link,
    method_place,
    metric_label,
    percent_text,
    rate_text,
    setting_label,
    setting_place,
    setting_value,
    settings_text,
    unique,
)
from qinco_lit.reports.iclr.published import find_published
from qinco_lit.reports.iclr.tables import is_published
from qinco_lit.reports.kit.page import Cell, TableBlock

# Axes of the plane whose Pareto front a section marks: what it costs, what it brings.
FRONTS = {"run_time": ("encode_us_per_vector", "mse"), "search": ("queries_per_s", "recall_at_1")}
# Metrics that come first and in this order; others follow as they come.
_ORDER = (
    "mse",
    "validation_mse",
    "recall_at_1",
    "recall_at_10",
    "recall_at_100",
    "encode_us_per_vector",
    "decode_us_per_vector",
)
_LARGER_IS_BETTER = ("queries_per_s",)
# Sections in which several tasks measure a method: their records make one row, told apart by these settings only.
_ROW_BY: dict[str, tuple[str, ...]] = {"speed": (), "ablation": (), "pairwise": ("decoder",)}
# Says the same as the method's name.
_HIDDEN = ("engine",)


@dataclass(frozen=True)
class Point:
    """What was measured of one method at one rate with the same settings."""

    method: str
    num_bytes: float
    settings: Settings
    measured: dict[str, Measured]

    def value(self, metric: str) -> float | None:
        """Return the mean of a metric over seeds; None where it was not measured."""
        return self.measured[metric].mean if metric in self.measured else None


def study_points(measurements: Measurements, section: str, dataset: str) -> list[Point]:
    """Return the points of a section on a data set, methods in the papers' order; an ablation as its records come."""
    points: dict[tuple[Any, ...], Point] = {}
    for each in measurements.select(section=section, dataset=dataset):
        first = each.first
        settings = {name: value for name, value in first.settings if name not in _HIDDEN}
        names = _ROW_BY.get(section, tuple(settings))
        key: tuple[Any, ...] = (first.method, first.num_bytes, *((name, settings.get(name)) for name in names))
        if key in points and first.metric in points[key].measured:
            key = (*key, first.settings)  # measured twice in different ways: rows of their own
        known = points.setdefault(key, Point(first.method, first.num_bytes, (), {}))
        measured = {**known.measured, first.metric: each}
        points[key] = replace(known, settings=tuple((dict(known.settings) | settings).items()), measured=measured)
    if section == "ablation":
        return list(points.values())
    return sorted(points.values(), key=lambda point: method_place(point.method))


def point_metrics(points: Iterable[Point]) -> list[str]:
    """Return the metrics that any of the points has: error and recall, times, others."""
    names = unique(metric for point in points for metric in point.measured)
    return [name for name in _ORDER if name in names] + [name for name in names if name not in _ORDER]


def study_table(points: Sequence[Point], section: str, dataset: str, base: str | None = None) -> TableBlock:
    """Return the points as a table, beside published numbers where the data set is the papers'.

    Args:
        points: rows.
        section: FRONTS says whether the points on a Pareto front are marked.
        dataset: of the papers: each metric gets a column for what they report, empty where that is not known.
        base: the method whose error the others are compared with.
    """
    metrics, theirs = point_metrics(points), is_published(dataset)
    names = varying_settings(points)
    front = on_fronts(points, section)
    error = error_metric(points)
    reference = next((point.measured.get(error) for point in points if point.method == base), None)
    header = ["method", "bytes", *map(setting_label, names)]
    for metric in metrics:
        label = metric_label(metric, dataset)
        header += [f"{label} published", f"{label} ours", "difference"] if theirs else [label]
    header += [f"{metric_label(error, dataset)} against {base}"] if base is not None else []
    header += ["on the front"] if section in FRONTS else []
    rows = []
    for point in points:
        row: list[Cell] = [point.method, point.num_bytes, *(_setting(point, name) for name in names)]
        for metric in metrics:
            row += _metric_cells(point, section, dataset, metric, theirs)
        if base is not None:
            row.append(None if point.method == base else _change(point.measured.get(error), reference))
        if section in FRONTS:
            row.append("yes" if any(each is point for each in front) else "")
        rows.append(row)
    note = f" {ablation_note(points)}" if section == "ablation" else ""
    return TableBlock(header, rows, _caption(points, dataset, names) + note)


def ablation_note(points: Iterable[Point]) -> str:
    """Return what an ablation's errors are of: searches with which all were evaluated, or those of the trainings."""
    evaluated = [dict(point.measured["mse"].first.settings) for point in points if "mse" in point.measured]
    searches = unique(
        settings_text(tuple((name, each.get(name)) for name in SEARCH_SETTINGS)) or "the model's" for each in evaluated
    )
    if not searches:
        return "The rows differ in training; validation MSE is of the search that each was trained with."
    same = f"all were evaluated with the same search ({searches[0]})"
    several = f"they were evaluated with different searches ({'; '.join(searches)})"
    return (
        f"The rows differ in training; {same if len(searches) == 1 else several}, whatever search they were trained "
        "with. Validation MSE is of the search of the training."
    )


def labelled_groups(points: Sequence[Point], of_encoding: bool = False) -> list[tuple[str, list[Point]]]:
    """Return the points of each method and rate under a label for the legend.

    `of_encoding`: the rate is that of the whole encoding whose first codes the points are of.
    """

    def rate(point: Point) -> float:
        return float(dict(point.settings).get("encoded_bytes", point.num_bytes)) if of_encoding else point.num_bytes

    groups: dict[tuple[str, float], list[Point]] = {}
    for point in points:
        groups.setdefault((point.method, rate(point)), []).append(point)
    several = len({num_bytes for _, num_bytes in groups}) > 1
    return [
        (f"{method}, {rate_text(num_bytes)}" if several else method, group)
        for (method, num_bytes), group in groups.items()
    ]


def rate_table(points: Sequence[Point], dataset: str) -> TableBlock:
    """Return the MSE of the first codes of encodings: a rate a row, an encoding a column."""
    groups = labelled_groups(points, of_encoding=True)
    rates = sorted({point.num_bytes for point in points})
    columns = [{point.num_bytes: point.measured.get("mse") for point in group} for _, group in groups]
    rows: list[list[Cell]] = [[rate, *(measured_link(column.get(rate)) for column in columns)] for rate in rates]
    names = [label for label, _ in groups]
    same = _caption(points, dataset, ["encoded_bytes", *varying_settings(points)])
    return TableBlock(["bytes decoded", *names], rows, f"{metric_label('mse', dataset)}. {same}")


def error_metric(points: Iterable[Point]) -> str:
    """Return which error the points are compared by: the database's, or else that of validation."""
    return "mse" if "mse" in point_metrics(points) else "validation_mse"


def front_of(points: Sequence[Point], cost: str, gain: str) -> list[Point]:
    """Return the points than which no other is better in one metric and at least as good in the other, by `cost`."""
    return undominated(points, lambda point: _badness(point, cost), lambda point: _badness(point, gain))


def _badness(point: Point, metric: str) -> float:
    """Smaller is better; infinite where it is not known."""
    value = point.value(metric)
    if value is None or value != value:
        return float("inf")
    return -value if is_recall(metric) or metric in _LARGER_IS_BETTER else value


def on_fronts(points: Sequence[Point], section: str) -> list[Point]:
    """Return the points on the Pareto fronts of their method and rate; none in a section without such."""
    if section not in FRONTS:
        return []
    cost, gain = FRONTS[section]
    groups: dict[tuple[str, float], list[Point]] = {}
    for point in points:
        groups.setdefault((point.method, point.num_bytes), []).append(point)
    return [each for group in groups.values() for each in front_of(group, cost, gain)]


def _metric_cells(point: Point, section: str, dataset: str, metric: str, theirs: bool) -> list[Cell]:
    ours = point.measured.get(metric)
    if not theirs:
        return [measured_link(ours)]
    published = find_published(section, dataset, point.method, point.num_bytes, metric)
    change = difference_text(ours, published) if ours and published else None
    return [published.printed if published else None, measured_link(ours), change]


def _change(measured: Measured | None, base: Measured | None) -> str | None:
    if measured is None or base is None:
        return None
    change = percent_text(measured.mean, base.mean)
    return f"{change}, {WITHIN_NOISE}" if change and is_within_noise(measured, base) else change


def varying_settings(points: Sequence[Point]) -> list[str]:
    """Return the settings that are not the same for all points."""
    names = unique(name for point in points for name, _ in point.settings)
    several = [name for name in names if len({dict(point.settings).get(name) for point in points}) > 1]
    return sorted(several, key=setting_place)


def _setting(point: Point, name: str) -> Cell:
    value = setting_value(name, dict(point.settings).get(name))
    return value if value is None or isinstance(value, int | float) else str(value)


def _caption(points: Sequence[Point], dataset: str, varying: Sequence[str]) -> str:
    same = points[0].settings if points else ()
    text = settings_text(tuple((name, value) for name, value in same if name not in varying))
    return f"{dataset_label(dataset)}{': ' + text if text else ''}."
