"""An evaluation as plots: error against bytes next to baselines, and one codec at every rate."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from qinco_lit.reports.kit.plots import LOOKS, dress, error_axis, headline, legend_below, whole_x_axis
from qinco_lit.reports.kit.texts import data_title, method_label, number_text

_OURS = {**LOOKS[0], "linewidth": 2.2}
# Of methods: curves where prefixes decode, else single points.
_METHODS: dict[str, dict[str, Any]] = {
    "codec": {**_OURS, "zorder": 5},
    "rq": {**LOOKS[1], "linewidth": 1.6, "zorder": 4},
    "pq": {"color": "#555555", "marker": "^", "linestyle": "none", "zorder": 3},
    "opq": {**LOOKS[2], "linestyle": "none", "zorder": 3},
    "lsq": {**LOOKS[3], "linestyle": "none", "zorder": 3},
}
_RATES: dict[str, dict[str, Any]] = {
    "prefix": _OURS,
    "encoded": {**LOOKS[1], "linewidth": 1.6},
    "dedicated": {**LOOKS[2], "linewidth": 1.6},
}
_RATE_LABELS = {
    "prefix": "prefixes of {num_steps} codes",
    "encoded": "encodings with as many codes",
    "dedicated": "models trained for as many codes",
}
_MSE = "MSE (mean over vectors of the sum\nover dimensions, raw space)"


def rate_distortion_figure(record: Mapping[str, Any]) -> Figure:
    """Plot a record of `evaluate`; methods whose prefixes decode are curves, the others single points."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for method, row in record["methods"].items():
        _plot_method(axes, method, row, method_label(record, method))
    error_axis(axes)
    whole_x_axis(axes)
    dress(axes, "rate (bytes per vector); curves: prefixes of the codes found for the full rate", _MSE)
    axes.set_title(data_title(record["data"]), loc="left", fontsize=11)
    axes.legend(frameon=False, title="full rate: MSE", alignment="left")
    return figure


def _plot_method(axes: Axes, method: str, row: Mapping[str, Any], label: str) -> None:
    mse = row["mse_per_step"] or [row["mse"]]
    step_bytes = row["bytes_per_vector"] / row["num_steps"]
    first = row["num_steps"] - len(mse) + 1
    rates = [step_bytes * step for step in range(first, row["num_steps"] + 1)]
    style = _METHODS[method]
    axes.plot(rates, mse, label=f"{label}: {number_text(mse[-1])}", **style)
    # the full rate stands out: only there is every method at its best
    axes.plot(rates[-1:], mse[-1:], **{**style, "linestyle": "none", "markersize": 10, "markeredgecolor": "white"})


def rates_figure(record: Mapping[str, Any]) -> Figure:
    """Plot the rates of a record of `evaluate`: error, error relative to the prefixes' and, with queries, R@1.

    The line of the dedicated models ends in the codec itself, which was trained for all of its codes.
    """
    has_recalls = record["methods"]["codec"]["recall_at_1"] is not None
    names = [_MSE, "MSE against that of the prefix (%)", *(["R@1 (%)"] if has_recalls else [])]
    figure = Figure(figsize=(4.4 * len(names), 4.4), layout="constrained")
    panels = list(figure.subplots(1, len(names)))
    curves = _rate_curves(record)
    prefix = {rate: figures["mse"] for rate, figures in curves["prefix"]}
    for kind, points in curves.items():
        label = _RATE_LABELS[kind].format(num_steps=record["codec"]["num_steps"])
        lines = [
            [(rate, figures["mse"]) for rate, figures in points],
            [(rate, 100 * figures["mse"] / prefix[rate] - 100) for rate, figures in points if prefix[rate] > 0],
            [(rate, 100 * figures["recall_at_1"]) for rate, figures in points] if has_recalls else [],
        ]
        for axes, line in zip(panels, lines, strict=False):
            axes.plot([rate for rate, _ in line], [value for _, value in line], label=label, **_RATES[kind])
    for axes, name in zip(panels, names, strict=True):
        whole_x_axis(axes)
        dress(axes, "rate (bytes per vector)", name)
    error_axis(panels[0])
    panels[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
    legend_below(figure, panels[0])
    headline(figure, data_title(record["data"]))
    return figure


def _rate_curves(record: Mapping[str, Any]) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
    """Return (bytes per vector, figures) by "prefix", "encoded" and, where given, "dedicated"."""
    rates: Sequence[Mapping[str, Any]] = record["rates"]["points"]
    whole = record["methods"]["codec"]
    curves = {
        kind: [(point["bytes_per_vector"], point[kind]) for point in rates if point[kind] is not None]
        for kind in _RATES
    }
    if not curves["dedicated"]:
        del curves["dedicated"]
    elif rates[-1]["num_steps"] == whole["num_steps"] and rates[-1]["dedicated"] is None:
        curves["dedicated"].append((whole["bytes_per_vector"], whole))
    return curves
