"""How fast is decoding, against a straightforward decoder, for one row of codes and for very many?

    .venv/bin/python benchmarks/decode.py [--codec RUN_DIR/codec] [--rows 1 1000 200000 10000000]

The same weights and codes in one run: each round decodes by the straightforward implementation, at its best batch size,
and then by ours in float32 and in bfloat16; medians over the rounds. Codes are those of some vectors, over and over.
The error of bfloat16 is that of its reconstructions against float32's: root mean square over the vectors' own about
their mean, and the largest over all entries.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import straightforward
import torch
from measuring import best_size, heading, line, machine, median_ratio, powers_of_two, rounds, seconds, synchronize
from subjects import MODELS, Subject, add_options, device_of, name_of, random_subject, trained, trained_subject
from torch import Tensor

from qinco_lit import Codec

DISTINCT_ROWS = 4096
SEARCH = {"beam_size": 4, "num_candidates": 4}
MAX_BATCH = {"cpu": 1 << 16, "cuda": 1 << 20}


def wanted_subject(options: argparse.Namespace) -> Subject:
    """The codec, if there is one of the model that is wanted."""
    own = trained(options, needed=False)
    if own is not None and (options.codec or (name_of(own), own.dim) == (options.model, options.dim)):
        return trained_subject(own, options, DISTINCT_ROWS, 1)
    return random_subject(options.model, options.dim, options.steps, device_of(options), DISTINCT_ROWS, 1)


def some_codes(subject: Subject, rows: int) -> Tensor:
    """Codes of vectors, repeated; uint8 as a codec returns them."""
    search = SEARCH if subject.name != "QINCo1" else {}
    vectors = subject.vectors[: min(rows, DISTINCT_ROWS)]
    codes: Tensor = Codec(subject.quantizer).encode(vectors, **search)
    return codes.repeat(-(-rows // len(codes)), 1)[:rows].contiguous()


def best_batch(subject: Subject, codes: Tensor) -> int:
    """Of the straightforward decoder, on a part of the codes."""
    device = codes.device
    largest = min(len(codes), MAX_BATCH[device.type])

    def rate(batch_size: int) -> float:
        sample = codes[: max(batch_size, min(len(codes), 16_384))]
        run = partial(straightforward.decode, subject.quantizer, sample, batch_size=batch_size)
        run()
        return len(sample) / min(seconds(run, device)[0] for _ in range(2))

    return best_size(rate, powers_of_two(128, largest))


def repeated(run: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], int]:
    """Often enough in a row that a measurement takes a twentieth of a second, and how often that is."""
    run()
    once, _ = seconds(run, device)
    times = max(1, int(0.05 / once))

    def many() -> None:
        for _ in range(times):
            run()
            synchronize(device)  # each call is one that somebody waits for

    return many, times


def compare(subject: Subject, rows: int, repeats: int) -> None:
    """A line of the table."""
    codes = some_codes(subject, rows)
    device, quantizer = codes.device, subject.quantizer
    batch_size = best_batch(subject, codes)
    plain = partial(straightforward.decode, quantizer, codes, batch_size=batch_size)
    exact, half = (Codec(quantizer, precision=precision) for precision in ("float32", "bfloat16"))
    runs = {"plain": plain, "exact": partial(exact.decode, codes), "half": partial(half.decode, codes)}
    many = {name: repeated(run, device) for name, run in runs.items()}
    _, times = rounds({name: run for name, (run, _) in many.items()}, repeats, device)
    per_call = {name: [taken / many[name][1] for taken in times[name]] for name in runs}
    rate = {name: rows / statistics.median(taken) for name, taken in per_call.items()}
    print(
        line(
            subject.label, f"{rows:,}", f"{rate['plain']:,.0f} (batch {batch_size:,})",
            f"{rate['exact']:,.0f}", f"{median_ratio(per_call['plain'], per_call['exact']):.2f}",
            f"{rate['half']:,.0f}", f"{median_ratio(per_call['plain'], per_call['half']):.2f}",
            *errors(subject, exact, half, codes[:DISTINCT_ROWS]),
        ),
        flush=True,
    )  # fmt: skip


def errors(subject: Subject, exact: Codec, half: Codec, codes: Tensor) -> tuple[str, str, str]:
    """Ours in float32 against the straightforward one, and bfloat16 against float32: as the module says."""
    plain = straightforward.decode(subject.quantizer, codes, batch_size=1024)
    reference, rounded = exact.decode(codes), half.decode(codes)
    size = float((subject.vectors.float() - subject.quantizer.data_mean).square().mean().sqrt())
    same = float((reference - plain).abs().max()) / size
    rms = float((rounded - reference).square().mean().sqrt()) / size
    return f"{same:.1e}", f"{rms:.1e}", f"{float((rounded - reference).abs().max()) / size:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="S")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 1_000, 200_000])
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    add_options(parser)
    options = parser.parse_args()
    subject = wanted_subject(options)
    print(f"{machine(device_of(options))}\n")
    print(
        heading(
            "model", "rows", "straightforward, vectors/s", "ours, vectors/s", "ratio", "bfloat16, vectors/s", "ratio",
            "largest difference to straightforward", "error of bfloat16", "its largest",
        )
    )  # fmt: skip
    for rows in options.rows:
        compare(subject, rows, options.repeats)


if __name__ == "__main__":
    main()
