"""`qinco centroids`: one command from vectors to centroids, that a kill does not set back."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qinco_lit.coarse.centroids import train_centroids
from qinco_lit.locks import only_writer
from qinco_lit.published import read_centroids
from qinco_lit.vectors import open_vectors
from tests.cli.conftest import qinco, refused  # noqa: F401 (fixtures)

# A pass of this job takes long enough to be killed in.
_SLOW = """
import sys, time
from qinco_lit.coarse.kmeans import update
from qinco_lit import cli
add = update.ListSums.add
update.ListSums.add = lambda self, x, lists: (time.sleep(0.02), add(self, x, lists))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def x(tmp_path):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(30, 6)) * 40)[rng.integers(0, 30, 40_000)] + rng.normal(size=(40_000, 6)) * 10
    np.save(tmp_path / "x.npy", np.clip(x + 128, 0, 255).astype(np.uint8))
    return np.load(tmp_path / "x.npy")


def test_centroids_of_a_file(qinco, x, tmp_path):  # noqa: F811
    command = ["centroids", "input=x.npy", "num_lists=50", "output=c.npy", "device=cpu", "iterations=3"]
    outcome = qinco(*command)
    assert outcome.code == 0, outcome.err
    found = read_centroids(tmp_path / "c.npy")
    assert (found.shape, found.dtype) == ((50, 6), np.float32)
    record = json.loads((tmp_path / "c.json").read_text())
    squared = ((x[:, None, :].astype(np.float32) - found) ** 2).sum(-1)
    assert record["mean_squared_error"] == pytest.approx(float(squared.min(1).mean()), rel=1e-4)
    counts = np.bincount(squared.argmin(1), minlength=50)
    assert record["imbalance"] == pytest.approx(float(50 * (counts**2).sum() / 40_000**2), rel=1e-3)
    assert (record["empty_lists"], record["training_rows"], record["input_path"]) == (0, 40_000, "x.npy")
    assert (record["facts"]["num_lists"], record["facts"]["method"], record["facts"]["device"]) == (50, "exact", "cpu")
    assert len(record["passes"]) == 4
    assert {"versions", "hardware", "seconds"} <= set(record)
    assert outcome.err.splitlines()[-1].startswith(
        "c.npy: 50 centroids of dimension 6 from 40,000 rows, mean squared error "
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.json", "c.npy", "x.npy"]

    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert "c.npy is complete already: 50 centroids" in qinco(*command, "num_threads=2").err
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_training_rows_of_a_data_set(qinco, x, tmp_path):  # noqa: F811
    data = ["data=files", "data.train=x.npy", "data.num_val=10000", "data.limit_train=20000"]
    options = ["num_lists=20", "max_training_rows=5000", "method=grouped", "device=cpu"]
    outcome = qinco("centroids", *data, *options, "output=c.npy")
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "c.json").read_text())
    assert (record["facts"]["num_rows"], record["training_rows"]) == (20_000, 5_000)
    assert record["passes"][0]["num_probes"] >= 1
    plain = tmp_path / "plain.npy"
    train_centroids(
        open_vectors(tmp_path / "x.npy").view(0, 20_000), output=plain, num_lists=20,
        max_training_rows=5_000, method="grouped", device="cpu",
    )  # fmt: skip
    assert plain.read_bytes() == (tmp_path / "c.npy").read_bytes()


def test_normalised_training_rows(qinco, x, tmp_path):  # noqa: F811
    data = ["data=files", "data.train=x.npy", "data.num_val=1000", "data.metric=cosine"]
    assert qinco("centroids", *data, "num_lists=5", "output=c.npy", "device=cpu").code == 0
    assert np.linalg.norm(np.load(tmp_path / "c.npy"), axis=1).max() < 1


