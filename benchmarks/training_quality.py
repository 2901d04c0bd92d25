"""Whole trainings by several searches: `training_step.py --quality`."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measuring import heading, line, machine
from subjects import Pair, device_of, photo_sift
from torch import Tensor

from qinco_lit import Codec

BREADTHS = [(16, 32), (4, 4)]


def breadth_options(breadth: Pair) -> dict[str, Any]:
    return {"num_candidates": breadth[0], "beam_size": breadth[1]}


def budget_options(budget: Pair) -> dict[str, Any]:
    return {"candidate_budget": budget[0], "beam_size": budget[1], "num_candidates": 16}


def train(search: dict[str, Any], precision: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run `qinco train`; its summary."""
    overrides = [f"model.{name}={value}" for name, value in search.items()]
    fixed = [
        "data=photo_sift", "model=qinco2_s", "logger=none", f"data.root={options.root}",
        f"data.limit_train={options.limit_train}", f"trainer.max_epochs={options.epochs}",
        f"trainer.accelerator={'gpu' if device_of(options).type == 'cuda' else 'cpu'}", "trainer.devices=1",
        "trainer.enable_progress_bar=false", f"recipe.search_precision={precision}", f"hydra.run.dir={folder}",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "qinco_lit.cli", "train", *fixed, *overrides], check=True, stdout=sys.stderr)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def mse(codec: Codec, x: Tensor) -> float:
    """Raw space, by the first breadth of the default ones."""
    num_candidates, beam_size = BREADTHS[0]
    codes = codec.encode(x, num_candidates=num_candidates, beam_size=beam_size)
    return float((codec.decode(codes) - x).square().sum(1).double().mean())


def quality(options: argparse.Namespace) -> None:
    """Whole trainings by each search."""
    device = device_of(options)
    data = photo_sift(options.root)
    data.setup("test")
    x = torch.from_numpy(data.database[: options.quality_rows]).to(device)
    num_candidates, beam_size = BREADTHS[0]
    paper, *narrower = options.breadths or BREADTHS[:1]
    others = [(f"A={a}, B={b}", breadth_options((a, b))) for a, b in narrower]
    others += [(f"T={t}, B={b}", budget_options((t, b))) for t, b in options.budgets]
    runs = [(f"A={paper[0]}, B={paper[1]}", breadth_options(paper), "auto")]
    runs += [(label, search, precision) for label, search in others for precision in options.precision or ["fast"]]
    folder = options.output / time.strftime("%Y-%m-%d_%H-%M-%S")
    print(
        f"{machine(device)}\n{options.limit_train:,} vectors, {options.epochs} epochs; database MSE of "
        f"{len(x):,} vectors by A={num_candidates}, B={beam_size}\n"
    )
    columns = ("search in training", "precision", "wall time, s", "ratio", "validation MSE", "difference")
    print(heading(*columns, "database MSE", "difference"), flush=True)
    first: tuple[float, float, float] | None = None
    for label, search, precision in runs:
        run_dir = folder / f"{label}_{precision}".replace("=", "").replace(", ", "_")
        summary = train(search, precision, run_dir, options)
        wall_s, own = summary["wall_s"], summary["best_val_mse"]
        common = mse(Codec.load(run_dir / "codec", device=device), x)
        first = first or (wall_s, own, common)
        figures = (f"{wall_s:,.0f}", f"{first[0] / wall_s:.2f}", f"{own:,.6g}", f"{own / first[1] - 1:+.2%}")
        print(line(label, precision, *figures, f"{common:,.6g}", f"{common / first[2] - 1:+.2%}"), flush=True)
