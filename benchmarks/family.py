"""What do QINCo, PQ-QINCo and QINCo-LR of the same number of codes cost, and what error do they reach?

    .venv/bin/python benchmarks/family.py NAME=CODEC_DIR ... [--rows 2000] [--options beam_size=48,candidate_budget=96]

All codecs encode and decode the same database vectors of photo_sift in one run, by turns; medians over the rounds.
Ratios are to the first codec, within a round. Multiplications are those of one vector by the formulas of
docs/choosing.md, from the sizes of the model.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import heading, line, machine, median_ratio, rounds

from datamodules.photo_sift import photo_sift
from qinco_lit import Codec
from qinco_lit.data.data_module import VectorDataModule


def photo_rows(rows: int) -> np.ndarray:
    data = VectorDataModule(photo_sift(root="data/photo_sift", num_queries=10_000), limit_database=rows)
    data.prepare_data()
    data.setup("test")
    return np.asarray(data.database[:rows])


def in_millions(number: float) -> str:
    return f"{number / 1e6:.2f}M"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="+", metavar="NAME=CODEC_DIR")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--options", default="", help="of Codec.encode, NAME=NUMBER,...; as trained without")
    options = parser.parse_args()
    named = dict(pair.rsplit("=", 1) for pair in options.codecs)
    search: dict[str, Any] = {k: int(v) for k, v in (pair.split("=") for pair in options.options.split(",") if pair)}
    x = photo_rows(options.rows)
    codecs = {name: Codec.load(Path(folder)) for name, folder in named.items()}
    cpu = torch.device("cpu")
    codes, encode_s = rounds(
        {name: partial(codec.encode, x, **search) for name, codec in codecs.items()}, options.repeats, cpu
    )
    x_hat, decode_s = rounds(
        {name: partial(codec.decode, codes[name]) for name, codec in codecs.items()}, options.repeats, cpu
    )
    first = next(iter(codecs))
    print(f"{machine(cpu)}; {len(x):,} vectors, search: {options.options or 'as trained'}\n")
    print(
        heading(
            "model", "parameters", "MSE", "encode, vectors/s", "time", "multiplications", "decode, vectors/s",
            "multiplications ",
        )
    )  # fmt: skip
    for name, codec in codecs.items():
        mse = float(((x - x_hat[name]) ** 2).sum(1, dtype=np.float64).mean())
        quantizer = codec.quantizer
        print(
            line(
                name,
                in_millions(sum(parameter.numel() for parameter in quantizer.parameters())),
                f"{mse:,.0f}",
                f"{len(x) / statistics.median(encode_s[name]):,.0f}",
                f"{median_ratio(encode_s[name], encode_s[first]):.2f}",
                in_millions(quantizer.encode_multiplications(quantizer.search_for(**search))),
                f"{len(x) / statistics.median(decode_s[name]):,.0f}",
                in_millions(quantizer.decode_multiplications()),
            )
        )


if __name__ == "__main__":
    main()
