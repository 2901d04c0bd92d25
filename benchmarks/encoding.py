"""How much faster is the encoding engine than a straightforward implementation of the same search?

QINCo2-S on the same weights and vectors, in one run: vectors/s of both (the straightforward one at its best batch
size), the ratio, and the share of identical codes; then budget searches with their error against the papers' search.

    .venv/bin/python benchmarks/encoding.py [RUN_DIR/codec]
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import straightforward
import torch
from torch import Tensor

from datamodules.photo_sift import PhotoSiftDataModule
from qinco_lit import Codec

BATCH_SIZES = (4, 16, 64, 256)
PAPER = [(16, 32), (16, 16), (4, 4)]
BUDGETS = [(128, 32), (64, 16)]


def speed(encode: Callable[[Tensor], Tensor], x: Tensor) -> tuple[float, Tensor]:
    encode(x[:64])
    start = time.perf_counter()
    codes = encode(x)
    return len(x) / (time.perf_counter() - start), codes


def mse(codec: Codec, x: Tensor, codes: Tensor) -> float:
    *_, x_hat = codec.quantizer.reconstructions(codes)
    return float((codec.quantizer.denormalize(x_hat - x) - codec.quantizer.data_mean).square().sum(1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("codec", nargs="?", help="codec of a model trained on photo_sift; default: the newest demo's")
    parser.add_argument("--root", default="data/photo_sift", help="where photo_sift lies or is made")
    parser.add_argument("--rows", type=int, default=1024, help="database vectors")
    options = parser.parse_args()
    demos = sorted(Path("outputs/demo").glob("*/train/codec"))
    if options.codec is None and not demos:
        parser.error("no codec: run `make demo` first or name one")
    codec = Codec.load(options.codec or demos[-1])
    data = PhotoSiftDataModule(root=options.root)
    data.prepare_data()
    data.setup("test")
    quantizer = codec.quantizer
    x = quantizer.normalize(torch.from_numpy(data.database[: options.rows]))
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, load {load:.1f}, torch {torch.__version__}")
    print("| search | straightforward, vectors/s | engine, vectors/s | ratio | identical codes | MSE |")
    print("|---|---|---|---|---|---|")
    plain_at: dict[tuple[int, int], float] = {}
    for candidates, beam in PAPER:
        kwargs = {"num_candidates": candidates, "beam_size": beam}
        plain, expected = max(
            (
                speed(lambda v, b=batch, k=kwargs: straightforward.encode(quantizer, v, batch_size=b, **k), x)
                for batch in BATCH_SIZES
            ),
            key=lambda result: result[0],
        )
        plain_at[candidates, beam] = plain
        search = quantizer.search_for(**kwargs)
        ours, codes = speed(lambda v, s=search: quantizer.encode(v, s), x)
        same = (codes == expected).float().mean()
        print(
            f"| A={candidates}, B={beam} | {plain:,.0f} | {ours:,.0f} | {ours / plain:.2f} | {same:.4%} "
            f"| {mse(codec, x, codes):,.0f} |",
            flush=True,
        )
    for budget, beam in BUDGETS:
        search = quantizer.search_for(candidate_budget=budget, beam_size=beam)
        ours, codes = speed(lambda v, s=search: quantizer.encode(v, s), x)
        plain = plain_at[16, beam]
        print(
            f"| T={budget}, B={beam} | {plain:,.0f} (A=16) | {ours:,.0f} | {ours / plain:.2f} | "
            f"| {mse(codec, x, codes):,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
