"""How fast a model encodes, decodes and trains on this machine: a few seconds each, by turns."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Trainer

from qinco_lit.arrays import AssignLists
from qinco_lit.coarse.assignment import FrozenLists
from qinco_lit.codec import Codec
from qinco_lit.quantizers import Quantizer
from qinco_lit.quantizers.beam import Search
from qinco_lit.quantizers.precision import precision_for
from qinco_lit.quantizers.workers import on_one_core
from qinco_lit.training.module import QuantizerTraining
from qinco_lit.training.recipe import Recipe
from qinco_lit.training.replay import Replay, Searched
from qinco_lit.training.trainer import trains_in_bfloat16
from qinco_lit.vectors import VectorFile

MIN_REPEATS = 3
_CALLS_PER_BUDGET = 4  # calls grow until they take such a part of the time there is
_MAX_GROWTH = 8
_READ_ROWS = 16_384


@dataclass(frozen=True)
class Work:
    """What is measured: `run(rows)` does it for so many rows, from `first` to `most`, in multiples of `first`."""

    run: Callable[[int], None]
    first: int
    most: int


@dataclass(frozen=True)
class Throughput:
    """Calls with the same number of rows.

    Attributes:
        rows: of a call.
        call_s: seconds of each call.
        row_s: seconds that a row costs, by each call; for training, in a batch of the recipe's size.
    """

    rows: int
    call_s: tuple[float, ...]
    row_s: tuple[float, ...]

    @property
    def vectors_per_s(self) -> float:
        """By the median call."""
        return 1 / statistics.median(self.row_s)

    @property
    def spread(self) -> tuple[float, float]:
        """Vectors per second of the slowest call and of the fastest."""
        return 1 / max(self.row_s), 1 / min(self.row_s)

    @property
    def variation(self) -> float:
        """By which share the rate of the slowest call is below the fastest one's, without a tenth of them at each end.

        One call in ten is disturbed on a quiet machine, too.
        """
        ends = len(self.row_s) // 10
        ordered = sorted(self.row_s)[ends : len(self.row_s) - ends]
        return 1 - ordered[0] / ordered[-1]

    def ratio(self, other: "Throughput") -> float:
        """Time of a row against the other's: the median over the turns, which both took side by side."""
        return statistics.median(a / b for a, b in zip(self.row_s, other.row_s, strict=True))

    def mixed(self, other: "Throughput", share: float) -> "Throughput":
        """Where that share of the rows costs what the other's do; turn by turn, which both took side by side."""
        rows = zip(self.row_s, other.row_s, strict=True)
        return replace(self, row_s=tuple((1 - share) * own + share * its for own, its in rows))

    def for_batches(self, batch_size: int, fixed_s: float) -> "Throughput":
        """The same where each call is a training step of which `fixed_s` does not depend on its rows."""
        steps = [fixed_s + max(taken - fixed_s, 0.0) * batch_size / self.rows for taken in self.call_s]
        return replace(self, row_s=tuple(step / batch_size for step in steps))


def time_by_turns(works: Mapping[str, Work], seconds: float, device: torch.device) -> dict[str, Throughput]:
    """Time all works in `seconds` each or, where MIN_REPEATS calls with the fewest rows take longer, in those.

    They take turns, so that what else the machine does meets all of them, and ratios say more than single figures. A
    first call with one row warms up; then the rows of a call grow until it takes a quarter of the time there is.
    """
    rows = {name: _rows_of_a_call(work, seconds, device) for name, work in works.items()}
    taken: dict[str, list[float]] = {name: [] for name in works}
    began, rounds = time.perf_counter(), 0
    while rounds < MIN_REPEATS or time.perf_counter() - began < seconds * len(works):
        for name, work in works.items():
            taken[name].append(_seconds(work, rows[name], device))
        rounds += 1
    return {
        name: Throughput(rows[name], tuple(calls), tuple(call / rows[name] for call in calls))
        for name, calls in taken.items()
    }


def _rows_of_a_call(work: Work, seconds: float, device: torch.device) -> int:
    _seconds(work, 1, device)
    rows, target = min(work.first, work.most), seconds / _CALLS_PER_BUDGET
    while rows < work.most:
        taken = min(_seconds(work, rows, device) for _ in range(2))  # of which one may have been disturbed
        if taken >= 0.7 * target:
            break
        growth = max(2, min(_MAX_GROWTH, int(target / max(taken, 1e-9))))
        rows = min(rows * growth, work.most)
    return rows


