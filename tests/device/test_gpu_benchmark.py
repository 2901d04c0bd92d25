"""`benchmarks/gpu.py` on the CPU in small: the code that runs on a GPU, and the file that it writes."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from benchmarks.subjects import MODELS
from tests import processes

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
PARTS = ["encode", "decode", "training step", "search"]


def _main(arguments: list[str]) -> None:
    sys.argv = [str(SCRIPT), *arguments]
    sys.path.insert(0, str(SCRIPT.parent))
    runpy.run_path(str(SCRIPT), run_name="__main__")


def _run(folder: Path, *arguments: str) -> tuple[int, str]:
    return processes.run(_main, ["--output", str(folder / "gpu.json"), *arguments], cwd=ROOT)


def test_every_part_is_compared_and_profiled(tmp_path: Path) -> None:
    options = ["--output", str(tmp_path / "gpu.json"), "--device", "cpu", "--small"]
    command = [sys.executable, str(SCRIPT), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["device"] == "cpu"
    assert record["left_out"] == []
    assert [(cell["model"], cell["part"]) for cell in record["cells"]] == [("S", part) for part in PARTS]
    for cell in record["cells"]:
        assert min(cell["straightforward_per_s"], cell["ours_per_s"], cell["ratio"]) > 0
        assert 0 < len(cell["profile"]) <= 10
        times = [row["time_us"] for row in cell["profile"]]
        assert times == sorted(times, reverse=True)
        assert cell["part"] in done.stdout
    agreement = {cell["part"]: cell["agreement"] for cell in record["cells"]}
    assert agreement["encode"] >= 0.99  # float32 and its order of sums
    assert agreement["search"] >= 0.99
    assert agreement["decode"] < 1e-4
    assert agreement["training step"] < 1e-4


def test_what_does_not_fit_the_minutes_is_named(tmp_path: Path) -> None:
    status, said = _run(tmp_path, "--device", "cpu", "--small", "--minutes", "0")
    assert status == 0, said
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["cells"] == []
    assert [gap["part"] for gap in record["left_out"]] == PARTS
    assert "left out: S search: the 0 minutes were over" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    status, said = _run(tmp_path)
    assert status == 2
    assert said.count("\n") == 1
    assert "no CUDA device" in said


@pytest.mark.parametrize("name", ["S", "M", "L"])
def test_models_are_those_of_the_configs(name: str) -> None:
    small, own = (OmegaConf.load(ROOT / "conf" / "model" / f"qinco2_{size}.yaml") for size in ("s", name.lower()))
    config = {**small, **own}
    assert MODELS[name] == {key: config[key] for key in MODELS[name]}
    assert (config["num_steps"], config["codebook_size"]) == (8, 256)
    assert (config["num_candidates"], config["beam_size"]) == (16, 32)
