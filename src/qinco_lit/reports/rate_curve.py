"""Error and recall against bytes per vector: prefixes, shorter encodings, dedicated models."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from qinco_lit.reports.rate_distortion import dress_errors

# Colours of Okabe and Ito, which the colour-blind can tell apart; markers and dashes differ too.
_STYLES: dict[str, dict[str, Any]] = {
    "prefix": {"color": "#0072B2", "marker": "o", "linestyle": "-", "linewidth": 2.2},
    "encoded": {"color": "#D55E00", "marker": "s", "linestyle": "--", "linewidth": 1.6},
    "dedicated": {"color": "#009E73", "marker": "D", "linestyle": ":", "linewidth": 1.6},
}
_LABELS = {
    "prefix": "prefixes of {num_steps} codes",
    "encoded": "encodings with as many codes",
    "dedicated": "models trained for as many codes",
}


def rates_figure(record: dict[str, Any]) -> Figure:
    """Plot the rates of a record of `evaluate`: error, error relative to the prefixes' and, with queries, R@1.

    The line of the dedicated models ends in the codec itself, which was trained for all of its codes.
    """
    has_recalls = record["methods"]["codec"]["recall_at_1"] is not None
    num_panels = 3 if has_recalls else 2
    figure = Figure(figsize=(4.4 * num_panels, 4.4), layout="constrained")
    panels = list(figure.subplots(1, num_panels))
    curves = rate_curves(record)
    prefix = {rate: figures["mse"] for rate, figures in curves["prefix"]}
    for kind, points in curves.items():
        label = _LABELS[kind].format(num_steps=record["codec"]["num_steps"])
        _plot(panels[0], kind, [(rate, figures["mse"]) for rate, figures in points], label)
        relative = [(rate, 100 * figures["mse"] / prefix[rate] - 100) for rate, figures in points if prefix[rate] > 0]
        _plot(panels[1], kind, relative, label)
        if has_recalls:
            _plot(panels[2], kind, [(rate, 100 * figures["recall_at_1"]) for rate, figures in points], label)
    for axes in panels:
        _dress(axes)
    dress_errors(panels[0])
    panels[0].set_ylabel("MSE (mean over vectors of the sum\nover dimensions, raw space)")
    panels[1].set_ylabel("MSE against that of the prefix (%)")
    panels[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
    if has_recalls:
        panels[2].set_ylabel("R@1 (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    data = record["data"]
    figure.suptitle(
        f"{data['name']}: {data['num_database']:,} vectors of dimension {data['dim']}", x=0.01, ha="left", fontsize=11
    )
    return figure


def rate_curves(record: dict[str, Any]) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """Return the lines of the plot, (bytes per vector, figures): "prefix", "encoded" and, where given, "dedicated"."""
    rates = record["rates"]
    curves = {
        kind: [(point["bytes_per_vector"], point[kind]) for point in rates["points"] if point[kind] is not None]
        for kind in _STYLES
    }
    whole = record["methods"]["codec"]
    is_last = [point["num_steps"] == whole["num_steps"] for point in rates["points"]]
    if not curves["dedicated"]:
        del curves["dedicated"]
    elif is_last[-1] and rates["points"][-1]["dedicated"] is None:
        curves["dedicated"].append((whole["bytes_per_vector"], whole))
    return curves


def _plot(axes: Axes, kind: str, points: Sequence[tuple[float, float]], label: str) -> None:
    axes.plot([rate for rate, _ in points], [value for _, value in points], label=label, **_STYLES[kind])


def _dress(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("rate (bytes per vector)")
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
