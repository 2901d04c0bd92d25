"""What is a GPU worth: how fast does it encode, decode, train and search, and where does the time go?

    .venv/bin/python benchmarks/gpu.py [--minutes 5] [--output outputs/gpu/gpu.json]
    .venv/bin/python benchmarks/gpu.py --device cpu --small

At the sizes of conf/model/qinco2_{s,m,l}.yaml, with random weights and vectors of dimension 128: ours against the
straightforward implementation at its best batch size, on the same card and by turns; medians over the rounds after a
warm-up. `agreement` is the share of equal codes or results; of reconstructions the largest difference, in standard
deviations; of a training step that of the loss in float32, relative. Searches share all but the full decoder. Every
part of every model has its share of the minutes that are left; what does not fit is left out and named. One table, one
JSON with the profile of each: the ten kernels (on a CPU: operations) that take the most time.
"""

import argparse
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn

import decode as decoding
import encode as encoding
import numpy as np
import straightforward
import torch
import training_step as training
from measuring import machine, median_ratio, rounds, seconds
from rich.console import Console
from rich.table import Table
from subjects import Subject, random_quantizer, random_subject
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from qinco_lit import Codec
from qinco_lit.atomic import write_atomically
from qinco_lit.quantizers import build_quantizer
from qinco_lit.quantizers.precision import precision_for
from qinco_lit.search.decoders.additive import AdditiveDecoder
from qinco_lit.search.index.bundle import Bundle
from qinco_lit.search.index.faiss_index import add_codes, empty_index
from qinco_lit.search.rerank import Decode
from qinco_lit.search.searcher import Searcher
from qinco_lit.training.trainer import quiet_lightning

Run = Callable[[], Any]
MAX_REPEATS, LISTS, NEIGHBOURS, TOP = 5, 256, 10, 10
LEAST_S = 2.0  # with less time left, nothing is begun


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    models: tuple[str, ...] = ("S", "M", "L")
    dim: int = 128
    num_steps: int = 8
    breadth: tuple[int, int] = (16, 32)
    encoded: int = 20_000
    decoded: int = 200_000
    batch_size: int = 1024
    database: int = 100_000
    queries: int = 1000
    plain_batch: int = 16_384


SMALL = Sizes(("S",), 8, 3, (2, 2), 16, 64, 16, 300, 4, 64)


@dataclass(frozen=True)
class Cell:
    """What is compared: two ways to do the same `number` of things, the straightforward one first."""

    number: int
    unit: str
    precision: str
    plain: Run
    ours: Run
    agreement: Callable[[], float]


@dataclass(frozen=True)
class Measured:
    """A line of the table, and the profile behind it."""

    model: str
    part: str
    precision: str
    number: int
    unit: str
    straightforward_per_s: float
    ours_per_s: float
    ratio: float
    agreement: float
    profile: list[dict[str, Any]]


def encode_cell(subject: Subject, sizes: Sizes, share_s: float) -> Cell:
    options: Any = SimpleNamespace(rows=None if len(subject.vectors) > 1000 else len(subject.vectors), seconds=share_s)
    plain = encoding.Plain(subject, sizes.breadth, options)
    codec, (num_candidates, beam_size) = Codec(subject.quantizer), sizes.breadth
    ours = partial(codec.encode, plain.x, num_candidates=num_candidates, beam_size=beam_size)
    return Cell(
        len(plain.x), "vectors", codec.precision, partial(plain.encode, plain.x), ours,
        lambda: float((ours().long() == plain.encode(plain.x)).double().mean()),
    )  # fmt: skip


def decode_cell(subject: Subject, sizes: Sizes, share_s: float) -> Cell:  # noqa: ARG001
    codes, codec = decoding.some_codes(subject, sizes.decoded), Codec(subject.quantizer)
    batch_size = decoding.best_batch(subject, codes)
    plain = partial(straightforward.decode, subject.quantizer, codes, batch_size=batch_size)
    ours = partial(codec.decode, codes)

    def difference() -> float:
        return float((ours() - plain()).abs().max() / subject.quantizer.data_std[0])

    return Cell(len(codes), "vectors", codec.precision, plain, ours, difference)


