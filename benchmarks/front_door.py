"""How much better than faiss' quantizers at equal bytes? The table and the picture of README, out of one file.

    .venv/bin/python benchmarks/front_door.py [--evaluation DIR ...] [--search DIR]

The numbers lie in docs/figures.json. Folders of `qinco evaluate` and `qinco search` bring newer ones into it: methods
that an evaluation has measured replace those of its data set and bytes, a search replaces all engines. Without them the
table in README.md and docs/front_door.png are made again of what is there.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qinco_lit.reports.kit.texts import method_label, number_text

ROOT = Path(__file__).parents[1]
FIGURES, README, PICTURE = ROOT / "docs" / "figures.json", ROOT / "README.md", ROOT / "docs" / "front_door.png"
BEGIN, END = "<!-- figures: made by benchmarks/front_door.py -->\n", "<!-- end of figures -->"
METHODS = ("PQ", "OPQ", "RQ", "LSQ", "QINCo2")
# of Okabe and Ito, which the colour-blind can tell apart
OURS, OTHERS = "#0072B2", ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--search", type=Path, metavar="DIR")
    options = parser.parse_args()
    figures = json.loads(FIGURES.read_text())
    for folder in options.evaluation:
        take_evaluation(figures, json.loads((folder / "metrics.json").read_text()))
    if options.search is not None:
        take_search(figures, json.loads((options.search / "search.json").read_text()))
    if options.evaluation or options.search:
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
    README.write_text(with_table(README.read_text(), table(figures)))
    draw(figures).savefig(PICTURE, dpi=110)


def take_evaluation(figures: dict[str, Any], record: dict[str, Any]) -> None:
    """Methods that were measured on a data set, at the bytes of the codec."""
    num_bytes = record["codec"]["bits_per_vector"] // 8
    for compared in figures["compared"]:
        if (compared["data"], compared["bytes"]) == (record["data"]["name"], num_bytes):
            for method, measured in record["methods"].items():
                names = ("mse", "recall_at_1", "recall_at_10")
                compared["methods"][method_label(record, method)] = {name: measured[name] for name in names}
            return
    raise SystemExit(f"docs/figures.json compares nothing on {record['data']['name']} at {num_bytes} bytes")


def take_search(figures: dict[str, Any], record: dict[str, Any]) -> None:
    """The points of every engine that no other of its points bounds."""
    engines = {}
    for engine, measured in record["engines"].items():
        points = [measured["points"][number] for number in measured["fronts"]["1"]]
        size = "+".join(str(value) for value in measured["bytes_per_vector"].values() if value)
        name = "QINCo2" if engine == "qinco" else engine.replace("_", "-").upper()
        engines[f"{name}, {size} bytes"] = [[point["queries_per_s"], point["recall_at_1"]] for point in points]
    figures["search"]["engines"] = engines


def table(figures: dict[str, Any]) -> str:
    """One row for each method, error and recall on each data set; a dash is what was not measured."""
    columns = [(f"{each['data']}, {each['bytes']} bytes", each["methods"]) for each in figures["compared"]]
    head = [title for name, _ in columns for title in (f"{name}: MSE", "R@1 %")]
    lines = ["| method | " + " | ".join(head) + " |", "|---|" + "--:|" * len(head)]
    for method in METHODS:
        cells = [cell for _, methods in columns for cell in _cells(methods.get(method))]
        name = f"**{method}**" if method == "QINCo2" else method
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cells(measured: dict[str, float] | None) -> list[str]:
    if measured is None:
        return ["–", "–"]
    return [number_text(measured["mse"]), f"{100 * measured['recall_at_1']:.1f}"]


def with_table(readme: str, made: str) -> str:
    """README with another table between its marks."""
    assert BEGIN in readme, f"README.md has lost its mark: {BEGIN.strip()}"
    return re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}\n{made}\n{END}", readme, flags=re.DOTALL
    )


def draw(figures: dict[str, Any]) -> Figure:
    """Errors at equal bytes of data sets on which ours was measured; recall against speed of indexes."""
    compared = [each for each in figures["compared"] if "QINCo2" in each["methods"]]
    figure = Figure(figsize=(8.0, 6.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.0, 0.95])
    for axis, each in zip(above.subplots(1, len(compared), squeeze=False)[0], compared, strict=True):
        _draw_errors(axis, each)
    _draw_search(below.subplots(), figures["search"])
    return figure


def _draw_errors(axis: Axes, compared: dict[str, Any]) -> None:
    methods = [name for name in METHODS if name in compared["methods"]]
    measured = [compared["methods"][name] for name in methods]
    bars = axis.bar(methods, [each["mse"] for each in measured], color=[_colour(name) for name in methods], width=0.7)
    axis.bar_label(bars, [f"R@1\n{100 * each['recall_at_1']:.1f} %" for each in measured], fontsize=8, padding=2)
    axis.set_title(f"{compared['data']}, {compared['bytes']} bytes a vector", fontsize=10)
    axis.set_ylabel("squared error (lower is better)")
    axis.set_ylim(0, 1.2 * max(each["mse"] for each in measured))
    axis.spines[["top", "right"]].set_visible(False)


def _draw_search(axis: Axes, search: dict[str, Any]) -> None:
    others = iter(OTHERS)
    for name, points in search["engines"].items():
        speed, recall = zip(*sorted(points), strict=True)
        ours = name.startswith("QINCo2")
        axis.plot(speed, [100 * each for each in recall], "o-", ms=4, lw=2 if ours else 1.2, label=name,
                  color=OURS if ours else next(others))  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlabel("queries/s")
    axis.set_ylabel("R@1 % (higher is better)")
    axis.set_title(f"search: {search['data']}, {search['what']}", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _colour(method: str) -> str:
    return OURS if method == "QINCo2" else "#9aa5b1"


if __name__ == "__main__":
    main()
