"""Run tasks in order of cost, each when what it needs is there; stop and go on at will."""

import logging
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from qinco_lit.progress import duration
from qinco_lit.reproducing.folder import (
    LOG,
    QINCO,
    RECORD,
    Outcome,
    Status,
    is_locked,
    last_line,
    locked,
    read_json,
    run_process,
    status_of,
    trains_by_hand,
)
from qinco_lit.reproducing.tasks import Task, by_cost, path_option

log = logging.getLogger(__name__)

_POLL_S = 1.0

_WHY_NOT = {"failed": "failed", "missing_data": "has no data", "skipped": "was not chosen"}


class Stop:
    """Has the user asked to stop: set by SIGINT and SIGTERM; a second signal raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        """Whether to stop."""
        return self._asked

    @contextmanager
    def on_signals(self) -> Iterator["Stop"]:
        """Listen for the block."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._asked:
            raise KeyboardInterrupt(signal.Signals(number).name)
        self._asked = True
        log.info("stopping: waiting for the running task to save its work (once more: kill it)")


@dataclass
class Runner:
    """Tasks of a scale in a folder.

    Attributes:
        tasks: all of the scale.
        output: the folder of all tasks.
        chosen: names of those that may run.
        missing: per data set that is not there, how to get it, in one line.
        program: what `qinco` is.
        environment: of the tasks, in addition to this process's.
    """

    tasks: Sequence[Task]
    output: Path
    chosen: Collection[str]
    missing: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = QINCO
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_name = {task.name: task for task in self.tasks}
        self._failed: dict[str, str] = {}

    def status(self, task: Task) -> Status:
        """What is in a task's folder."""
        return status_of(task, [self._by_name[name] for name in task.needs], self.output)

    def outcomes(self) -> dict[str, Outcome]:
        """What has become of every task, as its folder shows."""
        outcomes: dict[str, Outcome] = {}
        for task in by_cost(self.tasks):
            outcomes[task.name] = self._outcome(task, outcomes)
        return {task.name: outcomes[task.name] for task in self.tasks}

    def run(self, stop: Stop) -> None:
        """Run every chosen task that is not done and can be; return when there is none, or when asked to stop.

        Several calls in one folder share the work: a task that another process runs is waited for.
        """
        waited = False
        while not stop():
            outcomes = self.outcomes()
            pending = self._runnable(outcomes)
            if not pending:
                return
            progress = self._progress(outcomes)
            if not any(self._try(task, stop, progress) for task in pending):
                if not waited:
                    log.info("%s runs already, from another call: waiting for it", pending[0].name)
                waited = True
                time.sleep(_POLL_S)

    def _progress(self, outcomes: Mapping[str, Outcome]) -> str:
        """How many of the chosen tasks are done, and how long the others will take: 3 of 17, about 12 min left."""
        chosen = [task for task in self.tasks if task.name in self.chosen]
        left_s = sum(task.cost_s for task in chosen if outcomes[task.name].state == "not_run")
        num_done = sum(outcomes[task.name].state == "done" for task in chosen)
        return f"{num_done} of {len(chosen)} done, about {duration(left_s)} left"

    def _runnable(self, outcomes: Mapping[str, Outcome]) -> list[Task]:
        """Chosen tasks whose needs are done and which are neither done nor refused nor failed, cheapest first."""
        return [
            task
            for task in by_cost(self.tasks)
            if outcomes[task.name].state == "not_run" and all(outcomes[name].state == "done" for name in task.needs)
        ]

    def _try(self, task: Task, stop: Stop, progress: str) -> bool:
        """Run a task unless another process does; False then."""
        folder = self.output / task.name
        with locked(folder) as lock:
            if lock is None or trains_by_hand(folder):
                return False
            found = self.status(task).found
            if found in ("start", "continue"):  # not done by another process just now
                verb = "continuing" if found == "continue" else "running"
                log.info("[%s] %s %s, about %s", progress, verb, task.name, duration(task.cost_s))
                words = (
                    ["train", path_option("resume", str(folder))]
                    if found == "continue"
                    else task.words(str(self.output))
                )
                self._run(task, words, lock, stop)
            return True

    def _run(self, task: Task, words: Sequence[str], lock: int, stop: Stop) -> None:
        folder, began = self.output / task.name, time.monotonic()
        code = run_process(
            task, words, folder, lock=lock, program=self.program, environment=self.environment, stopping=stop
        )
        took = duration(time.monotonic() - began)
        if code == 0 and self.status(task).found == "done":
            log.info("  done in %s", took)
        elif not stop():
            self._failed[task.name] = f"{last_line(folder)} (exit code {code}; {folder / LOG})"
            log.warning("  failed after %s: %s", took, self._failed[task.name])

    def _outcome(self, task: Task, earlier: Mapping[str, Outcome]) -> Outcome:
        status = self.status(task)
        if status.found == "done":
            return Outcome("done", wall_s=status.wall_s)
        if status.found == "changed":
            return Outcome("failed", status.reason)
        if task.name in self._failed:
            return Outcome("failed", self._failed[task.name])
        if task.name not in self.chosen:
            return Outcome("skipped", "not in only=")
        if task.dataset in self.missing:
            return Outcome("missing_data", self.missing[task.dataset])
        for name in task.needs:
            if earlier[name].state not in ("done", "not_run"):
                return Outcome("not_run", f"needs {name}, which {_WHY_NOT[earlier[name].state]}")
            if earlier[name].reason.startswith("needs "):
                return earlier[name]
        return Outcome("not_run", self._note(task))

    def _note(self, task: Task) -> str:
        """What is known of a task that could run."""
        folder = self.output / task.name
        if is_locked(folder) or trains_by_hand(folder):
            return "runs now"
        record = read_json(folder / RECORD) or {}
        return "failed at the last try" if record.get("state") == "failed" else ""