def _seconds(work: Work, rows: int, device: torch.device) -> float:
    _synchronize(device)
    began = time.perf_counter()
    work.run(rows)
    _synchronize(device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def encoding(
    codec: Codec, rows: Shaped[np.ndarray, "n dim"], search: Search, assign_lists: AssignLists | None = None
) -> Work:
    """Encode rows by a search, from main memory to main memory, as `qinco encode` does."""
    options: dict[str, Any] = {**search.record()}

    def run(num_rows: int) -> None:
        list_ids = None if assign_lists is None else assign_lists(torch.from_numpy(rows[:num_rows]))
        codec.encode(rows[:num_rows], list_ids=list_ids, **options)

    chunk = codec.quantizer.searched_rows(search, codec.workspace_bytes)
    return Work(run, min(chunk, len(rows)), len(rows))


def decoding(codec: Codec, num_rows: int, generator: np.random.Generator) -> Work:
    """Decode random codes."""
    shape = (num_rows, codec.num_steps)
    codes = generator.integers(codec.codebook_size, size=shape).astype(codec.code_dtype)
    if codec.num_lists is None:
        return Work(lambda n: codec.decode(codes[:n]), min(1024, num_rows), num_rows)
    ids = generator.integers(codec.num_lists, size=num_rows, dtype=np.int32)
    return Work(lambda n: codec.decode(codes[:n], list_ids=ids[:n]), min(1024, num_rows), num_rows)


class TrainingSteps:
    """Training steps as `qinco train` does them, on rows in memory, with a learning rate that changes nothing.

    Args:
        quantizer: initialised; it is taken over.
        recipe: how it is trained.
        rows: at least a batch.
        device: to train on.
        lists: of an IVF model; None: it has its centroids, and assigns by brute force.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        recipe: Recipe,
        rows: Shaped[np.ndarray, "n dim"],
        device: torch.device,
        lists: FrozenLists | None = None,
    ) -> None:
        # the time does not depend on the weights, and those of an untrained model would diverge
        # which search is narrow is asked for by `by`
        self._recipe, self._device = replace(recipe, lr=1e-12, narrow_share=0), device
        self._quantizer = quantizer.train().requires_grad_(True)
        self._module = QuantizerTraining(quantizer, self._recipe, start=lambda *_: None, seed=0, lists=lists).to(device)
        if recipe.replay_after:
            self._module.replay = _Again(recipe.replay_after)
        self._module.trainer = _trainer(device)
        self._module.setup("validate")  # moves the statistics; the model has been initialised
        chosen = self._module.configure_optimizers()
        self._optimizer: torch.optim.Optimizer = chosen["optimizer"] if isinstance(chosen, dict) else chosen
        self._rows = torch.from_numpy(rows)

    def by(self, search: Search) -> Work:
        """Steps that find their codes by a search."""

        def step(num_rows: int) -> None:
            self._quantizer.default_search = search
            self._optimizer.zero_grad()
            batch = self._rows[:num_rows].to(self._device)
            bfloat16 = trains_in_bfloat16(on_gpu=self._device.type == "cuda")
            with torch.autocast(self._device.type, torch.bfloat16, enabled=bfloat16):
                loss = self._module.training_step(batch, 0)
            torch.autograd.backward(loss)
            self._update()

        def run(num_rows: int) -> None:
            on_one_core(partial(step, num_rows), self._device)

        chunk = self._quantizer.searched_rows(search, None)
        return Work(run, min(chunk, self._recipe.batch_size), self._recipe.batch_size)

    def fixed_s(self) -> float:
        """Seconds of a step that do not depend on its rows: the tables of the new weights, and their update."""

        def step() -> None:
            with torch.no_grad():
                self._quantizer.tables(precision_for(self._recipe.search_precision, self._device))
            self._update()

        def run(_: int) -> None:
            on_one_core(step, self._device)

        work = Work(run, 1, 1)
        return statistics.median(_seconds(work, 1, self._device) for _ in range(MIN_REPEATS))

    def _update(self) -> None:
        self._module.configure_gradient_clipping(self._optimizer)
        self._optimizer.step()


class _Again(Replay):
    """Every batch comes back at once: as many rows as those that come later, whatever was timed before."""

    def exchange(self, searched: Searched) -> Searched:
        return searched


def _trainer(device: torch.device) -> Trainer:
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1 if device.index is None else [device.index],
        plugins=[LightningEnvironment()],  # this process alone, whatever cluster it runs on
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def reading_per_s(vectors: VectorFile, seconds: float) -> float:
    """Rows per second that are read in order, after the first ones; whether from disk or its cache is not known."""
    began, rows = time.perf_counter(), 0
    for start in range(0, len(vectors), _READ_ROWS):
        rows += len(vectors[start : start + _READ_ROWS])
        if time.perf_counter() - began > seconds:
            break
    return rows / (time.perf_counter() - began)
