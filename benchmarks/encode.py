"""How much faster is the encoding engine than a straightforward implementation of the same search?

    .venv/bin/python benchmarks/encode.py [--codec RUN_DIR/codec]
    .venv/bin/python benchmarks/encode.py --models M L --dims 96 128 --breadths 16,32 --precision auto fast
    .venv/bin/python benchmarks/encode.py --models QINCo1 --device cuda
    .venv/bin/python benchmarks/encode.py --all

The same weights and vectors in one run: each round runs the straightforward implementation, at its best batch size, and
then ours in every precision; medians over the rounds. Sizes that no codec is given for have random weights and standard
normal vectors. GFLOP/s counts the matrix products that the factored search needs, each candidate once (`screened`
evaluates some twice). At A=16, B=32 also budget searches, against that search's straightforward implementation. QINCo1
tries all codewords with one hypothesis, and fewer where a pre-selector can be fitted.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import straightforward
import torch
from measuring import best_size, heading, line, machine, matrix_peak, median_ratio, powers_of_two, rounds, seconds
from subjects import (
    MODELS,
    Pair,
    Subject,
    add_options,
    device_of,
    name_of,
    pair,
    random_subject,
    trained,
    trained_subject,
)
from torch import Tensor

from qinco_lit import Codec
from qinco_lit.quantizers import Quantizer
from qinco_lit.quantizers.beam import Search
from qinco_lit.quantizers.precision import PRECISIONS, precision_for

BREADTHS = [(4, 4), (8, 8), (16, 32), (32, 64)]
BUDGETS = [(96, 48), (84, 42), (128, 32)]
BUDGET_BASELINE = (16, 32)
QINCO1_CANDIDATES = (8, 16, 24, 32)
MAX_ROWS, FITTING_ROWS = 20_000, 2_000
MAX_CANDIDATE_ROWS = {"cpu": 1 << 16, "cuda": 1 << 22}  # of the straightforward network in one batch


class Peaks(NamedTuple):
    """Floating-point operations per second of the machine's matrix products."""

    float32: float
    bfloat16: float


@dataclass(frozen=True)
class Variant:
    """One way of ours to encode."""

    search: str
    precision: str
    encode: Callable[[Tensor], Tensor]
    flops: int

    @property
    def name(self) -> str:
        """Unique in a cell."""
        return f"{self.search}, {self.precision}"


def useful_flops(quantizer: Quantizer, search: Search) -> int:
    """Operations of the matrix products for one vector: nothing twice that candidates or hypotheses share."""
    return 2 * quantizer.encode_multiplications(search)


def ours(codec: Codec, label: str, precision: str, **breadth: int) -> Variant:
    if codec.precision != precision:
        precision = f"{precision} ({codec.precision})"

    def encode(x: Tensor) -> Tensor:
        codes: Tensor = codec.encode(x, **breadth)
        return codes.long()

    return Variant(label, precision, encode, useful_flops(codec.quantizer, codec.quantizer.search_for(**breadth)))


def distinct(names: list[str], device: torch.device) -> list[str]:
    """Without the names that are another's precision on this device."""
    found = {precision_for(name, device).name: name for name in reversed(names)}
    return [name for name in names if name in found.values()]


def variants(subject: Subject, breadth: Pair, options: argparse.Namespace) -> Iterator[Variant]:
    """What runs beside the straightforward search of this breadth."""
    device = subject.vectors.device

    def codec(precision: str) -> Codec:
        return Codec(subject.quantizer, precision=precision)

    num_candidates, beam_size = breadth
    label = f"A={num_candidates or 'all'}, B={beam_size}"
    for precision in distinct(options.precision, device):
        yield ours(codec(precision), label, precision, num_candidates=num_candidates, beam_size=beam_size)
    if breadth == BUDGET_BASELINE:
        for budget, beam in options.budgets:
            for precision in distinct(options.budget_precision, device):
                yield ours(
                    codec(precision), f"T={budget}, B={beam}", precision, candidate_budget=budget, beam_size=beam
                )


def fitted_variants(subject: Subject, options: argparse.Namespace) -> Iterator[Variant]:
    """QINCo1 with a pre-selector that is fitted after training."""
    Codec(subject.quantizer).fit_preselector(subject.training_vectors)  # also where training learned one
    for precision in distinct(options.precision, subject.vectors.device):
        codec = Codec(subject.quantizer, precision=precision)
        for number in QINCO1_CANDIDATES:
            yield ours(codec, f"A={number} (fitted), B=1", precision, num_candidates=number, beam_size=1)


