"""The same configuration gives the same numbers: to the bit, from training to search, in other processes, too."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qinco_lit.cli import main
from qinco_lit.environment import environment
from qinco_lit.evaluation.baselines import SETTINGS
from qinco_lit.training.faiss_start import residual_codebooks
from qinco_lit.vectors import open_vectors
from tests.training.conftest import clustered

NUM_LISTS = 24
_TIMES = ("time_s", "vectors_per_s")  # of metrics.jsonl
_PAPER = ["recipe=paper", "recipe.lr=1e-3", "recipe.warmup_epochs=0.5"]


@pytest.fixture(scope="module")
def centroids_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("centroids") / "centroids.npy"
    np.save(path, clustered(NUM_LISTS, seed=5))
    return path


Train = Callable[..., Path]


@pytest.fixture
def train(small: list[str], tmp_path: Path) -> Train:
    """Train in this process; return the run folder."""

    def run(name: str, *options: str) -> Path:
        searched = [o for o in small if "candidates" not in o and "beam" not in o and "embed" not in o]
        given = searched if "model=qinco1" in options else small
        assert main(["train", *given, "trainer.max_epochs=2", *options, f"hydra.run.dir={tmp_path / name}"]) == 0
        return tmp_path / name

    return run


def _codec(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run_dir / "codec").iterdir()}


def _metrics(run_dir: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in _TIMES} for row in rows]


def _results(run_dir: Path) -> dict[str, Any]:
    summary = json.loads((run_dir / "summary.json").read_text())
    summary["last_metrics"] = {name: value for name, value in summary["last_metrics"].items() if name not in _TIMES}
    return {name: summary[name] for name in ("best_val_mse", "epochs", "steps", "seed", "parameters", "last_metrics")}


def _same(*run_dirs: Path) -> bool:
    return all(of(run_dirs[0]) == of(other) for other in run_dirs[1:] for of in (_codec, _metrics, _results))


@pytest.mark.parametrize(
    "options",
    [["recipe=tuned"], _PAPER, [*_PAPER, "model=qinco1", "model.num_blocks=1"], ["coarse=ivf"]],
    ids=["tuned", "paper", "paper-qinco1", "ivf"],
)
def test_the_seed_decides_and_nothing_else(train: Train, centroids_path: Path, options: list[str]) -> None:
    given = [*options, f"coarse.centroids={centroids_path}"] if "coarse=ivf" in options else options
    runs, before = [], torch.get_num_threads()
    for state, (seed, num_threads) in enumerate(((0, 1), (0, 3), (1, 1))):
        # no generator that all share has a part in it, nor has the number of threads
        torch.manual_seed(state)
        np.random.seed(state)
        random.seed(state)
        torch.set_num_threads(num_threads)
        runs.append(train(f"{state}", *given, "recipe.batch_size=256", f"seed={seed}"))
    torch.set_num_threads(before)
    assert _same(*runs[:2])
    assert _codec(runs[0])["weights.safetensors"] != _codec(runs[2])["weights.safetensors"]
    assert _metrics(runs[0])[0]["train/mse"] != _metrics(runs[2])[0]["train/mse"]  # from the first report on


def test_two_processes_agree(small: list[str], train: Train, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qinco_lit.cli", "train", *small, "trainer.max_epochs=2", "hydra.run.dir=there"]
    hashed = {**os.environ, "PYTHONHASHSEED": "1"}  # the order of sets of strings
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=hashed, **streams)
    here = train("here")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert _same(here, tmp_path / "there")
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("here", "there")]
    for facts in summaries:
        assert set(environment()) <= set(facts)
        assert facts["command"].startswith("qinco train data=files ")


@pytest.fixture
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # Lightning sets it for the process
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_restored")
def test_deterministic_algorithms_are_asked_for_and_on_record(train: Train) -> None:
    strict, plain = train("strict", "trainer.deterministic=true"), train("plain")
    given = [json.loads((path / "summary.json").read_text())["arithmetic"] for path in (strict, plain)]
    assert [values["deterministic"] for values in given] == [True, False]
    assert given[0]["variables"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert _same(plain, strict)  # on a CPU training is deterministic as it is


def _without_times(values: Any) -> Any:
    """Results without what is measured with a clock, and without where they lie."""
    timed = ("created", "measured_at", "train_s", "encode_vectors_per_s", "decode_vectors_per_s", "command")
    if isinstance(values, dict):
        return {name: _without_times(value) for name, value in values.items() if name not in timed}
    return values


def _recalls(search: Any) -> dict[str, Any]:
    """Recall of every operating point; which ones are worth measuring depends on the clock."""
    points = [(name, point) for name, engine in search["engines"].items() for point in engine["points"]]
    return {
        f"{name} {sorted(point['parameters'].items())}": [point[f"recall_at_{k}"] for k in (1, 10, 100)]
        for name, point in points
    }


def _files(folder: Path) -> dict[str, bytes]:
    """All files of an index but the report, which holds times, and the config, which holds its checksum."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.name: path.read_bytes() for path in files if path.name not in ("report.json", "config.json")}