def test_a_killed_job_goes_on_to_the_same_bytes(qinco, x, tmp_path):  # noqa: F811
    def job(name: str) -> list[str]:
        options = ["num_lists=40", "method=grouped", "min_gain=0", "device=cpu", "iterations=6", "num_threads=2"]
        return ["centroids", "input=x.npy", f"output={name}", *options]

    assert qinco(*job("expected.npy")).code == 0
    state = tmp_path / "c.npy.state.npz"
    program = [sys.executable, "-c", _SLOW, *job("c.npy")]
    with subprocess.Popen(program, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("pass 2 "):
            assert process.poll() is None
        time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert state.exists()
    (tmp_path / ".c.npy.state.npz.0123456789ab.tmp").touch()  # as when the kill comes while it is written
    assert not (tmp_path / "c.npy").exists()
    done = qinco(*job("c.npy"))
    assert "goes on after " in done.err
    assert (tmp_path / "c.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    left = {"c.json", "c.npy", "expected.json", "expected.npy", "x.npy"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_killed_between_the_two_files(x, tmp_path, monkeypatch):
    def run() -> None:
        train_centroids(open_vectors(tmp_path / "x.npy"), output=tmp_path / "c.npy", num_lists=9, device="cpu")

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("qinco_lit.coarse.centroids.write_atomically", kill)
        with pytest.raises(KeyboardInterrupt):
            run()
    before = (tmp_path / "c.npy").read_bytes()
    run()
    assert (tmp_path / "c.npy").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.json", "c.npy", "x.npy"]


def test_work_of_others_is_never_overwritten(qinco, refused, x, tmp_path):  # noqa: F811
    command = ["centroids", "input=x.npy", "output=c.npy", "device=cpu", "iterations=1"]
    assert qinco(*command, "num_lists=5").code == 0
    assert refused(*command, "num_lists=6").startswith("c.json belongs to other work: num_lists is 5 there, 6 here; ")
    changed = np.load(tmp_path / "c.npy")
    np.save(tmp_path / "c.npy", changed + 1)
    line = refused(*command, "num_lists=5")
    assert line == "c.npy is not what c.json describes: remove both to begin anew"
    (tmp_path / "c.json").write_text("{}")
    assert refused(*command, "num_lists=5").startswith("c.json is no record of centroids; name another output=")
    (tmp_path / "c.json").unlink()
    assert refused(*command, "num_lists=5").startswith("c.npy exists, without a record c.json; name another output=")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("num_lists=0", "num_lists=0: give at least 1"),
        ("iterations=0", "iterations=0: give at least 1"),
        ("max_training_rows=0", "max_training_rows=0: give at least 1"),
        ("num_threads=0", "num_threads=0: give at least 1"),
        ("min_gain=1", "min_gain=1: give a share of the error, at least 0 and below 1"),
        ("output=c.fvecs", "output=c.fvecs: centroids are written as npy, name a file that ends in .npy"),
        ("output=gone/c.npy", "output=gone/c.npy: the folder gone does not exist; make it first"),
        ("num_lists=40001", "num_lists=40001: x.npy gives 40000 training rows, fewer than lists"),
        ("max_training_rows=4", "num_lists=5: x.npy gives 4 training rows, fewer than lists"),
        ("device=gpu", "unknown device gpu; choose from: auto, cpu, cuda, cuda:N"),
        ("device=meta", "device=meta: k-means runs on cpu or cuda"),
        ("method=fast", "method=fast: expected one of auto, exact, grouped"),
        ("num_lists=many", "num_lists=many: expected an integer"),
        ("input=gone.npy", "gone.npy: no such file"),
        ("input=null", "give either input=FILE, any file of vectors, or data=CHOICE, the training rows of a data set"),
        ("data=bigann", "give either input=FILE, any file of vectors, or data=CHOICE, the training rows of a data set"),
        ("num_lists=null", "num_lists=N is required: qinco centroids data=CHOICE num_lists=N output=FILE.npy"),
        ("output=null", "output=FILE.npy is required: qinco centroids data=CHOICE num_lists=N output=FILE.npy"),
        ("batch_size=5", "unknown option batch_size; choose from: data_dir, device, "),
    ],
)
def test_mistakes_are_one_line(refused, x, options, message):  # noqa: F811
    given = dict(part.split("=") for part in ["input=x.npy", "num_lists=5", "output=c.npy", options])
    line = refused("centroids", *(f"{name}={value}" for name, value in given.items()))
    assert line.startswith(message)


def test_a_row_with_nan_is_named(qinco, tmp_path: Path):  # noqa: F811
    x = np.ones((2_000, 3), np.float32)
    x[1_234, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    outcome = qinco("centroids", "input=x.npy", "num_lists=5", "output=c.npy", "device=cpu")
    line = outcome.err.splitlines()[-1]
    assert (outcome.code, [path.name for path in tmp_path.iterdir()]) == (2, ["x.npy"])
    assert line == "qinco: error: training vector 1234 holds NaN or infinity (as float32): repair or remove it"


def test_centroids_that_another_process_finds_are_refused(refused, x, tmp_path):  # noqa: F811
    with only_writer(tmp_path / "c.npy"):
        line = refused("centroids", "input=x.npy", "num_lists=50", "output=c.npy", "device=cpu")
    assert line == "c.npy: another process writes it; wait for that one, or name another output"
