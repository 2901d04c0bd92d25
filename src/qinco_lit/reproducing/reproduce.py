"""The experiments of a scale in a folder: listed, run here or submitted, and reported."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinco_lit.reproducing.folder import QINCO, Outcome
from qinco_lit.reproducing.results import counted, failures, listed, typed_data_dir, write_results
from qinco_lit.reproducing.runner import Runner, Stop
from qinco_lit.reproducing.scale import Scale, read_scale
from qinco_lit.reproducing.slurm import SlurmOptions, submit
from qinco_lit.reproducing.tasks import choose, expand

log = logging.getLogger(__name__)

# The options of a data set -> how to get it, in one line; None where it is there or makes itself.
FindMissing = Callable[[Sequence[str]], str | None]


@dataclass(frozen=True)
class Reproduction:
    """A scale whose tasks are run in a folder.

    Attributes:
        scale: what is run.
        scale_name: in results and report.
        runner: the tasks in their folder.
    """

    scale: Scale
    scale_name: str
    runner: Runner

    @classmethod
    def of(
        cls,
        scale: Mapping[str, Any],
        output: Path,
        *,
        scale_name: str,
        only: Sequence[str] = (),
        find_missing: FindMissing = lambda _: None,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = QINCO,
    ) -> "Reproduction":
        """Describe what is to be done; nothing is written.

        Args:
            scale: data sets, methods, experiments (conf/scale, `Scale`).
            output: folder of all tasks.
            scale_name: in results and report.
            only: words that choose tasks (`choose`).
            find_missing: is asked about the options of each data set; nothing is ever downloaded.
            environment: variables of every task, in addition to this process's.
            program: what `qinco` is.

        Raises:
            ValueError: an impossible scale or choice.
        """
        described = read_scale(scale)
        tasks = expand(described)
        chosen = choose(tasks, only)
        needed = {task.dataset for task in tasks if task.name in chosen}
        found = {name: find_missing(data.options) for name, data in described.datasets.items() if name in needed}
        missing = {name: how for name, how in found.items() if how is not None}
        return cls(described, scale_name, Runner(tasks, output, chosen, missing, program, environment or {}))

    def missing(self) -> dict[str, str]:
        """Return which data sets keep tasks from running, and how to get each."""
        outcomes, runner = self.runner.outcomes(), self.runner
        waiting = {task.dataset for task in runner.tasks if outcomes[task.name].state == "missing_data"}
        return {name: runner.missing[name] for name in sorted(waiting)}

    def listing(self) -> str:
        """Return every task with its state and its command line, for a shell."""
        runner = self.runner
        return listed(runner.tasks, runner.outcomes(), runner.output, self.scale.hardware, self._data_dir)

    def run(self) -> dict[str, Outcome]:
        """Run the chosen tasks that are not done, one after the other; write `results.json` and the report.

        Raises:
            KeyboardInterrupt: SIGINT or SIGTERM; the running task saved what it could, results and report are written.
        """
        stop = Stop()
        try:
            with stop.on_signals():
                self.runner.run(stop)
        finally:
            outcomes = self._report()
        self._tell(outcomes)
        if stop():
            raise KeyboardInterrupt
        return outcomes

    def submit(self, slurm: SlurmOptions, overrides: Sequence[str] = ()) -> dict[str, Outcome]:
        """Submit them to a cluster instead (`slurm.submit`) and return."""
        try:
            submit(self.runner, slurm, overrides)
        finally:
            outcomes = self._report()
        self._tell(outcomes)
        return outcomes

    @property
    def _data_dir(self) -> str:
        return typed_data_dir(self.runner.environment)

    def _report(self) -> dict[str, Outcome]:
        runner, outcomes = self.runner, self.runner.outcomes()
        write_results(
            runner.tasks, outcomes, runner.output, scale_name=self.scale_name, hardware=self.scale.hardware,
            data_dir=self._data_dir,
        )  # fmt: skip
        return outcomes

    def _tell(self, outcomes: Mapping[str, Outcome]) -> None:
        log.info("%s", counted(self.runner.tasks, outcomes, self.scale.hardware))
        for line in failures(outcomes):
            log.error("failed: %s", line)
        log.info("report: %s", self.runner.output / "report.html")