def training_cell(subject: Subject, sizes: Sizes, share_s: float) -> Cell:  # noqa: ARG001
    # a rate that changes nothing: random weights would diverge at the recipe's
    recipe = replace(training.tuned_recipe(), lr=1e-12)
    model, other = (training.with_search(subject.quantizer, training.breadth_options(sizes.breadth)) for _ in range(2))
    ours = training.Ours(model, recipe, batches(subject, sizes))
    plain = training.Plain(other, sizes.breadth, recipe, batches(subject, sizes))
    searched = precision_for(recipe.search_precision, subject.vectors.device).name
    precision = f"{searched}, {'bf16-mixed' if subject.vectors.is_cuda else '32-true'}"

    @torch.no_grad()
    def difference() -> float:
        x = model.normalize(subject.vectors[: sizes.batch_size])
        codes = model.encode(x)
        losses = model(x, codes)
        expected = straightforward.loss(model, x, codes)
        return abs(float(losses.reconstruction.sum() + losses.preselector.sum()) / float(expected) - 1)

    return Cell(sizes.batch_size, "vectors", precision, plain.step, ours.step, difference)


def batches(subject: Subject, sizes: Sizes) -> Iterator[torch.Tensor]:
    while True:
        yield from (part for part in torch.split(subject.training_vectors, sizes.batch_size))


class PlainSearcher(Searcher):
    """The same shortlists, decoded by the straightforward network."""

    batch_size: int

    def _decoding(self, codec: Codec) -> Decode:
        def decode(codes: np.ndarray, list_ids: np.ndarray) -> np.ndarray:
            own, lists = (torch.from_numpy(each.astype(np.int64)).to(codec.device) for each in (codes, list_ids))
            x_hat = straightforward.decode(codec.quantizer, own, batch_size=self.batch_size, list_ids=lists)
            return np.asarray(x_hat.cpu().numpy())

        return decode


def search_cell(subject: Subject, sizes: Sizes, share_s: float) -> Cell:  # noqa: ARG001
    device = subject.vectors.device
    queries = np.asarray(subject.vectors[: sizes.queries].cpu().numpy())
    ours = Searcher(random_bundle(subject.name, sizes, device))
    plain = PlainSearcher(random_bundle(subject.name, sizes, device), precision="float32")
    plain.batch_size = sizes.plain_batch
    ours_run, plain_run = (partial(searcher.search, queries, NEIGHBOURS) for searcher in (ours, plain))
    return Cell(
        len(queries), "queries", ours.precision, plain_run, ours_run,
        lambda: float((ours_run()[1] == plain_run()[1]).mean()),
    )  # fmt: skip


@torch.no_grad()
def random_bundle(model: str, sizes: Sizes, device: torch.device) -> Bundle:
    """An index of random codes: what a search costs does not depend on what they say."""
    plain = random_quantizer(model, sizes.dim, sizes.num_steps + 1, torch.Generator().manual_seed(0))
    quantizer = build_quantizer(sizes.dim, **{**plain.config, "num_steps": sizes.num_steps, "num_lists": LISTS})
    state = plain.state_dict()
    state["coarse_centroids"] = state.pop("parts.0.first_codebook")
    quantizer.load_state_dict(state)
    codec = Codec(quantizer.to(device))
    codebooks = np.stack([step.codebook.cpu().numpy() for step in quantizer.parts[0].residual_steps()])
    centroids = codec.coarse_centroids
    assert centroids is not None
    generator, size = np.random.default_rng(0), codec.codebook_size
    index = empty_index(centroids, codebooks, (0.0, 4.0 * sizes.dim), metric="l2")
    list_ids = generator.integers(LISTS, size=sizes.database, dtype=np.int32)
    codes = generator.integers(size, size=(sizes.database, sizes.num_steps), dtype=np.uint8)
    add_codes(index, list_ids, codes, np.arange(sizes.database))
    config = {"encoder": quantizer.default_search.record()}
    return Bundle(codec, index, AdditiveDecoder(codebooks), None, "l2", config)


PARTS: dict[str, Callable[[Subject, Sizes, float], Cell]] = {
    "encode": encode_cell,
    "decode": decode_cell,
    "training step": training_cell,
    "search": search_cell,
}


