"""What a call tells and leaves: the tasks as text, and `results.json`, one number each with the run folder it is from.

A record has `section`, `dataset`, `method`, `num_bytes`, `metric`, `value`, `seed`, `settings`, `run`, the folder
relative to that of all tasks, and `git_revision` of the code that it was made by, None where that is not known. MSE is
the mean over vectors of the squared error summed over dimensions, in raw space; recall is in 0..1; times are
microseconds per vector.
"""

import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qinco_lit.atomic import write_atomically
from qinco_lit.progress import duration
from qinco_lit.reproducing.folder import Outcome, read_json
from qinco_lit.reproducing.tasks import Task, by_cost

log = logging.getLogger(__name__)

Record = dict[str, Any]
Values = Mapping[str, Any]

_QUALITY = ("mse", "recall_at_1", "recall_at_10", "recall_at_100")
_NAMES = {
    "opq": "OPQ", "pq": "PQ", "rq": "RQ", "lsq": "LSQ",
    "ivf_pq": "IVF-PQ", "ivf_rq": "IVF-RQ", "ivf_pqfs": "IVF-PQFS", "ivf_pqfs_refine": "IVF-PQFS + re-rank",
    "rabitq": "IVF-RaBitQ", "rabitq2": "IVF-RaBitQ 2 bits",
}  # fmt: skip
_SEARCH = ("beam_size", "num_candidates", "candidate_budget")
_STATES = {
    "done": "done",
    "missing_data": "missing data",
    "not_run": "to run",
    "failed": "failed",
    "skipped": "skipped",
}

# As in conf: data_dir: ${oc.env:QINCO_DATA,data}.
_DATA_VARIABLE, _DATA_DIR = "QINCO_DATA", "data"
_TOLD = ("not_run", "failed")  # the reasons of the others are told once, before
RESULTS = "results.json"


def write_results(
    tasks: Sequence[Task],
    outcomes: Mapping[str, Outcome],
    output: Path,
    *,
    scale_name: str,
    hardware: str,
    data_dir: str = "",
) -> dict[str, Any]:
    """Write `results.json` of all tasks that are done, then the report; return what is in the file.

    Args:
        tasks: all of the scale.
        outcomes: of each by name; only what is `done` gives records.
        output: the folder of all tasks.
        scale_name: which scale it is.
        hardware: that the estimated costs are for.
        data_dir: what commands begin with, of `typed_data_dir`.
    """
    from qinco_lit.environment import environment
    from qinco_lit.reports.iclr import write_report

    done = [task for task in tasks if outcomes[task.name].state == "done"]
    results = {
        "schema_version": 1,
        "scale": scale_name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": environment(),
        "estimates_for": hardware,
        "records": collect(done, output),
        "tasks": [_told(task, outcomes[task.name], output, data_dir) for task in tasks],
    }
    write_atomically(output / RESULTS, json.dumps(results, indent=1) + "\n")
    write_report(results, output)
    return results


def _told(task: Task, outcome: Outcome, output: Path, data_dir: str) -> dict[str, Any]:
    command = shlex.join(["qinco", *task.words(str(output))])
    return {
        "name": task.name,
        "section": task.sections[0],
        "sections": list(task.sections),
        "state": outcome.state,
        "command": f"{data_dir} {command}" if data_dir else command,
        "folder": task.name,
        "cost_s": round(task.cost_s, 1),
        "wall_s": outcome.wall_s,
        "reason": outcome.reason,
        "git_revision": revision(task, output) if outcome.state == "done" else None,
    }


# --- for people -------------------------------------------------------------------------------------------------------


def typed_data_dir(environment: Mapping[str, str]) -> str:
    """Return `QINCO_DATA=DIR` for a shell, of a task's environment; empty where every shell takes that folder."""
    data_dir = environment.get(_DATA_VARIABLE, _DATA_DIR)
    if data_dir == os.environ.get(_DATA_VARIABLE, _DATA_DIR) == _DATA_DIR:
        return ""
    return f"{_DATA_VARIABLE}={shlex.quote(data_dir)}"


