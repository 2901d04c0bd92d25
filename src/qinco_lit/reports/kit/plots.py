"""The look of all plots: colours, axes, files."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from qinco_lit.reports.kit.texts import number_text, tick_text

# Colours of Okabe and Ito, which the colour-blind can tell apart; markers and dashes differ too.
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    {"color": "#009E73", "marker": "D", "linestyle": "-."},
    {"color": "#CC79A7", "marker": "P", "linestyle": ":"},
    {"color": "#E69F00", "marker": "v", "linestyle": (0, (5, 1))},
    {"color": "#56B4E9", "marker": "^", "linestyle": (0, (3, 1, 1, 1))},
    {"color": "#333333", "marker": "X", "linestyle": (0, (1, 1))},
    {"color": "#8B6D00", "marker": "<", "linestyle": (0, (4, 2, 1, 2))},
)


def dress(axes: Axes, x: str, y: str) -> None:
    """Name the axes, draw a faint grid behind what is plotted, leave out the frame."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def error_axis(axes: Axes, subs: Sequence[int] = (1, 2, 5)) -> None:
    """Make the y axis one of squared errors: logarithmic, ticks at `subs` of each power of ten, without exponents."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda mse, _: number_text(mse)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def log_x_axis(axes: Axes, subs: Sequence[int] = (1, 2, 5)) -> None:
    """Make the x axis logarithmic, with ticks at `subs` of each power of ten."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def whole_x_axis(axes: Axes) -> None:
    """Give the x axis ticks at whole numbers: bytes, epochs."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 4, 5, 10]))


def headline(figure: Figure, text: str) -> None:
    """Write a title above all panels."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=11)


def legend_below(figure: Figure, panel: Axes) -> None:
    """Put the legend of all panels, which is that of one, below them."""
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


def figure_bytes(figure: Figure, suffix: str, *, transparent: bool = False, salt: str | None = None) -> bytes:
    """Return the figure as the bytes of a "png" (160 dots per inch) or "svg" file, free of the time of writing.

    `transparent`: without a background. `salt` makes the ids in an svg, and so the file, the same every time.
    """
    stream = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(stream, format=suffix, dpi=160, transparent=transparent, metadata=metadata)
    return stream.getvalue()
