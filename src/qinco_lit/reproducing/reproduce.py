"""The experiments of a scale in a folder: listed, run here or submitted, and reported."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qinco_lit.locks import locked
from qinco_lit.reproducing.folder import QINCO, Outcome
from qinco_lit.reproducing.results import RESULTS, counted, failures, listed, typed_data_dir, write_results
from qinco_lit.reproducing.runner import Runner, Stop
from qinco_lit.reproducing.scale import read_scale
from qinco_lit.reproducing.slurm import SlurmOptions, submit
from qinco_lit.reproducing.tasks import choose, expand

log = logging.getLogger(__name__)

# The options of a data set -> how to get it, in one line; None where it is there or makes itself.
FindMissing = Callable[[Sequence[str]], str | None]


class Reproduction:
    """A scale whose tasks are run in a folder, by `runner`; nothing is written before `run` or `submit`.

    Args:
        scale: data sets, methods, experiments (conf/scale, `Scale`).
        output: folder of all tasks.
        scale_name: in results and report.
        only: words that choose tasks (`choose`).
        find_missing: is asked about the options of each data set; nothing is ever downloaded.
        environment: variables of every task, in addition to this process's.
        program: what `qinco` is; None: this one.

    Raises:
        ValueError: an impossible scale or choice.
    """

    def __init__(
        self, scale: Mapping[str, Any], output: Path, *, scale_name: str, only: Sequence[str] = (),
        find_missing: FindMissing = lambda _: None, environment: Mapping[str, str] | None = None,
        program: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        described = read_scale(scale)
        tasks = expand(described)
        chosen = choose(tasks, only)
        needed = {task.dataset for task in tasks if task.name in chosen}
        found = {name: find_missing(data.options) for name, data in described.datasets.items() if name in needed}
        missing = {name: how for name, how in found.items() if how is not None}
        self.runner = Runner(tasks, output, chosen, missing, program or QINCO, environment or {})
        self._scale_name, self._hardware = scale_name, described.hardware
        self._data_dir = typed_data_dir(self.runner.environment)

    def missing(self) -> dict[str, str]:
        """Return which data sets keep tasks from running, and how to get each."""
        outcomes, runner = self.runner.outcomes(), self.runner
        waiting = {task.dataset for task in runner.tasks if outcomes[task.name].state == "missing_data"}
        return {name: runner.missing[name] for name in sorted(waiting)}

    def listing(self) -> str:
        """Return every task with its state and its command line, for a shell."""
        runner = self.runner
        return listed(runner.tasks, runner.outcomes(), runner.output, self._hardware, self._data_dir)

    def run(self) -> dict[str, Outcome]:
        """Run the chosen tasks that are not done, one after the other; write `results.json` and the report.

        Raises:
            KeyboardInterrupt: SIGINT or SIGTERM; the running task saved what it could, results and report are written.
        """
        stop = Stop()

        def run() -> None:
            with stop.on_signals():
                self.runner.run(stop)

        outcomes = self._reported(run)
        if stop():
            raise KeyboardInterrupt
        return outcomes

    def submit(self, slurm: SlurmOptions, overrides: Sequence[str] = ()) -> dict[str, Outcome]:
        """Submit them to a cluster instead (`slurm.submit`) and return."""
        return self._reported(lambda: submit(self.runner, slurm, overrides))

    def _reported(self, work: Callable[[], object]) -> dict[str, Outcome]:
        tasks, output = self.runner.tasks, self.runner.output
        about = {"scale_name": self._scale_name, "hardware": self._hardware, "data_dir": self._data_dir}
        try:
            work()
        finally:
            # looked at and written by one call at a time: what is written last is what was seen last
            with locked(output / f".{RESULTS}.lock", busy=f"{output}: another call writes its report", wait=True):
                outcomes = self.runner.outcomes()
                write_results(tasks, outcomes, output, **about)
        log.info("%s", counted(tasks, outcomes, self._hardware))
        for line in failures(outcomes):
            log.error("failed: %s", line)
        log.info("report: %s", output / "report.html")
        return outcomes
