"""Where the numbers come from: tasks and their commands, single records, versions and hardware."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qinco_lit.reports.iclr.numbers import dataset_label, metric_label, run_href, value_text
from qinco_lit.reports.iclr.records import Measurements
from qinco_lit.reports.iclr.states import Task, state_counts
from qinco_lit.reports.iclr.tables import settings_text
from qinco_lit.reports.page import Block, Cell, Details, Heading, Link, Paragraph, TableBlock


def state_blocks(tasks: Sequence[Task]) -> Iterator[Block]:
    """Yield how far the reproduction is, what data is missing and what failed."""
    if not tasks:
        return
    yield Heading("State")
    yield Paragraph(f"{len(tasks)} tasks: {state_counts(tasks)}.")
    missing = [task for task in tasks if task.state == "missing_data"]
    if missing:
        yield Paragraph("Nothing is downloaded by itself. What the tasks without data need:")
        datasets = dict.fromkeys(task.dataset for task in missing)
        rows: list[list[Cell]] = []
        for dataset in datasets:
            of_set = [task for task in missing if task.dataset == dataset]
            reasons = dict.fromkeys(task.reason for task in of_set if task.reason)
            rows += [[dataset_label(dataset), len(of_set), reason] for reason in reasons or [""]]
        yield TableBlock(["data set", "tasks", "what brings it"], rows)
    failed = [task for task in tasks if task.state == "failed"]
    if failed:
        rows = [[_task_link(task), task.reason] for task in failed]
        yield TableBlock(["failed task", "reason"], rows)


def revision_blocks(results: Mapping[str, Any]) -> Iterator[Block]:
    """Yield a warning where the runs are of several versions of the code."""
    runs = _runs_by_revision(results)
    if len(runs) > 1:
        counts = ", ".join(f"{name} ({len(folders)} run folders)" for name, folders in runs.items())
        yield Paragraph(
            f"Numbers here are of {len(runs)} versions of the code, whose defaults may differ: {counts}. "
            "`results.json` tells which run is of which."
        )


def _runs_by_revision(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Run folders by git revision, the most frequent first; those that tell none are left out."""
    told = [(each["run"], each.get("git_revision")) for each in results.get("records") or ()]
    told += [(each.get("folder"), each.get("git_revision")) for each in results.get("tasks") or ()]
    runs: dict[str, list[str]] = {}
    for folder, name in dict.fromkeys(told):
        if name:
            runs.setdefault(name, []).append(folder)
    return dict(sorted(runs.items(), key=lambda item: -len(item[1])))


def provenance_blocks(results: Mapping[str, Any], tasks: Sequence[Task], measurements: Measurements) -> Iterator[Block]:
    """Yield environment, all tasks with command and wall time, and every record."""
    yield Heading("Where the numbers come from")
    rows: list[list[Cell]] = [[name, value] for name, value in _flat(results.get("environment") or {})]
    if rows:
        yield TableBlock(["environment", ""], rows, "Of this report; each run folder holds its own.", sortable=False)
    runs = _runs_by_revision(results)
    if runs:
        cells: list[list[Cell]] = [[name, len(folders)] for name, folders in runs.items()]
        yield TableBlock(["git revision of the runs", "run folders"], cells, sortable=False)
    if tasks:
        yield Details(_tasks_summary(tasks), [_task_table(tasks, str(results.get("estimates_for") or ""))])
    records = [record for each in measurements.all for record in each.records]
    if records:
        yield Details(f"every record: {len(records):,}", [_record_table(measurements)])


def _tasks_summary(tasks: Sequence[Task]) -> str:
    seconds = sum(task.wall_s or 0.0 for task in tasks)
    return f"every task, its command and time: {len(tasks)} tasks, {duration_text(seconds)} in all"


def _task_table(tasks: Sequence[Task], estimates_for: str) -> TableBlock:
    rows: list[list[Cell]] = [
        [
            _task_link(task),
            ", ".join(task.sections),
            task.state_text,
            None if task.wall_s is None else round(task.wall_s, 1),
            None if task.cost_s is None else round(task.cost_s),
            task.command,
            task.reason,
        ]
        for task in tasks
    ]
    caption = f"Estimates are for: {estimates_for}." if estimates_for else ""
    return TableBlock(["task", "section", "state", "wall time, s", "estimate, s", "command", "reason"], rows, caption)


def _record_table(measurements: Measurements) -> TableBlock:
    header = ["run", "section", "data set", "method", "bytes", "settings", "metric", "value", "seed"]
    rows: list[list[Cell]] = []
    for each in measurements.all:
        for record in each.records:
            metric, dataset = record.metric, record.dataset
            rows.append(
                [
                    Link(record.run, run_href(record.run)),
                    record.section,
                    dataset_label(dataset),
                    record.method,
                    record.num_bytes,
                    settings_text(record.settings),
                    metric_label(metric, dataset),
                    value_text(record.value, metric, dataset),
                    record.seed,
                ]
            )
    return TableBlock(header, rows)


def duration_text(seconds: float) -> str:
    """Return a time for readers: 48 s, 12 min, 3 h 05 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _task_link(task: Task) -> Cell:
    started = task.folder and task.state not in ("missing_data", "not_run", "skipped")
    return Link(task.name, run_href(task.folder)) if started else task.name


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label}: ")
        else:
            texts = [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
            yield label, "none" if value is None or not texts else ", ".join(texts)
