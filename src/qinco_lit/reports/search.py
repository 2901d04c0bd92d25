"""What `qinco index` has built, and operating points of searches: tables, sentences, csv, a plot."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from qinco_lit.reports.kit.plots import LOOKS, dress, headline, legend_below, log_x_axis
from qinco_lit.reports.kit.tables import Grid, csv_text
from qinco_lit.reports.kit.texts import data_title, milliseconds, model_label, number_text, percent, rounded

_LABELS = {
    "ivf_pq": "IVF-PQ",
    "ivf_rq": "IVF-RQ",
    "ivf_pqfs": "IVF-PQ fast-scan",
    "ivf_pqfs_refine": "IVF-PQ fast-scan, re-rank",
    "rabitq": "RaBitQ",
    "rabitq2": "RaBitQ of 2 bits",
}
_STYLES: dict[str, dict[str, Any]] = {
    "qinco": {**LOOKS[0], "linewidth": 2.2, "zorder": 5},
    "ivf_rq": LOOKS[1],
    "ivf_pq": {**LOOKS[2], "color": "#555555", "marker": "^"},
    "ivf_pqfs": {**LOOKS[2], "linestyle": ":"},
    "ivf_pqfs_refine": {**LOOKS[3], "linestyle": (0, (3, 1, 1, 1))},
    "rabitq": LOOKS[4],
    "rabitq2": LOOKS[5],
}
_MAX_PANELS = 2
# Fields of a point that are mappings, and what their names begin with as columns.
_NESTED = {"parameters": "", "stage_s": "stage_s_", "stage_recall_at_1": "stage_recall_at_1_"}
_POINT_FIELDS = ("queries_per_s", "queries_per_s_lowest", "queries_per_s_highest", "latency_median_s", "latency_p95_s")


def engine_label(record: dict[str, Any], engine: str) -> str:
    """Return the name of an engine for readers, with the bytes of a vector: IVF-RQ (8+1 B)."""
    return f"{_name(record, engine)} ({_bytes(record, engine)} B)"


def _name(record: dict[str, Any], engine: str) -> str:
    return _LABELS.get(engine) or model_label(record["index"]["model"])


def _bytes(record: dict[str, Any], engine: str) -> str:
    """Of the parts that there are: 8+1."""
    return "+".join(f"{size:g}" for size in record["engines"][engine]["bytes_per_vector"].values() if size)


def grids(record: dict[str, Any]) -> Iterator[Grid]:
    """Yield the tables of a record of `search`: all engines, the stages of our best point, then every front."""
    first = record["settings"]["recall_at"][0]
    yield _comparison(record, first)
    yield _stages(record, first)
    for engine in record["engines"]:
        yield _front(record, engine, first)


def rich_tables(record: dict[str, Any]) -> Iterator[str | Table]:
    """Yield titles and tables for a terminal; of the fronts only that of the index, not those of baselines."""
    for grid in itertools.islice(grids(record), 3):
        yield grid.title
        yield grid.rich(gap=2, titled=False)


def markdown_report(record: dict[str, Any]) -> str:
    """Return all tables and the notes as Markdown text."""
    parts = [f"# {data_title(record['data'])}, {record['index']['num_lists']:,} lists"]
    parts += [f"## {grid.title}\n\n{grid.markdown()}" for grid in grids(record)]
    return "\n\n".join([*parts, search_notes(record)]) + "\n"


def search_notes(record: dict[str, Any]) -> str:
    """Return what the figures mean and how they were measured, a sentence a line."""
    settings, threads, data = record["settings"], record["num_threads"], record["data"]
    metric = {"l2": "squared L2", "ip": "inner product", "cosine": "cosine"}[data["metric"]]
    notes = [
        f"R@k: true nearest neighbour ({metric}) among the first k of {max(settings['recall_at'])} results asked for, "
        f"{data['num_queries']:,} queries.",
        f"queries/s: batches of {settings['batch_size']:,}, median of {settings['repeats']} passes; latency: single "
        f"queries, median; threads: torch {threads['torch']}, faiss {threads['faiss']}; "
        f"{record['hardware']['processor']}.",
        "Bytes of a vector: codes, then norm, factors or re-rank codes; its id takes 8 more, its list none.",
    ]
    if refine := settings.get("refine"):
        notes.append(
            f"num_refine: so many results are ranked anew by the original vectors in {refine['file']}, which has "
            f"{refine['bytes_per_vector']:,} bytes a vector on the disk; those of baselines are not."
        )
    larger = [name for name in record["engines"] if _total_bytes(record, name) > 1 + _total_bytes(record, "qinco")]
    if larger:
        names = ", ".join(engine_label(record, name) for name in larger)
        notes.append(f"More bytes than the index has: {names}.")
    return "\n".join(notes)


def csv_table(record: dict[str, Any]) -> str:
    """Return all points, one a line; `front_{k}` is 1 for those on the Pareto front of R@k."""
    return csv_text(*point_rows(record))


def point_rows(record: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return (names of columns, rows) of all points of all engines; None where an engine has no such value."""
    ks = record["settings"]["recall_at"]
    points = [point for engine in record["engines"].values() for point in engine["points"]]
    names = {kind: list(dict.fromkeys(name for point in points for name in point[kind])) for kind in _NESTED}
    header = ["engine", "bytes_per_vector", *names["parameters"], *(f"recall_at_{k}" for k in ks), *_POINT_FIELDS]
    header += [f"{_NESTED[kind]}{name}" for kind in ("stage_s", "stage_recall_at_1") for name in names[kind]]
    header += [f"front_{k}" for k in ks]
    rows = []
    for name, engine in record["engines"].items():
        for place, point in enumerate(engine["points"]):
            row = [name, _total_bytes(record, name), *(point["parameters"].get(each) for each in names["parameters"])]
            row += [point[f"recall_at_{k}"] for k in ks] + [point[field] for field in _POINT_FIELDS]
            row += [point[kind].get(each) for kind in ("stage_s", "stage_recall_at_1") for each in names[kind]]
            rows.append(row + [int(place in engine["fronts"][str(k)]) for k in ks])
    return header, rows


