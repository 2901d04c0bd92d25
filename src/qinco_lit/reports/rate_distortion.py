"""Squared error against bytes per vector: the codec's prefixes as a curve, the baselines next to it."""

from io import BytesIO
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from qinco_lit.reports.tables import method_label, squared_error_text

# Colours of Okabe and Ito, which the colour-blind can tell apart; markers and dashes differ too.
_STYLES: dict[str, dict[str, Any]] = {
    "codec": {"color": "#0072B2", "marker": "o", "linestyle": "-", "linewidth": 2.2, "zorder": 5},
    "rq": {"color": "#D55E00", "marker": "s", "linestyle": "--", "linewidth": 1.6, "zorder": 4},
    "pq": {"color": "#555555", "marker": "^", "linestyle": "none", "zorder": 3},
    "opq": {"color": "#009E73", "marker": "D", "linestyle": "none", "zorder": 3},
    "lsq": {"color": "#CC79A7", "marker": "P", "linestyle": "none", "zorder": 3},
}


def rate_distortion_figure(record: dict[str, Any]) -> Figure:
    """Plot a record of `evaluate`; methods whose prefixes decode are curves, the others single points."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for method, row in record["methods"].items():
        _plot_method(axes, method, row, method_label(record, method))
    dress_errors(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("rate (bytes per vector); curves: prefixes of the codes found for the full rate")
    axes.set_ylabel("MSE (mean over vectors of the sum\nover dimensions, raw space)")
    data = record["data"]
    axes.set_title(
        f"{data['name']}: {data['num_database']:,} vectors of dimension {data['dim']}", loc="left", fontsize=11
    )
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="full rate: MSE", alignment="left")
    return figure


def dress_errors(axes: Axes) -> None:
    """Make the y axis one of squared errors: logarithmic, numbers without exponents."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda mse, _: squared_error_text(mse)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def figure_bytes(figure: Figure, suffix: str) -> bytes:
    """Return the figure as the bytes of a "png" (160 dots per inch) or "svg" file, free of the time of writing."""
    stream = BytesIO()
    figure.savefig(stream, format=suffix, dpi=160, metadata={"Date": None} if suffix == "svg" else None)
    return stream.getvalue()


def _plot_method(axes: Axes, method: str, row: dict[str, Any], label: str) -> None:
    mse = row["mse_per_step"] or [row["mse"]]
    step_bytes = row["bytes_per_vector"] / row["num_steps"]
    first = row["num_steps"] - len(mse) + 1
    rates = [step_bytes * step for step in range(first, row["num_steps"] + 1)]
    style = _STYLES[method]
    axes.plot(rates, mse, label=f"{label}: {squared_error_text(mse[-1])}", **style)
    # the full rate stands out: only there is every method at its best
    axes.plot(rates[-1:], mse[-1:], **{**style, "linestyle": "none", "markersize": 10, "markeredgecolor": "white"})
