"""A run's own record, readable without any service: metrics.jsonl (append-only) and summary.json."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from qinco_lit.atomic import naming, write_atomically
from qinco_lit.environment import environment

_ROOM, _ROOM_BYTES = ".room", 64 << 10
_ENVIRONMENT = ("git_revision", "versions", "hardware", "arithmetic")  # of environment(), what changes numbers


class JsonLinesLogger(Logger):
    """Appends one JSON object per report to a file; a resumed run goes on in the same file.

    Reports of steps after the checkpoint that it goes on from are cut off first: they are made again.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    @property
    def name(self) -> str:
        """What the logger is called."""
        return "metrics"

    @property
    def version(self) -> str:
        """Empty: a run folder holds one record."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """One line: step, unix time in seconds, metrics."""
        row = {"step": step, "time_s": round(time.time(), 3), **metrics}
        with naming(self._path), self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._path.stat().st_size if self._path.is_file() else 0

    @rank_zero_only
    def cut(self, size: int) -> None:
        """Keep the first `size` bytes."""
        if size < self.size:
            os.truncate(self._path, size)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The resolved config lies beside the file already."""


class RunRecord:
    """What a run folder says of its training: config.json, and summary.json from the start to the end.

    A little room on the disk is held until the end, so that a training which fills the rest can still say so.

    Of a resumed run nothing changes before its training goes on, because until then it may be refused. Overrides that
    were given with `resume=` are kept for the next one.

    Args:
        run_dir: the run's folder.
        resume: whether the training goes on.
        config: the resolved configuration.
        overrides: what the user typed; with `resume`, what was typed with earlier ones too.
        facts: of the run, for the summary.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        resume: bool,
        config: Mapping[str, Any],
        overrides: Sequence[str],
        facts: Mapping[str, Any],
    ) -> None:
        self._run_dir, self._config = run_dir, config
        self._values = {**facts, "overrides": list(overrides), **environment()}
        self._started, self._earlier_s, self._begun = time.time(), 0.0, False
        if resume:
            self._go_on(read_summary(run_dir), [override for override in overrides if _key(override) != "resume"])

    def _go_on(self, before: Mapping[str, Any], overrides: list[str]) -> None:
        self._earlier_s = float(before.get("wall_s", 0.0))
        self._values["overrides"] = merged_overrides(before.get("overrides", []), overrides)
        self._values["resume_overrides"] = overrides
        there = {name: before.get(name) for name in _ENVIRONMENT}
        earlier = list(before.get("earlier_environments", []))
        if there not in [*earlier, {name: self._values[name] for name in _ENVIRONMENT}]:
            self._values["earlier_environments"] = [*earlier, there]

    def begin(self) -> None:
        """The training starts, or goes on."""
        self._begun = True
        write_atomically(self._run_dir / _ROOM, bytes(_ROOM_BYTES))
        write_atomically(self._run_dir / "config.json", json.dumps(self._config, indent=2) + "\n")
        write_summary(self._run_dir, state="running", **self._values)

    def end(self, state: str, results: Mapping[str, Any]) -> None:
        """It has ended: finished, interrupted or failed. What is None or empty of the results is not known."""
        if not self._begun and state != "finished":
            return
        (self._run_dir / _ROOM).unlink(missing_ok=True)
        wall_s = round(self._earlier_s + time.time() - self._started, 1)
        known = {name: value for name, value in results.items() if value not in (None, {})}
        write_summary(self._run_dir, state=state, wall_s=wall_s, **known)


def merged_overrides(earlier: Sequence[str], later: Sequence[str]) -> list[str]:
    """Overrides of Hydra's in their order, of each key the last one; `+` of an earlier one stays."""
    merged = {_key(override): override for override in earlier}
    for override in later:
        key, there = _key(override), merged.get(_key(override), "")
        adds = there.startswith("+") and override.startswith(key)
        merged[key] = f"{there[: len(there) - len(there.lstrip('+'))]}{override}" if adds else override
    return list(merged.values())


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def write_summary(run_dir: Path, **values: Any) -> None:
    """Merge values into the run's summary.json, atomically."""
    summary = read_summary(run_dir) | values
    write_atomically(run_dir / "summary.json", json.dumps(summary, indent=2) + "\n")


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The run's summary.json, empty when there is none yet."""
    path = run_dir / "summary.json"
    try:
        summary: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return summary