class Plain:
    """The straightforward implementation at its best batch size, and how many rows it encodes in the time wanted."""

    def __init__(self, subject: Subject, breadth: Pair, options: argparse.Namespace) -> None:
        self.quantizer, self.breadth, self.device = subject.quantizer, breadth, subject.vectors.device
        self.pairs = breadth[1] * (breadth[0] or self.quantizer.codebook_size)
        self.batch_size = max(1, MAX_CANDIDATE_ROWS[self.device.type] // 32 // self.pairs)
        x = subject.vectors
        self.encode(x[: self.batch_size])
        wanted = options.rows or self._rows_in(x, options.seconds)
        self.x = x[: max(2, wanted)]
        sample = self.x if x.is_cuda else self.x[: max(2, len(self.x) // 4)]  # a GPU is in no hurry
        largest = min(len(sample), MAX_CANDIDATE_ROWS[self.device.type] // self.pairs)
        self.batch_size = best_size(lambda size: self._rate(sample, size), powers_of_two(256 // self.pairs, largest))

    def encode(self, x: Tensor) -> Tensor:
        """Codes of raw vectors."""
        num_candidates, beam_size = self.breadth
        return straightforward.encode(
            self.quantizer,
            self.quantizer.normalize(x),
            num_candidates=num_candidates,
            beam_size=beam_size,
            batch_size=self.batch_size,
        )

    def _rate(self, x: Tensor, batch_size: int) -> float:
        self.batch_size = batch_size
        self.encode(x[:batch_size])
        return len(x) / min(seconds(lambda: self.encode(x), self.device)[0] for _ in range(2))

    def _rows_in(self, x: Tensor, wanted_s: float) -> int:
        sample = x[: self.batch_size]
        taken_s, _ = seconds(partial(self.encode, sample), self.device)
        while taken_s < wanted_s / 20 and len(sample) < len(x):
            sample = x[: 4 * len(sample)]
            taken_s, _ = seconds(partial(self.encode, sample), self.device)
        return int(min(len(x), len(sample) * wanted_s / taken_s))


def mse(subject: Subject, x: Tensor, codes: Tensor) -> float:
    """Raw space, sum over dimensions."""
    x_hat = straightforward.decode(subject.quantizer, codes, batch_size=2048)
    return float((x_hat - x).square().sum(1).double().mean())


def measure(subject: Subject, breadth: Pair, options: argparse.Namespace, peaks: Peaks) -> None:
    """One straightforward search and all that runs beside it: some lines of the table."""
    plain = Plain(subject, breadth, options)
    x = plain.x
    beside = list(variants(subject, breadth, options))
    if subject.name == "QINCo1":
        beside += fitted_variants(subject, options)
    runs: dict[str, Callable[[], Tensor]] = {"": partial(plain.encode, x)}
    runs |= {variant.name: partial(variant.encode, x) for variant in beside}
    found, times = rounds(runs, options.repeats, x.device)
    expected, expected_mse = found[""], mse(subject, x, found[""])
    plain_rate = len(x) / statistics.median(times[""])
    for variant in beside:
        codes = found[variant.name]
        rate = len(x) / statistics.median(times[variant.name])
        flops, error = rate * variant.flops, mse(subject, x, codes)
        print(
            line(
                subject.label, variant.search, variant.precision, f"{len(x):,}",
                f"{plain_rate:,.0f} (batch {plain.batch_size})", f"{rate:,.0f}",
                f"{median_ratio(times[''], times[variant.name]):.2f}", f"{flops / 1e9:,.0f}",
                f"{flops / peaks.float32:.0%}", f"{flops / peaks.bfloat16:.0%}",
                f"{(codes == expected).double().mean():.3%}",
                f"{expected_mse:,.6g}", f"{error:,.6g}", f"{error / expected_mse - 1:+.3%}",
            ),
            flush=True,
        )  # fmt: skip


def named_codec(options: argparse.Namespace) -> Quantizer | None:
    """The trained model, which has to be of one of the sizes wanted if the user names it."""
    own = trained(options, needed=False)
    if own is not None and options.codec:
        wanted = (name_of(own) in options.models, own.dim in options.dims, own.num_steps in options.steps)
        if not all(wanted):
            size = f"{name_of(own)}, D={own.dim}, M={own.num_steps}"
            raise SystemExit(f"--codec is {size}: name these in --models, --dims and --steps")
    return own


def subjects(options: argparse.Namespace, own: Quantizer | None) -> Iterator[Subject]:
    device = device_of(options)
    for model in options.models:
        for dim in options.dims:
            for steps in options.steps:
                if own is not None and (name_of(own), own.dim, own.num_steps) == (model, dim, steps):
                    yield trained_subject(own, options, MAX_ROWS, FITTING_ROWS)
                else:
                    yield random_subject(model, dim, steps, device, MAX_ROWS, FITTING_ROWS)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["S"])
    parser.add_argument("--dims", nargs="+", type=int, default=[128])
    parser.add_argument("--steps", nargs="+", type=int, default=[8])
    parser.add_argument("--breadths", nargs="+", type=pair, default=BREADTHS, metavar="A,B")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32", "auto"])
    parser.add_argument("--budgets", nargs="*", type=pair, metavar="T,B", help="beside A=16, B=32")
    parser.add_argument("--budget-precision", nargs="+", choices=PRECISIONS, default=["fast", "auto"])
    parser.add_argument("--rows", type=int, help=f"vectors, at most {MAX_ROWS:,}; default: what --seconds says")
    parser.add_argument("--seconds", type=float, help="of one straightforward run; default 8, with --all 2")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument(
        "--all", action="store_true", help="S, M, L, D 96, 128, 768, M 8, 16; no budgets unless they are named"
    )
    add_options(parser)
    options = parser.parse_args()
    if options.all:
        options.models, options.dims, options.steps = ["S", "M", "L"], [96, 128, 768], [8, 16]
    if options.budgets is None:
        options.budgets = [] if options.all else BUDGETS
    options.seconds = options.seconds or (2.0 if options.all else 8.0)
    return options


def main() -> None:
    options = parsed()
    device, own = device_of(options), named_codec(options)
    peaks = Peaks(matrix_peak(torch.float32, device), matrix_peak(torch.bfloat16, device))
    print(machine(device))
    print(f"Matrix peak: float32 {peaks.float32 / 1e9:,.0f} GFLOP/s, bfloat16 {peaks.bfloat16 / 1e9:,.0f} GFLOP/s\n")
    print(
        heading(
            "model", "search", "precision", "rows", "straightforward, vectors/s", "ours, vectors/s", "ratio", "GFLOP/s",
            "of float32 peak", "of bfloat16 peak", "same codes", "MSE straightforward", "MSE ours", "difference",
        )
    )  # fmt: skip
    for subject in subjects(options, own):
        for breadth in [(0, 1)] if subject.name == "QINCo1" else options.breadths:
            measure(subject, breadth, options, peaks)


if __name__ == "__main__":
    main()