@pytest.fixture
def chain(train: Train, centroids_path: Path, vectors_path: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Evaluate, encode, index and search a codec in a folder of their own, with caches of their own."""
    codec = train("run", "coarse=ivf", f"coarse.centroids={centroids_path}", "trainer.max_epochs=1") / "codec"
    base, queries = tmp_path / "base.npy", tmp_path / "queries.npy"
    np.save(base, open_vectors(vectors_path)[:700])
    np.save(queries, clustered(60, seed=7))

    def run(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        files = [f"data.train={vectors_path}", f"data.database={base}", f"data.queries={queries}"]
        data = ["data=files", *files, "data.num_val=256", f"data_dir={folder / 'data'}"]
        jobs = {
            "evaluate": ["baselines=[pq,opq,rq,lsq]", f"codec={codec}", *data],
            "encode": [f"codec={codec}", f"input={base}", f"output={folder / 'codes.h5'}", "merge=true"],
            "index": [f"codec={codec}", f"codes={folder / 'codes.h5'}", *data, f"output={folder / 'index'}"],
            "search": [
                f"index={folder / 'index'}", *data, "nprobe=[2,8]", "ef_search=[16]", "num_additive=[32]",
                "num_pairwise=[0,8]", "repeats=1", "latency_queries=0", "baselines=[ivf_pq]",
            ],
        }  # fmt: skip
        for job, arguments in jobs.items():
            place = [] if job in ("encode", "index") else [f"hydra.run.dir={folder / job}"]
            assert main([job, *arguments, *place]) == 0
        return folder

    return run


def test_what_is_done_with_a_codec_gives_the_same_again(
    chain: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "lsq", {"train_iterations": 2, "train_ils_iterations": 2, "encode_ils_iterations": 4})
    monkeypatch.setitem(SETTINGS, "opq", {"kmeans_iterations": 5, "rotation_iterations": 4})
    for command in ("evaluate", "search"):  # plots have tests of their own
        monkeypatch.setattr(f"qinco_lit.commands.{command}.figure_bytes", lambda *_: b"")
    first, second = chain("first"), chain("second")
    figures = [json.loads((folder / "evaluate" / "metrics.json").read_text()) for folder in (first, second)]
    assert _without_times(figures[0]) == _without_times(figures[1])
    one, other = (_recalls(json.loads((folder / "search" / "search.json").read_text())) for folder in (first, second))
    both = set(one) & set(other)
    assert len(both) >= 4  # the least and the most effort, of either engine
    assert {point: one[point] for point in both} == {point: other[point] for point in both}
    assert (first / "codes.h5").read_bytes() == (second / "codes.h5").read_bytes()
    assert _files(first / "index") == _files(second / "index")
    for name in ("evaluate/metrics.json", "search/search.json", "codes.h5.json", "index/report.json"):
        record = json.loads((first / name).read_text())
        assert set(environment()) <= set(record), name
        assert record["command"].startswith(
            f"qinco {name.partition('/')[0].partition('.')[0].replace('codes', 'encode')} "
        )


def test_codebooks_of_faiss_are_drawn_by_the_seed() -> None:
    x = clustered(1000)
    first, again, other = (residual_codebooks(x, 3, 16, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_seeds_that_generators_cannot_take(seed: int, small: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *small, f"seed={seed}"]) == 2
    assert capfd.readouterr().err == f"qinco: error: seed={seed}: give 0 to 4294967295\n"


def test_the_largest_seed_trains(train: Train) -> None:
    assert _results(train("run", f"seed={(1 << 32) - 1}"))["seed"] == (1 << 32) - 1
