"""Operating points of searches: tables, sentences, csv."""

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from qinco_lit.reports.tables import model_label

_LABELS = {
    "ivf_pq": "IVF-PQ",
    "ivf_rq": "IVF-RQ",
    "ivf_pqfs": "IVF-PQ fast-scan",
    "ivf_pqfs_refine": "IVF-PQ fast-scan, re-rank",
    "rabitq": "RaBitQ",
}
# Fields of a point that are mappings, and what their names begin with as columns.
_NESTED = {"parameters": "", "stage_s": "stage_s_", "stage_recall_at_1": "stage_recall_at_1_"}
_POINT_FIELDS = ("queries_per_s", "queries_per_s_lowest", "queries_per_s_highest", "latency_median_s", "latency_p95_s")


class Grid(NamedTuple):
    """A table as text: the first column is aligned to the left, the others to the right; headers may have two lines."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


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
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for column, name in enumerate(grid.header):
            table.add_column(name, justify="left" if column == 0 else "right", no_wrap=True)
        for row in grid.rows:
            table.add_row(*row)
        yield table


def markdown_report(record: dict[str, Any]) -> str:
    """Return all tables and the notes as Markdown text."""
    data, index = record["data"], record["index"]
    vectors = f"{data['num_database']:,} vectors of dimension {data['dim']}"
    parts = [f"# {data['name']}: {vectors}, {index['num_lists']:,} lists"]
    for grid in grids(record):
        header = tuple(name.replace("\n", " ").strip() for name in grid.header)
        lines = [header, (":--", *["--:"] * (len(grid.header) - 1)), *grid.rows]
        parts.append(f"## {grid.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
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
    larger = [name for name in record["engines"] if _total_bytes(record, name) > 1 + _total_bytes(record, "qinco")]
    if larger:
        names = ", ".join(engine_label(record, name) for name in larger)
        notes.append(f"More bytes than the index has: {names}.")
    return "\n".join(notes)


def csv_table(record: dict[str, Any]) -> str:
    """Return all points, one a line; `front_{k}` is 1 for those on the Pareto front of R@k."""
    header, rows = point_rows(record)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


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
                rate(best["queries_per_s"]),
                percent(near[f"recall_at_{k}"]),
                rate(near["queries_per_s"]),
                milliseconds(near["latency_median_s"]),
            )
        )
    header = ("index", "\nbytes", f"best\nR@{k} %", "queries\n/s", f"near it\nR@{k} %", "queries\n/s", "latency\nms")
    return Grid(f"Best R@{k}, and the fastest point near it (within 1 point)", header, rows)


def _stages(record: dict[str, Any], k: int) -> Grid:
    engine = record["engines"]["qinco"]
    best = engine["points"][engine["best"][str(k)]]
    rows = [
        (name, percent(best["stage_recall_at_1"].get(name)), milliseconds(seconds))
        for name, seconds in best["stage_s"].items()
    ]
    parameters = ", ".join(f"{name}={value}" for name, value in best["parameters"].items())
    return Grid(f"Stages of the point with the best R@{k}: {parameters}", ("stage", "R@1\n%", "time\nms/query"), rows)


def _front(record: dict[str, Any], name: str, k: int) -> Grid:
    engine = record["engines"][name]
    names, ks = list(engine["parameters"]), record["settings"]["recall_at"]
    rows = []
    for place in engine["fronts"][str(k)]:
        point = engine["points"][place]
        rows.append(
            (
                rate(point["queries_per_s"]),
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
    return Grid(f"Pareto front of {engine_label(record, name)}: {measured}", header, rows)


def percent(share: float | None) -> str:
    """Return a share in 0..1 as percent with one digit, nothing for None."""
    return "" if share is None else f"{100 * share:.1f}"


def rate(value: float) -> str:
    """Return queries per second with three digits: 8.61, 86.1, 861, 8,610."""
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value / 10**digits) * 10**digits:,}"
    return f"{value:#.3g}".rstrip(".")


def milliseconds(seconds: float | None) -> str:
    """Return a time in milliseconds with three digits, nothing for None."""
    return "" if seconds is None else f"{1000 * seconds:#.3g}".rstrip(".")
