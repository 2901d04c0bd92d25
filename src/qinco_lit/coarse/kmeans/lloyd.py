"""Centroids of the lists of an index: k-means of a file of vectors, in flat memory, resumable."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32

from qinco_lit.coarse.kmeans.nearest import ExactNearest, GroupedNearest, Nearest, squared_l2
from qinco_lit.coarse.kmeans.rows import CentredRows, VectorRows, Workers
from qinco_lit.coarse.kmeans.start import (
    START_ROWS_PER_LIST,
    GroupedStart,
    group_centres,
    num_groups,
    random_rows,
)
from qinco_lit.coarse.kmeans.state import Standing, StateFile
from qinco_lit.coarse.kmeans.update import ListSums
from qinco_lit.progress import Progress

log = logging.getLogger(__name__)

Method = Literal["exact", "grouped"]

# As many rows as faiss takes; small sets are used whole.
ROWS_PER_LIST, _SMALL_SET = 256, 1 << 20
# Multiplications and additions of all passes by brute force that are accepted: some minutes of two cores at 100 GFLOP/s
# each, some of a GPU at 30 TFLOP/s. Constants, so that the choice does not depend on the day.
_EXACT_FLOPS = {"cpu": 4e13, "cuda": 1e16}
_MAX_REFILLS = 10
# Assignment by groups may add this share to the mean squared error of a sample.
_MAX_EXCESS = 1e-3
_SAMPLE_ROWS = 2_048
_FIRST_PROBES = 4
_PIECE_ROWS = 1_024


@dataclass(frozen=True)
class KMeans:
    """What is computed: with the vectors and the kind of device it determines the centroids.

    Attributes:
        num_lists: centroids.
        num_rows: at most so many training rows, evenly spaced runs of them.
        method: exact: assignment by brute force from random rows. grouped: among the centroids of the nearest groups,
            from centroids that were found group by group.
        iterations: updates of all centroids, fewer when they gain little.
        min_gain: stop when an update lowers the mean squared error by a smaller share.
        seed: of the start and of how lists are split.
    """

    num_lists: int
    num_rows: int
    method: Method
    iterations: int = 10
    min_gain: float = 5e-4
    seed: int = 0


def default_rows(num_lists: int) -> int:
    """Training rows where nothing else is asked for: 256 a list, and a million in any case."""
    return max(ROWS_PER_LIST * num_lists, _SMALL_SET)


def choose_method(num_lists: int, num_rows: int, dim: int, iterations: int, device: torch.device) -> Method:
    """Brute force where all of its passes take some minutes, groups otherwise."""
    flops = 2.0 * num_lists * num_rows * dim * (iterations + 1)
    return "exact" if flops <= _EXACT_FLOPS[device.type] else "grouped"


def run_kmeans(
    vectors: VectorRows,
    options: KMeans,
    *,
    device: torch.device,
    num_threads: int,
    state: StateFile | None = None,
    progress: Progress | None = None,
) -> tuple[Float32[np.ndarray, "lists dim"], dict[str, Any]]:
    """k-means by Lloyd's algorithm; return the centroids in raw space, and what was measured.

    Rows are read in blocks of 16,384; each block is assigned by one thread, sums are in float64 and in the order of the
    blocks: the result does not depend on the number of threads, nor on interruptions. Lists without rows are
    refilled from the most populated ones; after the last iteration further passes (at most 10) do only that.

    Args:
        vectors: (n, dim), raw.
        options: what is computed.
        device: of the assignment.
        num_threads: on a CPU.
        state: file to keep the progress in; where it has some, the work goes on from there.
        progress: told of the rows done.

    Raises:
        ValueError: fewer rows than lists, a row with NaN or infinity, or a state of other work.
        OSError: no room for the state.
    """
    rows = CentredRows(vectors, options.num_rows)
    if rows.num_rows < options.num_lists:
        raise ValueError(f"{rows.num_rows} training rows for num_lists={options.num_lists}: give at least one for each")
    with Workers(num_threads, device) as workers:
        return _Training(rows, options, workers, state, progress or Progress(show=False)).run()


class _Training:
    def __init__(
        self, rows: CentredRows, options: KMeans, workers: Workers, file: StateFile | None, progress: Progress
    ) -> None:
        self._rows, self._options, self._workers, self._file, self._progress = rows, options, workers, file, progress

    def run(self) -> tuple[Float32[np.ndarray, "lists dim"], dict[str, Any]]:
        standing = None if self._file is None else self._file.load()
        if standing is not None:
            log.info("goes on after %d passes", len(standing.passes))
        else:
            log.info(
                "%s lists from %s rows, assigned %s on %s", f"{self._options.num_lists:,}", f"{self._rows.num_rows:,}",
                "by brute force" if self._options.method == "exact" else "through groups", self._workers,
            )  # fmt: skip
        if standing is None or standing.next_group is not None:
            standing = self._start(standing)
        while True:
            passed = self._pass(standing)
            if isinstance(passed, dict):
                return standing.centroids + self._rows.origin, passed
            standing = passed
            self._save(standing)

    def _start(self, standing: Standing | None) -> Standing:
        options, rows = self._options, self._rows
        if options.method == "exact":
            return Standing(random_rows(rows, options.num_lists, np.random.default_rng((options.seed, 0))))
        began = time.perf_counter()
        some = rows.fewer(START_ROWS_PER_LIST * options.num_lists)
        start = GroupedStart(some, options.num_lists, self._workers, options.seed, self._progress)
        if standing is None or standing.next_group is None:
            standing = Standing(np.empty((0, rows.dim), np.float32), next_group=0)
        for next_group, found in start.parts(standing.next_group or 0):
            standing = replace(standing, centroids=np.concatenate([standing.centroids, found]), next_group=next_group)
            self._save(standing)
        log.info("%s centroids from groups of rows, in %.0f s", f"{options.num_lists:,}", time.perf_counter() - began)
        standing = replace(standing, next_group=None)
        self._save(standing)
        return standing

    def _pass(self, standing: Standing) -> Standing | dict[str, Any]:
        """Assign all rows; return what was measured when these are the centroids, otherwise the next ones."""
        began = time.perf_counter()
        options, done = self._options, len(standing.passes)
        self._progress.start(f"pass {done + 1}", self._rows.num_rows, unit="rows")
        nearest, probes = self._nearest(standing.centroids)
        sums = ListSums(options.num_lists, self._rows.dim)
        for x, lists in self._workers.in_order(nearest, self._rows.blocks()):
            sums.add(x, lists)
            self._progress.advance(len(x))
        measured: dict[str, Any] = {"mean_squared_error": sums.mean_error(standing.centroids), **probes}
        measured |= {"imbalance": sums.imbalance(), "empty_lists": int((sums.counts == 0).sum())}
        rng = np.random.default_rng((options.seed, 3, done))
        finished = standing.refills > 0 or done >= options.iterations or self._gained_little(standing, measured)
        if finished and (measured["empty_lists"] == 0 or standing.refills == _MAX_REFILLS):
            return self._finish([*standing.passes, measured | {"refilled": 0, "seconds": _since(began)}])
        centroids, refilled = (sums.refill if finished else sums.means)(standing.centroids, rng)
        measured |= {"refilled": refilled, "seconds": _since(began)}
        passes = [*standing.passes, measured]
        _say(passes, options.iterations)
        if finished and refilled == 0:
            return self._finish(passes)
        return replace(standing, centroids=centroids, passes=passes, refills=standing.refills + finished)

    def _gained_little(self, standing: Standing, measured: Mapping[str, Any]) -> bool:
        if not standing.passes:
            return False
        before = standing.passes[-1]["mean_squared_error"]
        return bool(before - measured["mean_squared_error"] < self._options.min_gain * before)

    def _finish(self, passes: list[dict[str, Any]]) -> dict[str, Any]:
        last = passes[-1]
        if last["empty_lists"]:
            log.warning(
                "%s lists have no training rows: are there fewer different rows than lists?", last["empty_lists"]
            )
        names = ("mean_squared_error", "imbalance", "empty_lists")
        return {
            "training_rows": self._rows.num_rows,
            "passes": passes,
            "refilled": sum(one["refilled"] for one in passes),
            **{name: last[name] for name in names},
        }

    def _nearest(self, centroids: Float32[np.ndarray, "lists dim"]) -> tuple[Nearest, dict[str, Any]]:
        """Assignment to these centroids, and how it was found to be good enough."""
        device = self._workers.device
        exact = ExactNearest(centroids, device)
        if self._options.method == "exact":
            return exact, {}
        rng = np.random.default_rng((self._options.seed, 4))
        centres = group_centres(centroids, num_groups(len(centroids)), device, rng)
        members = self._assign(ExactNearest(centres, device), centroids)
        grouped = GroupedNearest(centroids, centres, members, device)
        sample = self._rows.spread(_SAMPLE_ROWS)
        best = float(squared_l2(sample, centroids, self._assign(exact, sample)).mean())
        grouped.num_probes = min(_FIRST_PROBES, grouped.num_groups)
        while True:
            found = float(squared_l2(sample, centroids, self._assign(grouped, sample)).mean())
            if found <= (1 + _MAX_EXCESS) * best or grouped.num_probes == grouped.num_groups:
                excess = 0.0 if best == 0 else max(0.0, found / best - 1)
                return grouped, {"num_probes": grouped.num_probes, "excess": excess}
            grouped.num_probes = min(2 * grouped.num_probes, grouped.num_groups)

    def _assign(self, nearest: Nearest, x: Float32[np.ndarray, "rows dim"]) -> np.ndarray:
        """Lists of rows in memory."""
        pieces = np.split(x, range(_PIECE_ROWS, len(x), _PIECE_ROWS))
        return np.concatenate([lists for _, lists in self._workers.in_order(nearest, pieces)])

    def _save(self, standing: Standing) -> None:
        if self._file is not None:
            self._file.save(standing)


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 3)


def _say(passes: list[dict[str, Any]], iterations: int) -> None:
    now = passes[-1]
    gain = ""
    if len(passes) > 1 and (before := passes[-2]["mean_squared_error"]) > 0:
        gain = f" ({100 * (now['mean_squared_error'] / before - 1):+.2f} %)"
    log.info(
        "pass %d of at most %d: mean squared error %.6g%s, imbalance %.2f, %s lists refilled, %.1f s",
        len(passes), iterations + 1, now["mean_squared_error"], gain, now["imbalance"], f"{now['refilled']:,}",
        now["seconds"],
    )  # fmt: skip
