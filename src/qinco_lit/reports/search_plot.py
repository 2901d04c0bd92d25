"""Recall against queries per second: the Pareto fronts of all engines."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from qinco_lit.reports.search import engine_label, rate

# Colours of Okabe and Ito, which the colour-blind can tell apart; markers and dashes differ too.
_STYLES: dict[str, dict[str, Any]] = {
    "qinco": {"color": "#0072B2", "marker": "o", "linestyle": "-", "linewidth": 2.2, "zorder": 5},
    "ivf_rq": {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    "ivf_pq": {"color": "#555555", "marker": "^", "linestyle": "-."},
    "ivf_pqfs": {"color": "#009E73", "marker": "D", "linestyle": ":"},
    "ivf_pqfs_refine": {"color": "#CC79A7", "marker": "P", "linestyle": (0, (3, 1, 1, 1))},
    "rabitq": {"color": "#E69F00", "marker": "v", "linestyle": (0, (5, 1))},
}
_MAX_PANELS = 2


def recall_figure(record: dict[str, Any]) -> Figure:
    """Plot a record of `search`: a panel for each of the first two k of R@k; points off the fronts are faint."""
    ks = record["settings"]["recall_at"][:_MAX_PANELS]
    figure = Figure(figsize=(1.6 + 4.6 * len(ks), 4.6), layout="constrained")
    panels = figure.subplots(1, len(ks), squeeze=False)[0]
    for axes, k in zip(panels, ks, strict=True):
        for name, engine in record["engines"].items():
            _plot_engine(axes, engine, k, engine_label(record, name), _STYLES[name])
        _dress(axes, k)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    data, index, threads = record["data"], record["index"], record["num_threads"]["faiss"]
    figure.suptitle(
        f"{data['name']}: {data['num_database']:,} vectors of dimension {data['dim']}, {index['num_lists']:,} lists, "
        f"{threads} thread{'s' if threads > 1 else ''}",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return figure


def _plot_engine(axes: Axes, engine: dict[str, Any], k: int, label: str, style: dict[str, Any]) -> None:
    points = [(point["queries_per_s"], 100 * point[f"recall_at_{k}"]) for point in engine["points"]]
    axes.plot(
        [speed for speed, _ in points], [recall for _, recall in points],
        color=style["color"], marker=".", markersize=3, linestyle="none", alpha=0.3,
    )  # fmt: skip
    front = [points[place] for place in engine["fronts"][str(k)]]
    look = {"linewidth": 1.6, "markersize": 4.5, "zorder": 4, **style}
    axes.plot([speed for speed, _ in front], [recall for _, recall in front], label=label, **look)


def _dress(axes: Axes, k: int) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda speed, _: rate(speed) if speed < 1e3 else f"{speed / 1e3:g}k"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelrotation=45)
    axes.set_xlabel("queries/s")
    axes.set_ylabel(f"R@{k} (%)")
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