def measure(model: str, part: str, sizes: Sizes, device: torch.device, limit_s: float) -> Measured:
    """A cell, in about the time that it may take."""
    began = time.perf_counter()
    rows = max(sizes.encoded, sizes.queries, sizes.batch_size)
    subject = random_subject(model, sizes.dim, sizes.num_steps, device, rows, 4 * sizes.batch_size)
    cell = PARTS[part](subject, sizes, limit_s / 80)  # its best batch size is looked for in some forty runs
    once_s = sum(seconds(run, device)[0] for run in (cell.plain, cell.ours))
    left_s = limit_s - (time.perf_counter() - began) - 3 * once_s  # warm-up, agreement and profile
    repeats = max(1, min(MAX_REPEATS, int(left_s / max(once_s, 1e-9))))
    _, times = rounds({"plain": cell.plain, "ours": cell.ours}, repeats, device)
    per_s = {name: cell.number / statistics.median(taken) for name, taken in times.items()}
    return Measured(
        model, part, cell.precision, cell.number, cell.unit, per_s["plain"], per_s["ours"],
        median_ratio(times["plain"], times["ours"]), cell.agreement(), profiled(cell.ours, device),
    )  # fmt: skip


def profiled(run: Run, device: torch.device) -> list[dict[str, Any]]:
    """What takes the most time of a run, the most expensive first."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
    wanted, taken = (DeviceType.CUDA, "self_device_time_total") if on_gpu else (DeviceType.CPU, "self_cpu_time_total")
    events = [event for event in profiler.key_averages() if event.device_type == wanted]
    whole = sum(getattr(event, taken) for event in events) or 1.0
    events.sort(key=lambda event: -getattr(event, taken))
    return [
        {
            "name": event.key,
            "calls": event.count,
            "time_us": getattr(event, taken),
            "share": getattr(event, taken) / whole,
        }
        for event in events[:TOP]
    ]


@contextmanager
def at_most(limit_s: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        raise TimeoutError(f"it took more than {limit_s:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def all_cells(sizes: Sizes, device: torch.device, minutes: float) -> tuple[list[Measured], list[dict[str, str]]]:
    """What could be measured in the time, and what could not."""
    deadline = time.perf_counter() + 60 * minutes
    wanted = [(model, part) for model in sizes.models for part in PARTS]
    measured: list[Measured] = []
    left_out: list[dict[str, str]] = []
    for place, (model, part) in enumerate(wanted):
        left_s = deadline - time.perf_counter()
        share_s = left_s / (len(wanted) - place)
        try:
            if share_s < LEAST_S:
                raise TimeoutError(f"the {minutes:g} minutes were over")
            with at_most(min(left_s, 3 * share_s)):
                measured.append(measure(model, part, sizes, device, share_s))
        except (TimeoutError, torch.cuda.OutOfMemoryError) as error:
            left_out.append({"model": model, "part": part, "reason": str(error).splitlines()[0]})
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return measured, left_out


def table(title: str, measured: list[Measured]) -> Table:
    made = Table(title=title, title_justify="left")
    for column in ("model", "part", "precision"):
        made.add_column(column)
    for column in ("straightforward, /s", "ours, /s", "ratio", "agreement"):
        made.add_column(column, justify="right")
    made.add_column("most of our time")
    for row in measured:
        first = row.profile[0] if row.profile else {"share": 0.0, "name": ""}
        made.add_row(
            row.model, f"{row.part}, {row.number:,} {row.unit}", row.precision, f"{row.straightforward_per_s:,.0f}",
            f"{row.ours_per_s:,.0f}", f"{row.ratio:.2f}", f"{row.agreement:.4g}",
            f"{first['share']:.0%} {first['name'][:40]}",
        )  # fmt: skip
    return made


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (default) or cpu")
    parser.add_argument("--small", action="store_true", help="tiny sizes: does all of it work?")
    parser.add_argument("--minutes", type=float, default=5.0, help="at most, for all of it")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu/gpu.json"))
    return parser.parse_args()


def main() -> None:
    options = parsed()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch sees no CUDA device here; --device cpu --small tries the code", file=sys.stderr)
        sys.exit(2)
    quiet_lightning()
    sizes, where = SMALL if options.small else Sizes(), machine(device)
    measured, left_out = all_cells(sizes, device, options.minutes)
    Console(width=None if sys.stdout.isatty() else 160).print(table(where, measured))
    for gap in left_out:
        print(f"left out: {gap['model']} {gap['part']}: {gap['reason']}")
    record = {
        "format": "qinco_lit benchmarks/gpu.py",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": where,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "minutes": options.minutes,
        "sizes": asdict(sizes),
        "cells": [asdict(row) for row in measured],
        "left_out": left_out,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, json.dumps(record, indent=2) + "\n")
    print(options.output)


if __name__ == "__main__":
    main()
