"""How much faster is the encoding engine than a straightforward implementation of the same search?

QINCo2-S on the same weights and vectors, in one run: vectors/s of both (the straightforward one at its best batch
size), the ratio, and the share of identical codes; then budget searches with their error against the papers' search.

    .venv/bin/python benchmarks/encoding.py [RUN_DIR/codec]
"""

import time
from collections.abc import Callable

import straightforward
import torch
from demo_codec import codec_and_vectors
from torch import Tensor

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
    codec, rows = codec_and_vectors(__doc__.splitlines()[0], rows=1024)
    quantizer = codec.quantizer
    x = quantizer.normalize(torch.from_numpy(rows))
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
