"""Plots: which rows are in colour, and that they show the rows' figures."""

import random
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from qinco_lit.reports.compare.columns import ranked
from qinco_lit.reports.compare.plots import MAX_IN_COLOUR, best_of_each_rate, fronts_first, plots
from qinco_lit.reports.compare.rows import Run
from qinco_lit.reports.kit.plots import figure_bytes
from tests.compare.conftest import edit, read


def _random_runs(seed: int) -> list[Run]:
    """Rows with figures that tie often."""
    generator = random.Random(seed)
    runs = []
    for number in range(40):
        results = {
            "bytes_per_vector": float(generator.choice((4, 8, 16))),
            "encode_vectors_per_s": float(generator.randint(1, 9)),
            "mse": float(generator.randint(1, 9)),
        }
        runs.append(Run(str(number), "codec", "QINCo2", "data", Path("x"), "finished", results, evaluated=True))
    return ranked(runs, "mse")


@pytest.mark.parametrize("seed", range(5))
def test_those_that_nothing_of_as_many_bytes_beats_come_first(seed):
    def beats(a: Run, b: Run) -> bool:
        if a.results["bytes_per_vector"] != b.results["bytes_per_vector"]:
            return False
        better = [
            a.results["mse"] <= b.results["mse"],
            a.results["encode_vectors_per_s"] >= b.results["encode_vectors_per_s"],
        ]
        return all(better) and a.results != b.results

    runs = _random_runs(seed)
    order = fronts_first(runs)
    assert set(order) == set(runs)
    assert len(order) == len(runs)
    best = {tuple(run.results.values()) for run in runs if not any(beats(other, run) for other in runs)}
    assert {tuple(run.results.values()) for run in order[: len(best)]} == best


def test_every_number_of_bytes_has_its_best_in_colour():
    runs = _random_runs(0)
    order = best_of_each_rate(runs)
    assert sorted(order, key=runs.index) == runs
    for run in order[:3]:
        alike = [other for other in runs if other.results["bytes_per_vector"] == run.results["bytes_per_vector"]]
        assert run.results["mse"] == min(other.results["mse"] for other in alike)
    assert len({run.results["bytes_per_vector"] for run in order[:3]}) == 3


def _figures(*paths: Path) -> dict[str, Figure]:
    runs = ranked(read(*paths)[0], "mse")
    return {plot.name: plot.figure for plot in plots(runs, {run: run.name for run in runs})}


def test_curves_are_those_of_the_runs(make, tmp_path):
    for number in range(MAX_IN_COLOUR + 3):
        make(f"run{number}", evaluated=number % 2 == 0)
    curves = {run.name: run.curve for run in read(tmp_path)[0]}
    figures = _figures(tmp_path)
    for name, xs in (("learning_epochs", lambda c: c.epochs), ("learning_time", lambda c: [s / 60 for s in c.seconds])):
        [axes] = figures[name].axes
        grey, *coloured = axes.lines
        assert len(coloured) == MAX_IN_COLOUR
        for line in coloured:
            curve = curves[str(line.get_label()).strip()]
            assert list(line.get_xdata()) == list(xs(curve))
            assert tuple(line.get_ydata()) == curve.mse
        assert len(grey.get_ydata()) == 3 * (50 + 1)
        low, high = axes.get_ylim()
        assert all(low <= y <= high for line in coloured for y in line.get_ydata())


def test_one_diverged_run_does_not_press_the_others_together(make, tmp_path):
    for number in range(MAX_IN_COLOUR + 1):
        make(f"run{number}")
    metrics = tmp_path / "run0" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"val/mse": ', '"val/mse": 1e6'))
    low, high = _figures(tmp_path)["learning_epochs"].axes[0].get_ylim()
    assert high < 1e5
    assert low > 0


def test_names_of_any_kind_and_figures_that_are_none_can_be_drawn(make, tmp_path):
    for name in ("$a_{b$c}$", "_hidden", "a & <b>"):
        make(name, evaluated=True)
    folder = make("diverged", evaluated=True)
    for method in ("mse", "mse_per_step"):
        value = float("nan") if method == "mse" else [1.0, 2.0, float("inf"), float("nan")]
        metrics = folder / "evaluate" / "metrics.json"
        edit(metrics, lambda record, m=method, v=value: record["methods"]["codec"].update({m: v}))
    figures = _figures(tmp_path)
    assert set(figures) == {"learning_epochs", "learning_time", "mse_bytes", "mse_encode_time"}
    for figure in figures.values():
        for suffix in ("svg", "png"):
            assert figure_bytes(figure, suffix)
        shown = [text.get_text().strip() for text in figure.legends[0].get_texts()]
        assert {"$a_{b$c}$", "_hidden", "a & <b>"} <= set(shown)
