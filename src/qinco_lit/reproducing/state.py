"""In which state a task's folder is: done, to be continued, made with other options, or untouched."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qinco_lit.atomic import write_atomically
from qinco_lit.locks import is_held
from qinco_lit.reproducing.tasks import OUTPUT, Task
from qinco_lit.run_folder import LOCK, TYPED

RECORD = "task.json"
# Options that change where and how something runs, not what comes out.
_INDIFFERENT = ("hydra", "logger", "resume", "data_dir", "cache_dir", "device", "num_threads")

Found = Literal["done", "changed", "continue", "start"]


@dataclass(frozen=True)
class Status:
    """What was found in a folder. `reason`: of changed, with the folder to remove."""

    found: Found
    reason: str = ""
    wall_s: float | None = None


def status_of(task: Task, needs: list[Task], output: Path) -> Status:
    """Look into the folder of a task.

    Args:
        task, needs: the task and those that it needs directly.
        output: the folder of all tasks.

    Returns:
        done: its results are there, made with the task's options, and no older than what they were made from.
        changed: there are results, or a training to go on with, of other options; they are neither used nor removed.
        continue: a training that has a checkpoint.
        start: anything else; commands other than `train` find by themselves what is left to do.
    """
    folder = output / task.name
    is_there = all((folder / name).is_file() for name in task.done_files)
    summary = read_json(folder / "summary.json") if task.kind == "train" else None
    if task.kind == "train":
        is_there = is_there and (summary or {}).get("state") == "finished"
    can_go_on = task.kind == "train" and (folder / "checkpoints" / "last.ckpt").is_file()
    if not (is_there or can_go_on):
        return Status("start")
    recorded = _recorded_options(folder, summary)
    if recorded is None:
        return Status("changed", f"{folder} has no record of its options: remove it to run the task")
    different = _difference(task, recorded)
    if different:
        return Status("changed", f"{folder} was made with other options ({different}): remove it to run the task")
    if not is_there:
        return Status("continue")
    for need in needs:
        if _finished_at(need, output) > _finished_at(task, output):
            return Status("changed", f"{folder} is older than {need.name}, which it was made from: remove it")
    return Status("done", wall_s=_wall_s(folder, summary))


def trains_by_hand(folder: Path) -> bool:
    """Tell whether a training holds this folder; False where the file system knows no locks."""
    return is_held(folder / LOCK)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, None where no such file is or it is damaged."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def write_record(folder: Path, **values: Any) -> None:
    """Merge values into what the engine notes of a task, atomically."""
    record = (read_json(folder / RECORD) or {}) | values
    write_atomically(folder / RECORD, json.dumps(record, indent=2) + "\n")


def _wall_s(folder: Path, summary: dict[str, Any] | None) -> float | None:
    record = read_json(folder / RECORD) or {}
    wall_s = (summary or {}).get("wall_s", record.get("wall_s"))
    return None if wall_s is None else float(wall_s)


def _finished_at(task: Task, output: Path) -> float:
    """When the last result of a task was written, unix time; 0 when there is none."""
    paths = [output / task.name / name for name in task.done_files]
    return max((path.stat().st_mtime for path in paths if path.is_file()), default=0.0)


# --- which options a folder was made with ---------------------------------------------------------------------------


def _recorded_options(folder: Path, summary: dict[str, Any] | None) -> dict[str, str] | None:
    """Options by key: as typed, of a run folder; else as the engine noted them."""
    typed = _typed_overrides(folder / TYPED / "overrides.yaml")
    if typed is None:
        command = (read_json(folder / RECORD) or {}).get("command")
        typed = [str(word) for word in command[1:]] if isinstance(command, list) else None
    # a resumed run notes what was added then
    added = [str(word) for word in (summary or {}).get("overrides", ())]
    if typed is None and not added:
        return None
    return _by_key([*(typed or ()), *added])


def _typed_overrides(path: Path) -> list[str] | None:
    """Return the words in a list that Hydra wrote: one `- WORD` a line, in single quotes where YAML needs them."""
    if not path.is_file():
        return None
    joined = re.sub(r"\n +", " ", path.read_text())
    words = [line[2:].strip() for line in joined.splitlines() if line.startswith("- ")]
    return [word[1:-1].replace("''", "'") if word[:1] == word[-1:] == "'" else word for word in words]


def _by_key(words: list[str] | tuple[str, ...]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    return {key: value.strip("\"'") for key, _, value in pairs if key.split(".")[0] not in _INDIFFERENT}


def _difference(task: Task, recorded: dict[str, str]) -> str:
    """Return the first options that differ, as `KEY=recorded, now VALUE`; nothing where none does."""
    wanted = _by_key(task.command[1:])
    keys = [key for key in dict.fromkeys((*recorded, *wanted)) if not _same(recorded.get(key), wanted.get(key))]
    shown = [f"{key}={recorded.get(key, 'not given')}, now {_shown(wanted.get(key))}" for key in keys]
    return "; ".join([*shown[:3], *(["..."] if len(shown) > 3 else [])])


def _same(recorded: str | None, wanted: str | None) -> bool:
    if recorded is None or wanted is None:
        return recorded == wanted
    if wanted.startswith(f"{OUTPUT}/"):  # the folder of all tasks may have been moved or named in another way
        return recorded.endswith(wanted.removeprefix(OUTPUT))
    return recorded == wanted


def _shown(wanted: str | None) -> str:
    return "not given" if wanted is None else wanted
