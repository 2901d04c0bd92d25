"""How fast are the additive and the pairwise decoder fitted, and how much of full decoding do they keep?

    .venv/bin/python benchmarks/decoders.py [--codec RUN_DIR/codec] [--rows 100000] [--num-lists 1024]
    .venv/bin/python benchmarks/decoders.py --directions 16 32 128
    .venv/bin/python benchmarks/decoders.py --codec IVF_RUN_DIR/codec --photo-sift 200000 200000 2000

Additive: seconds and peak resident set of a process of its own that fits to a million vectors, which are the training
vectors over and over with noise of a tenth of their spread. Pairwise: fits to the training vectors as they are, one
for each number of random directions in which pairs are scored (the dimension scores them exactly). A plain codec is
given lists of a k-means of the vectors: what such a list says of a vector is not in its codes, so its columns are worth
more than those of an IVF codec. MSE: raw space, mean over vectors of the SUM over dimensions.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from qinco_lit import Codec  # before faiss, for whose kernels qinco_lit sees

# isort: split
import faiss
import numpy as np
import torch
from measuring import heading, line, machine
from subjects import add_options, device_of, trained

from datamodules.photo_sift import photo_sift
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.search.decoders.additive import AdditiveDecoder, AdditiveFit
from qinco_lit.search.decoders.pairwise import PairwiseDecoder, fit_pairwise

BLOCK_ROWS = 16_384
DECODED_ROWS = (100, 10_000, 100_000)


class Arrays(NamedTuple):
    """Coded vectors in memory."""

    codes: Any
    list_ids: Any
    targets: Any

    def __len__(self) -> int:
        return len(self.codes)

    def blocks(self) -> Iterator[tuple[Any, Any, Any]]:
        """In order."""
        for start in range(0, len(self.codes), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            yield self.codes[rows], self.list_ids[rows], self.targets[rows]


class Fitted(NamedTuple):
    """What the process of its own reports."""

    decoder: AdditiveDecoder
    report: dict[str, Any]
    add_s: float
    solve_s: float
    peak_mib: float
    start_mib: float


def resident_mib(name: str) -> float:
    """`VmRSS` or `VmHWM` (its peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def fit_additive(codes: Any, targets: Any, num_rows: int, codebook_size: int, num_threads: int, device: str) -> Fitted:
    """Fit to `num_rows` vectors, repeating those given with noise."""
    torch.set_num_threads(num_threads)
    generator = np.random.default_rng(0)
    start_mib = resident_mib("VmRSS")
    spread = 0.1 * targets.std(0) if num_rows > len(codes) else None
    fit = AdditiveFit(codes.shape[1], codebook_size, targets.shape[1], device=device)
    add_s, done = 0.0, 0
    while done < num_rows:
        for start in range(0, min(len(codes), num_rows - done), BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, len(codes), num_rows - done + start))
            block = targets[rows]
            if spread is not None:
                block = block + spread * generator.standard_normal(block.shape, dtype=np.float32)
            began = time.perf_counter()
            fit.add(codes[rows], block)
            add_s += time.perf_counter() - began
            done += len(block)
    began = time.perf_counter()
    decoder, report = fit.solve()
    return Fitted(decoder, report, add_s, time.perf_counter() - began, resident_mib("VmHWM"), start_mib)


def in_own_process(*arguments: Any) -> Fitted:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(fit_additive, arguments)


def mse(targets: Any, estimates: Any) -> float:
    return float(np.square(targets - estimates).sum(1, dtype=np.float64).mean())


def coded(codec: Codec, x: Any, num_lists: int, num_training: int) -> tuple[Arrays, Any, Any]:
    """Codes, lists and targets of the vectors; centroids; what full decoding estimates of the targets."""
    breadth = {"beam_size": 8, "candidate_budget": 16}
    if codec.num_lists is not None:
        centroids = codec.coarse_centroids
        list_ids, codes = codec.encode(x, **breadth)
        origin = centroids[list_ids]
        return Arrays(codes, list_ids, x - origin), centroids, codec.decode(codes, list_ids=list_ids) - origin
    codes = codec.encode(x, **breadth)
    lists = faiss.Kmeans(x.shape[1], num_lists, niter=10, seed=1)
    lists.cp.min_points_per_centroid = 1
    lists.train(x[:num_training])
    list_ids = lists.index.search(x, 1)[1][:, 0].astype(np.int32)
    return Arrays(codes, list_ids, x), lists.centroids, codec.decode(codes)


def head_of(arrays: Arrays, rows: slice) -> Arrays:
    return Arrays(*(array[rows] for array in arrays))


