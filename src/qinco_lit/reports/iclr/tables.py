"""Tables that put published and measured numbers side by side, and measured numbers against RQ."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qinco_lit.reports.iclr.numbers import (
    Measured,
    Measurements,
    Settings,
    dataset_label,
    difference_text,
    is_recall,
    measured_link,
    method_place,
    metric_label,
    percent_text,
    points_text,
    rate_text,
    run_href,
    settings_text,
    unique,
)
from qinco_lit.reports.iclr.published import Published, find_published, published_numbers
from qinco_lit.reports.iclr.tasks import BASELINES, ToldTask, plain_name, state_cell, why_empty
from qinco_lit.reports.kit.page import Cell, Link, TableBlock

METRICS = ("mse", "recall_at_1", "recall_at_10", "recall_at_100")
REFERENCE = "RQ"


@dataclass(frozen=True)
class _Row:
    """A method of a table, by the settings of its search where it was measured with several."""

    method: str
    label: str
    measured: dict[str, Measured]


def main_places(measurements: Measurements, tasks: Sequence[ToldTask], published: bool) -> list[tuple[str, int]]:
    """Return (data set, bytes) of the main tables: what was measured or is planned, and the papers' if wanted."""
    places = [(each.first.dataset, int(each.first.num_bytes)) for each in measurements.select(section="main")]
    planned = [task for task in tasks if "main" in task.sections]
    places += [(task.dataset, task.num_bytes) for task in planned if task.num_bytes is not None]
    theirs = [(each.dataset, each.num_bytes) for each in published_numbers() if each.section == "main"]
    datasets = unique(dataset for dataset, _ in theirs)
    order = {dataset: place for place, dataset in enumerate(datasets)}
    wanted = unique(theirs + places) if published else unique(places)
    return sorted(wanted, key=lambda place: (order.get(place[0], len(order)), place[0], place[1]))


def is_published(dataset: str) -> bool:
    """Return whether the papers report numbers on this data set."""
    return any(each.dataset == dataset for each in published_numbers())


def comparison_table(measurements: Measurements, tasks: Sequence[ToldTask], dataset: str, num_bytes: int) -> TableBlock:
    """Return published | ours | difference of each metric, a method a row; unknown cells are empty."""
    rows = _rows(measurements, tasks, dataset, num_bytes)
    seeds = _seeds(rows)
    header = ["method"]
    for metric in METRICS:
        label = metric_label(metric, dataset)
        change = f"{label.split(' ')[0]} difference"
        header += [f"{label} published", f"{label} ours", f"{change}, points" if is_recall(metric) else change]
    cells: list[list[Cell]] = []
    for row in rows:
        line: list[Cell] = [row.label]
        empty = state_cell(why_empty(tasks, "main", dataset, row.method, num_bytes))
        for metric in METRICS:
            published = find_published("main", dataset, row.method, num_bytes, metric)
            ours = row.measured.get(metric)
            line.append(None if published is None else published.printed)
            line.append(measured_link(ours) or empty)
            line.append(difference_text(ours, published) if ours and published else None)
        cells.append(line + _seed_cells(row, seeds))
    return TableBlock([*header, *_seed_header(seeds)], cells, _comparison_caption(dataset, num_bytes))


def relative_table(measurements: Measurements, tasks: Sequence[ToldTask], dataset: str, num_bytes: int) -> TableBlock:
    """Return our numbers on a data set that is not the papers': against RQ, beside what the papers found against RQ."""
    rows = _rows(measurements, tasks, dataset, num_bytes)
    seeds = _seeds(rows)
    reference = next((row.measured for row in rows if row.method == REFERENCE), {})
    header = ["method", "MSE", f"MSE against {REFERENCE}", f"papers: MSE against {REFERENCE}"]
    header += ["R@1 %", f"R@1 against {REFERENCE}, points", "R@10 %", "R@100 %", *_seed_header(seeds)]
    cells = []
    for row in rows:
        empty = state_cell(why_empty(tasks, "main", dataset, row.method, num_bytes))
        figures: list[Cell] = [measured_link(row.measured.get(metric)) or empty for metric in METRICS]
        mse, recall = (_against(row, reference, metric) for metric in METRICS[:2])
        claimed = papers_against_reference(row.method, num_bytes)
        cells.append([row.label, figures[0], mse, claimed, figures[1], recall, *figures[2:], *_seed_cells(row, seeds)])
    caption = (
        f"{dataset_label(dataset)}, {rate_text(num_bytes)}: no published numbers. The papers' column is the range over "
        "their data sets at this rate, of larger models trained on more vectors."
    )
    return TableBlock(header, cells, caption)


def other_numbers_table(measurements: Measurements) -> TableBlock:
    """Return every published number outside the main tables, beside ours where something measured it."""
    header = ["method", "data set", "bytes", "metric", "published", "ours", "difference", "note", "source"]
    rows: list[list[Cell]] = []
    for each in published_numbers():
        if each.section == "main":
            continue
        found = measurements.select(method=each.method, num_bytes=each.num_bytes, metric=each.metric)
        ours = next((measured for measured in found if measured.first.dataset in each.datasets), None)
        label = metric_label(each.metric, "" if each.unit == 1 else each.dataset)
        change = difference_text(ours, each) if ours else None
        place = dataset_label(each.dataset) or None
        rows.append(
            [
                each.method,
                place,
                each.num_bytes,
                label,
                each.printed,
                measured_link(ours),
                change,
                each.note,
                each.source,
            ]
        )
    return TableBlock(header, rows, "Published numbers outside the main tables.")


