"""What does a breadth of search cost, and what does it gain?

    .venv/bin/python benchmarks/search_effort.py [--codec RUN_DIR/codec] [--plot search_effort.png]

One codec, the same vectors: MSE (raw space, sum over dimensions) and vectors/s for candidates per hypothesis (A x B
pairs a step, the papers' search) and for a budget of pairs over the whole beam (T pairs a step), in several precisions;
medians over rounds that run every search once. A search is on the Pareto front if no faster one has a smaller error.
"""

import argparse
import statistics
from dataclasses import dataclass
from functools import partial

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from measuring import heading, line, machine, rounds
from subjects import Subject, add_options, device_of, pair, trained, trained_subject

from qinco_lit import Codec
from qinco_lit.quantizers.precision import PRECISIONS, precision_for

PER_HYPOTHESIS = [(4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 64)]
BUDGETS = [
    (8, 4), (16, 4), (16, 8), (24, 12), (32, 16), (48, 16), (64, 32), (84, 42), (96, 48), (128, 32), (128, 64),
    (192, 64), (256, 64), (256, 128), (512, 128),
]  # fmt: skip
# of Okabe and Ito, which the colour-blind can tell apart
COLOURS = {"float32": "#0072B2", "screened": "#009E73", "bfloat16": "#D55E00"}


@dataclass
class Point:
    """A search in a precision, and what it measured."""

    name: str
    breadth: dict[str, int]
    codec: Codec
    speed: float = 0.0
    mse: float = 0.0
    on_front: bool = False

    @property
    def is_budget(self) -> bool:
        """Whether candidates are budgeted over the whole beam."""
        return "candidate_budget" in self.breadth


def planned(subject: Subject, options: argparse.Namespace) -> list[Point]:
    """Every search in every precision that differs on this device."""
    device = subject.vectors.device
    names = dict.fromkeys(precision_for(name, device).name for name in options.precision)
    points = []
    for codec in (Codec(subject.quantizer, precision=name) for name in names):
        for number, beam in options.breadths:
            points.append(Point(f"A={number}, B={beam}", {"num_candidates": number, "beam_size": beam}, codec))
        for budget, beam in options.budgets:
            points.append(Point(f"T={budget}, B={beam}", {"candidate_budget": budget, "beam_size": beam}, codec))
    return points


def measure(points: list[Point], subject: Subject, repeats: int) -> None:
    """Fill in speed and error, and mark the front."""
    x, exact = subject.vectors, Codec(subject.quantizer, precision="float32")
    runs = {
        f"{point.name}, {point.codec.precision}": partial(point.codec.encode, x, **point.breadth) for point in points
    }
    found, times = rounds(runs, repeats, x.device)
    best = float("inf")
    for point, codes, taken in zip(points, found.values(), times.values(), strict=True):
        point.speed = len(x) / statistics.median(taken)
        point.mse = float((exact.decode(codes) - x).square().sum(1).double().mean())
    for point in sorted(points, key=lambda point: (-point.speed, point.mse)):
        point.on_front, best = point.mse < best, min(best, point.mse)


def table(points: list[Point]) -> str:
    """Fastest first, the front in bold."""
    rows = [heading("search", "precision", "pairs a step", "MSE", "vectors/s", "front")]
    for point in sorted(points, key=lambda point: -point.speed):
        mark = "**" if point.on_front else ""
        pairs = point.codec.quantizer.search_for(**point.breadth).pairs_per_vector
        figures = (f"{pairs:,}", f"{point.mse:,.6g}", f"{mark}{point.speed:,.0f}{mark}")
        rows.append(line(f"{mark}{point.name}{mark}", point.codec.precision, *figures, "yes" if mark else ""))
    return "\n".join(rows)


def figure(points: list[Point], title: str) -> Figure:
    """Error against time per vector; lines join a kind of search in one precision, rings mark the front."""
    plot = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = plot.add_subplot()
    for precision in dict.fromkeys(point.codec.precision for point in points):
        for is_budget in (False, True):
            kind = [point for point in points if (point.codec.precision, point.is_budget) == (precision, is_budget)]
            axes.plot(
                [1e3 / point.speed for point in kind],
                [point.mse for point in kind],
                color=COLOURS[precision],
                marker="o" if is_budget else "s",
                linestyle="none",
                markersize=4.5,
                label=f"{'budget over the beam' if is_budget else 'per hypothesis'}, {precision}",
                alpha=1.0 if is_budget else 0.6,
            )
    front = sorted((point for point in points if point.on_front), key=lambda point: -point.speed)
    axes.plot([1e3 / p.speed for p in front], [p.mse for p in front], color="#555555", linewidth=1, zorder=1)
    for point in front:
        place = (1e3 / point.speed, point.mse)
        axes.annotate(point.name, place, (3, 6), textcoords="offset points", fontsize=6, color="#333333")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("encoding time, ms per vector")
    axes.set_ylabel("MSE")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)
    return plot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024, help="vectors")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--breadths", nargs="*", type=pair, default=PER_HYPOTHESIS, metavar="A,B")
    parser.add_argument("--budgets", nargs="*", type=pair, default=BUDGETS, metavar="T,B")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32", "auto", "fast"])
    parser.add_argument("--plot", metavar="PNG", help="draw the curve, too (any format of matplotlib)")
    add_options(parser)
    options = parser.parse_args()
    quantizer = trained(options, needed=True)
    assert quantizer is not None
    subject = trained_subject(quantizer, options, options.rows, 1)
    place = machine(torch.device(device_of(options)))
    print(f"{place}\n{subject.label}, {len(subject.vectors):,} vectors\n", flush=True)
    points = planned(subject, options)
    measure(points, subject, options.repeats)
    print(table(points))
    if options.plot:
        figure(points, f"{subject.label}\n{place}").savefig(options.plot, dpi=150)
        print(f"\n{options.plot}")


if __name__ == "__main__":
    main()
