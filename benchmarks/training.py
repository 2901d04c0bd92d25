"""How long does training take on 100,000 vectors, and where does the time go?

QINCo2-S with A=4, B=4 on photo_sift, batch 512, in the parts of a training step: getting the batch, encoding without
gradients, decoding with gradients and backward, optimizer. Prints seconds per 100k vectors and shares.

    .venv/bin/python benchmarks/training.py
"""

import argparse
import os
import platform
import time
from pathlib import Path

import torch

from datamodules.photo_sift import PhotoSiftDataModule
from qinco_lit.quantizers import QINCo
from qinco_lit.training.initialization import init_networks, kmeans_codebooks, set_codebooks, set_normalization

PARTS = ("data", "encode", "decode and backward", "optimizer")


def prepared(data: PhotoSiftDataModule) -> QINCo:
    quantizer = QINCo(data.dim, num_candidates=4, beam_size=4)
    generator = torch.Generator().manual_seed(0)
    rows = torch.from_numpy(data.train_vectors[:50_000])
    set_normalization(quantizer, rows.float(), "standard")
    init_networks(quantizer, "exact", generator)
    x = quantizer.normalize(rows)
    codebooks = kmeans_codebooks(quantizer, x, generator, iterations=10, split_empty=True)
    set_codebooks(quantizer, codebooks, noise=0.0, exact=True, generator=generator)
    return quantizer


def timed_epoch(quantizer: QINCo, data: PhotoSiftDataModule) -> tuple[dict[str, float], int]:
    optimizer = torch.optim.AdamW(quantizer.parameters(), lr=4e-3, weight_decay=0.1)
    seconds = dict.fromkeys(PARTS, 0.0)
    vectors = 0
    mark = time.perf_counter()
    for step, batch in enumerate(data.train_dataloader()):
        marks = [mark, time.perf_counter()]
        x = quantizer.normalize(batch)
        codes = quantizer.encode(x)
        marks.append(time.perf_counter())
        losses = quantizer.losses(x, codes)
        (losses.reconstruction.sum() + losses.preselector.sum()).backward()
        marks.append(time.perf_counter())
        torch.nn.utils.clip_grad_value_(quantizer.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        mark = time.perf_counter()
        marks.append(mark)
        if step >= 5:  # warm-up
            vectors += len(batch)
            for part, start, end in zip(PARTS, marks, marks[1:], strict=False):
                seconds[part] += end - start
    return seconds, vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data/photo_sift", help="where photo_sift lies or is made")
    root = Path(parser.parse_args().root)
    data = PhotoSiftDataModule(root=str(root), batch_size=512)
    data.prepare_data()
    data.setup("fit")
    seconds, vectors = timed_epoch(prepared(data), data)
    total = sum(seconds.values())
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, load {load:.1f}, torch {torch.__version__}")
    print(f"{1e5 * total / vectors:.1f} s per 100k vectors ({vectors / total:,.0f} vectors/s)")
    for part in PARTS:
        print(f"  {part:<20} {100 * seconds[part] / total:5.1f} %")


if __name__ == "__main__":
    main()