def listed(
    tasks: Sequence[Task], outcomes: Mapping[str, Outcome], output: Path, hardware: str, data_dir: str = ""
) -> str:
    """Return every task in the order in which it would run: a comment line with its state, then its command line.

    The whole can be given to a shell: what is not to be run is a comment too. `data_dir`, of `typed_data_dir`, comes
    first.
    """
    lines = [f"export {data_dir}"] if data_dir else []
    for task in by_cost(tasks):
        outcome = outcomes[task.name]
        is_to_run = outcome.state == "not_run" and outcome.reason != "runs now"
        reason = f" ({outcome.reason})" if outcome.reason and outcome.state in _TOLD else ""
        took = f"took {duration(outcome.wall_s)}" if outcome.wall_s is not None else f"about {duration(task.cost_s)}"
        lines.append(f"# {_STATES[outcome.state]}{reason}, {took}: {task.name} [{', '.join(task.sections)}]")
        lines.append(f"{'' if is_to_run else '#   '}qinco {shlex.join(task.words(str(output)))}")
    return "\n".join([*lines, f"# {counted(tasks, outcomes, hardware)}"])


def counted(tasks: Sequence[Task], outcomes: Mapping[str, Outcome], hardware: str) -> str:
    """Return how many tasks are in which state, and the estimated time of those to run."""
    states = [outcome.state for outcome in outcomes.values()]
    counts = [f"{states.count(state)} {_STATES[state]}" for state in _STATES if state in states]
    left_s = sum(task.cost_s for task in tasks if outcomes[task.name].state == "not_run")
    estimate = f"; to run: about {duration(left_s)} on {hardware} (an estimate)" if left_s else ""
    return f"{len(states)} tasks: {', '.join(counts)}{estimate}"


