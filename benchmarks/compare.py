"""How long does `qinco compare` take for the runs of a large sweep?

    .venv/bin/python benchmarks/compare.py [NUM_RUNS]

Makes run folders in the form that training and evaluation leave them (300 lines of metrics each, every second one
evaluated), and times the whole command on one core: starting Python, reading, tables, plots, page.
"""

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NUM_REPORTS, NUM_EPOCHS, REPEATS = 300, 50, 3
_START_S = 1_795_000_000.0


def main(num_runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_sweep(root / "sweep", num_runs)
        seconds = [_time_of(root, repeat) for repeat in range(REPEATS)]
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        page = (root / "out0" / "compare.html").stat().st_size
    spread = f"of {REPEATS}: {min(seconds):.2f}-{max(seconds):.2f}"
    cpu = f"{(used.ru_utime + used.ru_stime) / REPEATS:.2f} s of the core's time"
    print(f"{num_runs} runs: {statistics.median(seconds):.2f} s ({spread}), {cpu}; the page has {page / 1e6:.1f} MB")


def _time_of(root: Path, repeat: int) -> float:
    command = [
        str(Path(sys.executable).with_name("qinco")),
        "compare",
        str(root / "sweep"),
        "--output",
        str(root / f"out{repeat}"),
    ]
    if hasattr(os, "sched_setaffinity"):
        core = min(os.sched_getaffinity(0))
        command[:0] = ["taskset", "-c", str(core)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def make_sweep(root: Path, num_runs: int) -> None:
    """Write `num_runs` run folders, root/0, root/1, ..., every second with root/N/evaluate."""
    random_ = random.Random(0)
    for number in range(num_runs):
        options = {
            "num_steps": random_.choice((4, 8, 16)),
            "beam_size": random_.choice((1, 4, 16, 32)),
            "lr": random_.choice((1e-3, 2e-3, 4e-3)),
            "seed": number,
        }
        make_run(root / str(number), random_, **options, evaluated=number % 2 == 1)


def make_run(
    folder: Path, random_: random.Random, *, num_steps: int, beam_size: int, lr: float, seed: int, evaluated: bool
) -> None:
    """Write one run folder as `qinco train` does, and inside it an evaluation."""
    codec = folder / "codec"
    codec.mkdir(parents=True)
    model = _model(num_steps, beam_size)
    reports = list(_reports(random_, num_steps))
    last = reports[-1]
    overrides = [f"model.num_steps={num_steps}", f"model.beam_size={beam_size}", f"recipe.lr={lr}", f"seed={seed}"]
    _write(folder / "config.json", _config(model, lr, seed))
    _write(codec / "config.json", {"format": "qinco_lit codec", "version": 1, "dim": 128, "model": model})
    folder.joinpath("metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in reports))
    summary = {
        "state": "finished", "overrides": overrides, "seed": seed, "parameters": 204_800 * num_steps, "wall_s": 1500.0,
        "epochs": NUM_EPOCHS, "steps": 19_500, "best_val_mse": last["val/mse"], "last_metrics": last, **_environment(),
    }  # fmt: skip
    _write(folder / "summary.json", summary)
    if evaluated:
        folder.joinpath("evaluate").mkdir()
        _write(folder / "evaluate" / "metrics.json", _evaluation(codec, model, last, beam_size))


def _reports(random_: random.Random, num_steps: int) -> Iterator[dict[str, Any]]:
    scale = random_.uniform(0.9, 1.1)
    for number in range(NUM_REPORTS):
        seen = (number + 1) * NUM_EPOCHS / NUM_REPORTS
        report: dict[str, Any] = {"step": 65 * (number + 1), "time_s": round(_START_S + 5.0 * number, 3)}
        if (number + 1) % (NUM_REPORTS // NUM_EPOCHS):
            report |= {"train/mse": scale * 20_000.0, "lr": 0.004, "vectors_per_s": 2000.0, "epochs_seen": seen}
        else:
            errors = [scale * 80_000 * 0.8 ** (m + 1) * (1 + 1 / (1 + seen)) for m in range(num_steps)]
            report |= {f"val/mse_step_{m}": error for m, error in enumerate(errors, 1)}
            report |= {f"val/entropy_bits_step_{m}": 7.9 for m in range(1, num_steps + 1)}
            report |= {"val/mse": errors[-1], "val/entropy_bits": 7.9, "epoch": round(seen) - 1}
        yield report


def _model(num_steps: int, beam_size: int) -> dict[str, Any]:
    return {
        "num_steps": num_steps, "codebook_size": 256, "embed_dim": 128, "hidden_dim": 256, "num_blocks": 2,
        "outer_skip": True, "num_candidates": 4, "beam_size": beam_size, "candidate_budget": 16,
    }  # fmt: skip


def _config(model: dict[str, Any], lr: float, seed: int) -> dict[str, Any]:
    names = ("limit_train", "limit_database", "eval_batch_size", "build_workers")
    data = {"_target_": "datamodules.photo_sift.photo_sift", "num_train": 100_000, **dict.fromkeys(names)}
    recipe = {
        "batch_size": 512, "normalization": "standard", "initial_codebooks": "kmeans", "optimizer": "adamw", "lr": lr,
        "weight_decay": 0.1, "clip_value": 0.1, "schedule": "cosine", "warmup_epochs": 0.3, "search_precision": "fast",
    }  # fmt: skip
    trainer = {"accelerator": "auto", "devices": "auto", "max_epochs": NUM_EPOCHS, "deterministic": False}
    groups = {"data": data, "model": model, "coarse": None, "recipe": recipe, "trainer": trainer, "logger": None}
    choices = {"model": "qinco2_tiny", "data": "photo_sift", "coarse": "none", "recipe": "tuned", "trainer": "default"}
    return {**groups, "seed": seed, "choices": choices}


def _environment() -> dict[str, Any]:
    return {
        "versions": {"python": "3.11.7", "qinco_lit": "0.1.0"}, "git_revision": "0" * 40,
        "hardware": {"machine": "x86_64", "processor": "a processor", "cpu_count": 2, "torch_threads": 2, "gpus": []},
    }  # fmt: skip


def _evaluation(codec: Path, model: dict[str, Any], last: dict[str, Any], beam_size: int) -> dict[str, Any]:
    num_steps = model["num_steps"]
    errors = [1.05 * last[f"val/mse_step_{m}"] for m in range(1, num_steps + 1)]
    search = {"beam_size": beam_size, "num_candidates": 4, "candidate_budget": None, "precision": "fast"}
    figures = {
        "bytes_per_vector": float(num_steps), "num_steps": num_steps, "codebook_size": 256, "mse": errors[-1],
        "mse_per_step": errors, "recall_at_1": 0.7, "recall_at_10": 0.97, "recall_at_100": 1.0,
        "entropy_bits": [7.9] * num_steps, "unused_share": [0.0] * num_steps,
        "encode_vectors_per_s": 20_000.0 / beam_size, "decode_vectors_per_s": 18_000.0,
    }  # fmt: skip
    return {
        "schema_version": 2, "created": "2026-11-22T16:24:55+0000", "device": "cpu", "batch_size": 16_384,
        "codec": {"path": str(codec), "dim": 128, "bits_per_vector": 8 * num_steps, "model": model, **search},
        "data": {"name": "photo_sift", "metric": "l2", "dim": 128, "num_database": 20_000, "num_queries": 1000},
        "num_threads": {"torch": 2, "faiss": 2}, **_environment(), "methods": {"codec": figures},
    }  # fmt: skip


def _write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
