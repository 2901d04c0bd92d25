"""A scale of a few tasks, and what runs it with the stub."""

import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from qinco_lit.reproducing.runner import Runner
from qinco_lit.reproducing.scale import read_scale
from qinco_lit.reproducing.tasks import Task, choose, expand

STUB = (sys.executable, "-S", "-E", str(Path(__file__).with_name("stub_qinco.py")))

# What is run of it, as `commands` has it.
TINY = ["train d/Tiny-8B-s0/train", "evaluate d/Tiny-8B-s0/evaluate"]
BIG = ["train d/Big-8B-s0/train", "evaluate d/Big-8B-s0/evaluate"]

_SCALE: dict[str, Any] = {
    "hardware": "a stub",
    "seeds": [0],
    "datasets": {"d": {"options": ["data=x"]}},
    "methods": {
        "Big": {"name": "Big one", "train": ["model=big"], "train_s": 100.0, "evaluate_s": 1.0},
        "Tiny": {
            "name": "Tiny",
            "train": ["model=tiny"],
            "train_s": 10.0,
            "evaluate": ["beam_size=4"],
            "evaluate_s": 2.0,
        },
    },
    "main": {"datasets": ["d"], "methods": ["Big", "Tiny"], "num_bytes": [8], "baselines": ["rq", "lsq"]},
}
_STUDIES: dict[str, Any] = {
    "run_time": {
        "datasets": ["d"], "methods": ["Tiny"], "num_bytes": [8], "points": [{"num_candidates": 4, "beam_size": 2}],
        "options": ["data.limit_database=9"], "evaluate_s": 0.5,
    },
    "ablation": {
        "datasets": ["d"], "num_bytes": [8], "train": ["model=tiny", "trainer.max_epochs=3"], "train_s": 20.0,
        "without": {"beam": {"name": "no beam", "options": ["model.beam_size=1"], "relative_cost": 0.5}},
    },
    "search": {"datasets": ["d"], "methods": ["Tiny"], "num_bytes": [16], "num_lists": 4, "train": ["model=ivf"]},
}  # fmt: skip


def scale_values(*, studies: bool = False, **changes: Any) -> dict[str, Any]:
    """Plain values, as of a config file; `changes` replace whole entries."""
    return deepcopy(_SCALE | (_STUDIES if studies else {}) | changes)


def tasks_of(**changes: Any) -> list[Task]:
    return expand(read_scale(scale_values(**changes)))


def runner_of(output: Path, *words: str, missing: dict[str, str] | None = None, **changes: Any) -> Runner:
    tasks = tasks_of(**changes)
    environment = {"STUB_LOG": str(output.parent / "stub.log")}
    return Runner(tasks, output, choose(tasks, words), missing or {}, STUB, environment)


def commands(output: Path) -> list[str]:
    """What the stub was called with, in order: `train d/Tiny-8B-s0/train`."""
    lines = (output.parent / "stub.log").read_text().splitlines()
    short = []
    for line in lines:
        place = next(word for word in line.split() if word.startswith(("hydra.run.dir=", "output=", "resume=")))
        key, _, path = place.partition("=")
        verb = "resume" if key == "resume" else line.split()[0]
        short.append(f"{verb} {path.partition(f'{output}/')[2]}")
    return short


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
