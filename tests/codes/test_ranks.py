"""One process, several, and processes that are killed end in the same bytes."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.codec import Codec
from qinco_lit.vectors import open_codes, open_vectors
from tests import processes
from tests.codes import ranks
from tests.codes.conftest import contents, save_vectors

ROOT = Path(__file__).parents[2]
NUM_ROWS = 9_750  # 20 shards of 500 rows, the last one shorter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def results(folder: Path, codec_dir: Path) -> dict[str, Any]:
    vectors = save_vectors(folder / "base.fvecs", num_rows=NUM_ROWS)
    status, said = processes.run(ranks.main, str(codec_dir), str(vectors), str(folder), cwd=ROOT)
    logs = "".join(f"{path}: {path.read_text()}" for path in folder.rglob("*.log"))
    assert status == 0, said + logs
    return json.loads((folder / "results.json").read_text())  # type: ignore[no-any-return]


def stores(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if not name.endswith(".log")}


def test_the_number_of_processes_changes_no_byte(results, folder, codec_dir):
    assert [results[name] for name in ("one", "two", "three")] == [[0], [0, 0], [0, 0, 0]]
    one = stores(folder / "one")
    assert len(one) == 2 + 2 * 20  # store, manifest, shards with their records
    assert stores(folder / "two") == one
    assert stores(folder / "three") == one
    expected = Codec.load(codec_dir).encode(open_vectors(folder / "base.fvecs")[:])
    np.testing.assert_array_equal(open_codes(folder / "one" / "codes.h5")[:], expected)


def test_sigkill_at_random_moments_changes_no_byte(results, folder):
    assert results["resumed"] == [0, 0]
    assert stores(folder / "killed") == stores(folder / "one")


def test_a_kill_costs_no_finished_shard(results, folder):
    kills = results["kills"]
    assert any(0 < len(seen) < 20 for seen in kills)  # a kill came in the middle of the work
    for before, after in pairwise(kills):
        assert before.items() <= after.items()  # same files, written once
    last = {path.name: path.stat().st_mtime_ns for path in (folder / "killed").glob("codes.h5.shards/shard-*.json")}
    assert kills[-1].items() <= last.items()


def test_a_rank_may_have_nothing_to_do(results, folder):
    assert results["idle"] == [[0, 0], [0, 0]]
    assert stores(folder / "idle") == stores(folder / "one")


def test_merged_by_two_processes(results, folder):
    assert results["merged"] == [0, 0]
    assert list(stores(folder / "merged")) == ["codes.h5"]
    np.testing.assert_array_equal(
        open_codes(folder / "merged" / "codes.h5")[:], open_codes(folder / "one" / "codes.h5")[:]
    )


def test_a_rank_stops_when_the_process_that_started_it_is_gone(results):
    assert results["stopped"]


def test_the_first_rank_says_what_another_has_found(results, folder):
    assert results["nan"] == [2, 0]
    assert "nan.npy: vector 507 holds NaN or infinity" in (folder / "nan" / "rank0.log").read_text()
    assert (folder / "nan" / "rank1.log").read_text() == ""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("memory", "rank 1 failed: OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB. and more of this\n"),
        ("SIGTERM", "rank 1 failed: KeyboardInterrupt: SIGTERM\n"),
    ],
)
def test_the_first_rank_hears_of_whatever_ends_another(results, folder, fault, message):
    assert results[fault][0] == 2
    assert (folder / fault / "rank0.log").read_text() == message
    assert results[fault][1] != 0
    assert (folder / fault / "rank1.log").read_text() != ""


def test_lightning_starts_the_processes(folder, results, codec_dir, tmp_path):
    arguments = ["encode", f"codec={codec_dir}", f"input={folder / 'base.fvecs'}", "output=codes.h5", "shard_rows=500"]
    process = subprocess.run(
        [sys.executable, "-m", "qinco_lit.cli", *arguments, "trainer.accelerator=cpu", "trainer.devices=2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "codes.h5: 9,750 rows, 0.0 MB of codes, in " in process.stderr
    assert stores(tmp_path).keys() == stores(folder / "one").keys()  # no run folder
    one = stores(folder / "one")
    assert {k: v for k, v in stores(tmp_path).items() if not k.endswith("manifest.json")} == {
        k: v for k, v in one.items() if not k.endswith("manifest.json")
    }