def _total_bytes(record: dict[str, Any], engine: str) -> float:
    return float(sum(record["engines"][engine]["bytes_per_vector"].values()))


def _comparison(record: dict[str, Any], k: int) -> Grid:
    rows = []
    for name, engine in record["engines"].items():
        best = engine["points"][engine["best"][str(k)]]
        near = engine["points"][engine["within_a_point_of_the_best"][str(k)]]
        rows.append(
            (
                _name(record, name),
                _bytes(record, name),
                percent(best[f"recall_at_{k}"]),
                rounded(best["queries_per_s"]),
                percent(near[f"recall_at_{k}"]),
                rounded(near["queries_per_s"]),
                milliseconds(near["latency_median_s"]),
            )
        )
    header = ("index", "\nbytes", f"best\nR@{k} %", "queries\n/s", f"near it\nR@{k} %", "queries\n/s", "latency\nms")
    return Grid(header, rows, f"Best R@{k}, and the fastest point near it (within 1 point)")


def _stages(record: dict[str, Any], k: int) -> Grid:
    engine = record["engines"]["qinco"]
    best = engine["points"][engine["best"][str(k)]]
    rows = [
        (name, percent(best["stage_recall_at_1"].get(name)), milliseconds(seconds))
        for name, seconds in best["stage_s"].items()
    ]
    parameters = ", ".join(f"{name}={value}" for name, value in best["parameters"].items())
    return Grid(("stage", "R@1\n%", "time\nms/query"), rows, f"Stages of the point with the best R@{k}: {parameters}")


def _front(record: dict[str, Any], name: str, k: int) -> Grid:
    engine = record["engines"][name]
    names, ks = list(engine["parameters"]), record["settings"]["recall_at"]
    rows = []
    for place in engine["fronts"][str(k)]:
        point = engine["points"][place]
        rows.append(
            (
                rounded(point["queries_per_s"]),
                *(percent(point[f"recall_at_{each}"]) for each in ks),
                milliseconds(point["latency_median_s"]),
                *(str(point["parameters"].get(each, "all")) for each in names),
            )
        )
    header = (
        "queries\n/s", *(f"R@{each}\n%" for each in ks), "latency\nms",
        *(name.replace("_", "\n", 1) for name in names),
    )  # fmt: skip
    measured = f"{len(engine['points'])} points measured, {engine['num_skipped']} skipped"
    return Grid(header, rows, f"Pareto front of {engine_label(record, name)}: {measured}")


# --- the plot -------------------------------------------------------------------------------------------------------


def recall_figure(record: dict[str, Any]) -> Figure:
    """Plot a record of `search`: a panel for each of the first two k of R@k; points off the fronts are faint."""
    ks = record["settings"]["recall_at"][:_MAX_PANELS]
    figure = Figure(figsize=(1.6 + 4.6 * len(ks), 4.6), layout="constrained")
    panels = figure.subplots(1, len(ks), squeeze=False)[0]
    for axes, k in zip(panels, ks, strict=True):
        for name, engine in record["engines"].items():
            _plot_engine(axes, engine, k, engine_label(record, name), _STYLES[name])
        log_x_axis(axes)
        axes.tick_params(axis="x", labelrotation=45)
        dress(axes, "queries/s", f"R@{k} (%)")
    legend_below(figure, panels[0])
    index, threads = record["index"], record["num_threads"]["faiss"]
    lists = f"{index['num_lists']:,} lists, {threads} thread{'s' if threads > 1 else ''}"
    headline(figure, f"{data_title(record['data'])}, {lists}")
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


# --- the index ------------------------------------------------------------------------------------------------------


def index_table(report: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table of a report of `index`.

    Args:
        report: content of report.json.
        parts: files of the index directory, each with its `bytes`.
    """
    sizes = report["bytes"]
    per_vector = sizes["per_vector"]
    fixed = sum(int(part["bytes"]) for part in parts.values()) - sizes["lists"]
    named = {"centroids": sizes["centroids"], "pairwise": sizes["pairwise"]}
    named["others"] = fixed - sum(named.values())
    lists = f"{report['num_lists']:,}, {report['empty_lists']:,} empty"
    rows = {
        "vectors": f"{report['num_vectors']:,}",
        "lists": f"{lists}, the longest has {report['longest_list']:,} vectors",
        "bytes per vector": f"{sum(per_vector.values())}: {_listed(per_vector, str)}",
        "fixed MB": f"{_megabytes(fixed)}: {_listed({name: size for name, size in named.items() if size}, _megabytes)}",
        "MSE on validation": _listed(report["validation_mse"], number_text),
        "seconds": _listed(report["seconds"], lambda seconds: f"{seconds:.1f}"),
    }
    return Grid(("", ""), list(rows.items()), left=(0, 1)).rich(gap=3, wrap=True)


def _listed(values: Mapping[str, Any], show: Callable[[Any], str]) -> str:
    return ", ".join(f"{name} {show(value)}" for name, value in values.items())


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.{1 if num_bytes >= 1e6 else 3}f}"