def failures(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Return a line for each task that failed or whose folder was refused."""
    return [f"{name}: {outcome.reason}" for name, outcome in outcomes.items() if outcome.state == "failed"]


# --- records ----------------------------------------------------------------------------------------------------------


def collect(tasks: Sequence[Task], output: Path) -> list[Record]:
    """Return the records of tasks that are done; a file that cannot be read as expected is told and left out."""
    records: list[Record] = []
    for task in tasks:
        readers = _READERS.get(task.kind)
        if readers is None:
            continue
        name, read = readers
        values = read_json(output / task.name / name)
        try:
            if values is None:
                raise ValueError("no JSON object")
            own = {"git_revision": values.get("git_revision")}
            records.extend(record | own for record in read(task, values))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            log.warning("%s left out: %s %s", output / task.name / name, type(error).__name__, error)
    return [record for record in records if record["value"] is not None]


def revision(task: Task, output: Path) -> str | None:
    """Return the git revision of the code that a task was done by; None where its files tell none."""
    if task.kind not in _READERS:
        return None
    told = (read_json(output / task.name / _READERS[task.kind][0]) or {}).get("git_revision")
    return None if told is None else str(told)


def _record(task: Task, section: str, metric: str, value: float | None, settings: Values, **others: Any) -> Record:
    facts = {
        "section": section,
        "dataset": task.dataset,
        "method": task.method,
        "num_bytes": task.num_bytes,
        "metric": metric,
        "value": value,
        "seed": task.seed,
        "settings": dict(settings),
        "run": task.name,
    }
    return facts | others


# --- one reader per kind of task --------------------------------------------------------------------------------------


def _of_training(task: Task, summary: Values) -> Iterator[Record]:
    if "ablation" in task.sections:
        yield _record(task, "ablation", "validation_mse", float(summary["best_val_mse"]), {})
    if "main" in task.sections:
        yield _record(task, "speed", "train_s", float(summary["wall_s"]), {"epochs": summary.get("epochs")})
        yield _record(task, "speed", "parameters", float(summary["parameters"]), {})


def _of_evaluation(task: Task, metrics: Values) -> Iterator[Record]:
    codec, figures = metrics["codec"], metrics["methods"]["codec"]
    search = {name: codec[name] for name in _SEARCH if codec.get(name) is not None}
    for section in ("main", "run_time", "ablation"):
        if section in task.sections:
            settings = search | {"num_database": metrics["data"]["num_database"]}
            for metric in _QUALITY:
                yield _record(task, section, metric, figures.get(metric), settings)
            if section == "run_time":
                yield _record(task, section, "encode_us_per_vector", _us(figures["encode_vectors_per_s"]), settings)
    if "dynamic_rate" in task.sections:
        yield from _prefixes(task, figures, search)
    for name, others in metrics["methods"].items():
        baseline = {} if name == "codec" else {"method": _NAMES.get(name, name)}
        if baseline and "main" in task.sections:
            settings = {"num_training_rows": others.get("num_training_rows"), **others.get("settings", {})}
            for metric in _QUALITY:
                yield _record(task, "main", metric, others.get(metric), settings, **baseline)
        if "speed" in task.sections:
            circumstances = {"device": metrics["device"] if name == "codec" else "cpu", **metrics["num_threads"]}
            settings = (search if name == "codec" else {}) | circumstances
            for what in ("encode", "decode"):
                value = _us(others[f"{what}_vectors_per_s"])
                yield _record(task, "speed", f"{what}_us_per_vector", value, settings, **baseline)


def _prefixes(task: Task, figures: Values, search: Values) -> Iterator[Record]:
    """MSE of the first m codes of an encoding; where a code is a byte, that is a rate."""
    bytes_per_code = task.num_bytes / figures["num_steps"]
    for place, mse in enumerate(figures["mse_per_step"] or ()):
        settings = {**search, "encoded_bytes": task.num_bytes}
        num_bytes = (place + 1) * bytes_per_code
        exact = int(num_bytes) if num_bytes == int(num_bytes) else num_bytes
        yield _record(task, "dynamic_rate", "mse", mse, settings, num_bytes=exact)


def _of_index(task: Task, report: Values) -> Iterator[Record]:
    facts = {"num_lists": report["num_lists"], "num_training": report["num_training"]}
    for decoder, mse in report["validation_mse"].items():
        yield _record(task, "pairwise", "mse", mse, {"decoder": decoder, **facts})


def _of_search(task: Task, search: Values) -> Iterator[Record]:
    num_lists = search["index"]["num_lists"]
    for name, engine in search["engines"].items():
        method = {} if name == "qinco" else {"method": _NAMES.get(name, name)}
        front = {place for places in engine["fronts"].values() for place in places}
        for place, point in enumerate(engine["points"]):
            settings = {"engine": name, "num_lists": num_lists, **point["parameters"]}
            figures = {key: value for key, value in point.items() if key.startswith("recall_at_")}
            figures["queries_per_s"] = point["queries_per_s"]
            if place in front:
                for metric, value in figures.items():
                    yield _record(task, "search", metric, value, settings, **method)
        if name == "qinco":
            yield from _stages(task, engine, num_lists)


def _stages(task: Task, engine: Values, num_lists: int) -> Iterator[Record]:
    """R@1 if a search had ended after a stage, at the point of the best recall that has all stages."""
    points = [point for point in engine["points"] if point["parameters"].get("num_pairwise")]
    best = max(points, key=lambda point: float(point["recall_at_1"]), default=None)
    if best is not None:
        for stage, recall in best["stage_recall_at_1"].items():
            settings = {"decoder": "full" if stage == "decode" else stage, "num_lists": num_lists, **best["parameters"]}
            yield _record(task, "pairwise", "recall_at_1", recall, settings)


def _us(per_s: float) -> float:
    return 1e6 / per_s


_READERS: dict[str, tuple[str, Callable[[Task, Values], Iterator[Record]]]] = {
    "train": ("summary.json", _of_training),
    "evaluate": ("metrics.json", _of_evaluation),
    "index": ("bundle/report.json", _of_index),
    "search": ("search.json", _of_search),
}