def published_tables() -> Iterator[TableBlock]:
    """Yield the main tables of the papers as printed."""
    for dataset, num_bytes in main_places(Measurements(()), (), published=True):
        cells = {(each.method, each.metric): each.printed for each in _printed(dataset, num_bytes)}
        rows: list[list[Cell]] = [
            [method, *(cells.get((method, metric)) for metric in METRICS)]
            for method in unique(name for name, _ in cells)
        ]
        header = ["method", *(metric_label(metric, dataset) for metric in METRICS)]
        yield TableBlock(header, rows, _comparison_caption(dataset, num_bytes))


def papers_against_reference(method: str, num_bytes: float) -> str | None:
    """Return the range of the published MSE of a method against RQ over the papers' data sets; None if unknown."""
    changes = []
    for each in published_numbers():
        if (each.section, each.method, each.num_bytes, each.metric) == ("main", method.split(" ")[0], num_bytes, "mse"):
            base = find_published("main", each.dataset, REFERENCE, num_bytes, "mse")
            if base is not None and method.split(" ")[0] != REFERENCE:
                changes.append((each.value / base.value, percent_text(each.value, base.value)))
    if not changes:
        return None
    low, high = min(changes)[1], max(changes)[1]
    return low if low == high else f"{low.removesuffix(' %')} … {high}"


def _rows(measurements: Measurements, tasks: Sequence[ToldTask], dataset: str, num_bytes: int) -> list[_Row]:
    by_point: dict[tuple[str, Settings], dict[str, Measured]] = {}
    for each in measurements.select(section="main", dataset=dataset, num_bytes=num_bytes):
        by_point.setdefault((each.first.method, each.first.settings), {})[each.first.metric] = each
    methods = [method for method, _ in by_point]
    rows = [
        _Row(method, f"{method} ({settings_text(settings)})" if methods.count(method) > 1 else method, found)
        for (method, settings), found in by_point.items()
    ]
    known = {plain_name(method) for method in methods}
    # a folder's QINCo1-L2 is called as where it was measured
    called = {plain_name(each.first.method): each.first.method for each in measurements.select(section="main")}
    names = [called.get(plain_name(name), name) for name in _expected(tasks, dataset, num_bytes)]
    rows += [_Row(name, name, {}) for name in unique(names) if plain_name(name) not in known]
    return sorted(rows, key=lambda row: (*method_place(row.method), row.label))


def _expected(tasks: Sequence[ToldTask], dataset: str, num_bytes: int) -> list[str]:
    """Return the methods that the table would have if all were measured: the papers', and the planned ones."""
    planned = [task for task in tasks if "main" in task.sections and task.method != BASELINES]
    return [
        *(each.method for each in _printed(dataset, num_bytes)),
        *(task.method for task in planned if (task.dataset, task.num_bytes) == (dataset, num_bytes)),
    ]


def _printed(dataset: str, num_bytes: int) -> list[Published]:
    """Return the numbers of a main table of the papers."""
    place = ("main", dataset, num_bytes)
    return [each for each in published_numbers() if (each.section, each.dataset, each.num_bytes) == place]


def _seeds(rows: Sequence[_Row]) -> list[int]:
    """Return the seeds that get a column with links: none where every number is of a single run."""
    measured = [each for row in rows for each in row.measured.values()]
    if all(len(each.records) == 1 for each in measured):
        return []
    return sorted({record.seed for each in measured for record in each.records if record.seed is not None})


def _seed_header(seeds: Sequence[int]) -> list[str]:
    return [f"run of seed {seed}" for seed in seeds]


def _seed_cells(row: _Row, seeds: Sequence[int]) -> list[Cell]:
    runs = {record.seed: record.run for each in row.measured.values() for record in each.records}
    return [Link("run", run_href(runs[seed])) if seed in runs else None for seed in seeds]


def _comparison_caption(dataset: str, num_bytes: int) -> str:
    cells = _printed(dataset, num_bytes)
    where = f"{dataset_label(dataset)}, {rate_text(num_bytes)}."
    if not cells:
        return f"{where} No published numbers are known."
    notes: dict[str, list[str]] = {}
    for each in cells:
        notes.setdefault(each.note, []).append(each.method)
    texts = [f"{', '.join(unique(methods))} {note}" for note, methods in notes.items()]
    return f"{where} Published: {cells[0].source}; {'; '.join(texts)}."


def _against(row: _Row, reference: dict[str, Measured], metric: str) -> str | None:
    ours, base = row.measured.get(metric), reference.get(metric)
    if row.method == REFERENCE or ours is None or base is None:
        return None
    return (points_text if is_recall(metric) else percent_text)(ours.mean, base.mean)
