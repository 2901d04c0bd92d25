"""Folders of runs: trainings, evaluations, searches, sweeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qinco_lit.locks import is_held
from qinco_lit.reports.facts.reading import Lines, checked, read
from qinco_lit.reports.kit.texts import method_label, time_text
from qinco_lit.run_folder import BASELINES, BEFORE_EPOCHS, LOCK, best_epoch


def training_lines(folder: Path) -> tuple[str, Lines]:
    """The folder of a training: its state, and how to go on."""
    summary = read(folder / "summary.json") if (folder / "summary.json").is_file() else {}
    works = is_held(folder / LOCK)
    state = str(summary.get("state", "begun"))
    state = "running" if works else "killed" if state == "running" else state
    lines = checked(folder / "summary.json", lambda: ("", trained_lines(folder)))[1]
    if (folder / "codec").is_dir():
        lines.append(("codec", str(folder / "codec")))
    if works:
        lines.append(("watch", f"tail -f {folder / 'train.log'}"))
    elif state != "finished":
        lines.append(("go on", f"qinco train resume={folder}"))
    else:
        lines.append(("longer", f"qinco train resume={folder} trainer.max_epochs=N"))
    return f"training, {state}", lines


def trained_lines(run_dir: Path) -> Lines:
    """How the training of a run folder went, as far as it has got."""
    summary = read(run_dir / "summary.json") if (run_dir / "summary.json").is_file() else {}
    config = read(run_dir / "config.json") if (run_dir / "config.json").is_file() else {}
    lines, data = [], config.get("data") or {}
    if data.get("name") and data["name"] != "files":
        lines.append(("trained on", str(data["name"])))
    elif data.get("train"):
        lines.append(("trained on", str(data["train"])))
    if best := best_epoch(run_dir / "metrics.jsonl"):
        of = f" of {summary['epochs']}" if "epochs" in summary else ""
        whose = f"epoch {int(best['epoch']) + 1}{of}"
        if best["epoch"] == BEFORE_EPOCHS:
            baseline = min(BASELINES, key=lambda name: best[f"val/mse_{name}"])
            whose = f"{baseline.upper()} of the training vectors; no epoch{of} is below"
        lines.append(("best", f"validation MSE {best['val/mse']:,.6g} ({whose})"))
    if "wall_s" in summary:
        lines.append(("took", time_text(summary["wall_s"])))
    if command := summary.get("command"):
        lines.append(("command", str(command)))
    if "resume=" in str(summary.get("command")) and summary.get(
        "overrides"
    ):  # which says little of what it went on with
        lines.append(("options", " ".join(map(str, summary["overrides"]))))
    return lines or [("files", ", ".join(sorted(entry.name for entry in run_dir.iterdir())))]


def record_lines(folder: Path, name: str, what: str) -> tuple[str, Lines]:
    """The folder of an evaluation, a search or another command that leaves a record."""
    record = read(folder / name)
    lines = [(key, str(record[key])) for key in ("command", "created") if record.get(key)]
    lines = [("command" if key == "command" else "when", value) for key, value in lines]
    if what == "evaluation":
        lines = checked(folder / name, lambda: ("", _evaluation(record)))[1] + lines
    elif what == "search":
        lines = checked(folder / name, lambda: ("", _searched(record)))[1] + lines
    pages = [each for each in ("table.md", "search.md", "plan.md", "report.html") if (folder / each).is_file()]
    lines += [("read", str(folder / each)) for each in pages]
    if what in ("evaluation", "search"):
        lines.append(("compare", f"qinco compare {folder}"))
    return what, lines or [("files", name)]


def _evaluation(record: Mapping[str, Any]) -> Lines:
    lines = [("codec", str(record["codec"]["path"])), ("data", str(record["data"]["name"]))]
    for method, figures in record["methods"].items():
        recall = figures.get("recall_at_1")
        shown = "" if recall is None else f", R@1 {100 * recall:.1f} %"
        lines.append((method_label(record, method), f"MSE {figures['mse']:,.6g}{shown}"))
    return lines


def _searched(record: Mapping[str, Any]) -> Lines:
    lines = [("index", str(record["index"]["path"])), ("data", str(record["data"]["name"]))]
    for engine, measured in record["engines"].items():
        for k, best in measured["best"].items():
            point = measured["points"][best]
            figures = f"{100 * point[f'recall_at_{k}']:.1f} % at {point['queries_per_s']:,.0f} queries/s"
            lines.append((f"{engine}, R@{k}", f"{figures}, the most of {len(measured['points'])} points"))
    return lines


def runs_lines(folder: Path, runs: list[Path]) -> tuple[str, Lines]:
    """A sweep, or another folder of folders of runs."""
    states = [str(read(each / "summary.json").get("state")) for each in runs if (each / "summary.json").is_file()]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lines = [("jobs", f"{len(runs)}, from {runs[0].name} to {runs[-1].name}")]
    if counted:
        lines.append(("states", counted))
    lines.append(("compare", f"qinco compare {folder}"))
    return "sweep" if (folder / "multirun.yaml").is_file() else "folder of runs", lines