def additive_table(fits: dict[int, Fitted]) -> None:
    print(heading("training vectors", "unknowns", "counting s", "solving s", "peak MiB", "at start", "ridge", "MSE"))
    for num_rows, fit in fits.items():
        unknowns = fit.decoder.codebooks.shape[0] * fit.decoder.codebooks.shape[1]
        print(
            line(
                f"{num_rows:,}", f"{unknowns:,}", f"{fit.add_s:.2f}", f"{fit.solve_s:.2f}", f"{fit.peak_mib:,.0f}",
                f"{fit.start_mib:,.0f}", f"{fit.report['ridge']:.2g}", f"{fit.report['mse']:,.1f}",
            )
        )  # fmt: skip


def decode_rates(decoder: PairwiseDecoder, arrays: Arrays) -> str:
    rates = []
    for rows in DECODED_ROWS:
        part = head_of(arrays, slice(rows))
        times = []
        for _ in range(6):
            began = time.perf_counter()
            decoder.decode(part.list_ids, part.codes)
            times.append(time.perf_counter() - began)
        rates.append(f"{1e6 * statistics.median(times[1:]) / len(part):.2f}")
    return " / ".join(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="training vectors of the pairwise decoder")
    parser.add_argument(
        "--additive-rows", type=int, default=1_000_000, help="training vectors of the timed additive fit"
    )
    parser.add_argument("--num-lists", type=int, default=1024, help="of a plain codec's k-means")
    parser.add_argument("--num-tables", type=int, help="pairwise tables at most; default: two per step")
    parser.add_argument("--directions", type=int, nargs="+", default=[32], help="in which pairs are scored")
    sizes_help = "rows of training set, database and queries of the set that the codec was trained on"
    parser.add_argument("--photo-sift", type=int, nargs=3, default=[100_000, 20_000, 1000], help=sizes_help)
    add_options(parser)
    options = parser.parse_args()
    device = device_of(options)
    quantizer = trained(options, needed=True)
    assert quantizer is not None
    codec = Codec(quantizer)
    sizes = dict(zip(("num_train", "num_database", "num_queries"), options.photo_sift, strict=True))
    data = VectorDataModule(photo_sift(root=options.root, **sizes), batch_size=512)
    data.prepare_data()
    data.setup("fit")
    training_x, validation_x = data.train_vectors[: options.rows], data.val_vectors[: len(data.val_vectors)]
    num_rows = len(training_x)
    x = np.concatenate([training_x, validation_x]).astype(np.float32)
    arrays, centroids, full = coded(codec, x, options.num_lists, num_rows)
    training, validation = head_of(arrays, slice(num_rows)), head_of(arrays, slice(num_rows, None))
    kind = "plain" if codec.num_lists is None else "IVF"
    print(
        f"{machine(device)}\n{kind} codec, M={codec.num_steps}, K={codec.codebook_size}, D={codec.dim}, "
        f"{len(centroids):,} lists, {num_rows:,} training and {len(validation):,} validation vectors\n"
    )
    threads = torch.get_num_threads()
    fits = {
        size: in_own_process(training.codes, training.targets, size, codec.codebook_size, threads, options.device)
        for size in (num_rows, options.additive_rows)
    }
    additive_table(fits)
    additive = fits[num_rows].decoder
    populations = np.bincount(training.list_ids, minlength=len(centroids))
    print(
        "\n" + heading("scored in", "dtype", "tables", "seconds", "MSE additive", "pairwise", "full", "MB", "us/row*")
    )
    reports = []
    for directions in options.directions:
        for dtype in ("float32", "float16"):
            decoder, report = fit_pairwise(
                training, validation, additive, centroids, populations,
                num_tables=options.num_tables, projected_dim=directions, dtype=dtype, device=device,
            )  # fmt: skip
            reports.append(report)
            print(
                line(
                    f"{min(directions, codec.dim)} directions", dtype, str(len(decoder.columns)),
                    f"{report['seconds']:.1f}", f"{report['additive_validation_mse']:,.1f}",
                    f"{report['validation_mse']:,.2f}", f"{mse(validation.targets, full[num_rows:]):,.1f}",
                    f"{decoder.num_bytes / 1e6:,.0f}", decode_rates(decoder, arrays),
                ),
                flush=True,
            )  # fmt: skip
    print(f"* decoding {', '.join(f'{rows:,}' for rows in DECODED_ROWS)} rows\n\n{reports[0]['stopped']}")
    print(f"{reports[0]['advice']}\n\n" + heading("table", "pair", "pseudo-count", "MSE left out", "validation MSE"))
    for place, table in enumerate(reports[0]["tables"], start=1):
        errors = f"{table['training_mse']:,.1f}", f"{table['validation_mse']:,.1f}"
        print(line(str(place), str(table["pair"]), f"{table['shrinkage']:.3g}", *errors))


if __name__ == "__main__":
    main()
