"""`qinco encode` into Parquet is killed between any two of its steps, again and again, and ends in the same bytes."""

import os
import signal
import sys
import traceback
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qinco_lit.encoding.encode_file import encode
from qinco_lit.vectors import code_tables, open_vectors
from qinco_lit.vectors.code_info import RowsDigest
from tests import processes
from tests.codes.conftest import ONE_PROCESS
from tests.vectors.test_vectors_tables import column

# Before each of these a process is killed: files appear and go by them.
_EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


def _encode(codec: Path, vectors: Path, output: Path, kill_at: int) -> None:
    """Encode in a fork of this process, which is killed before so many of its steps are done."""
    steps = count(1)

    def step() -> None:
        if next(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    name = output.name  # but for what Python does for itself

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _EVENTS and name in str(arguments[0]):
            step()

    sys.addaudithook(hook)
    add = RowsDigest.add
    RowsDigest.add = lambda self, rows: (step(), add(self, rows))[1]  # type: ignore[method-assign]
    encode(
        codec=codec, vectors=open_vectors(vectors), output=output, trainer=ONE_PROCESS, precision="float32",
        shard_rows=300, progress=False,
    )  # fmt: skip


def _killed_again_and_again(codec: Path, vectors: Path, output: Path) -> int:
    """Go on until a process comes to its end; the exit status is how many were killed before."""
    code_tables._GROUP_ROWS = 130
    for killed, kill_at in enumerate(range(2, 200, 12)):  # later and later, as what is finished is looked through again
        if (process := os.fork()) == 0:
            try:
                _encode(codec, vectors, output, kill_at)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status != -signal.SIGKILL:
            return killed if status == 0 else -1
    return -1


def test_the_bytes_are_those_of_an_undisturbed_run(codec_dir, tmp_path, monkeypatch):
    rows = np.float32(np.random.default_rng(0).normal(size=(1000, 6)))
    (tmp_path / "emb").mkdir()
    for number, part in enumerate(np.split(np.arange(1000), [400, 401])):
        content = pa.table({"id": part * 7, "embedding": column(rows[part])})
        pq.write_table(content, tmp_path / "emb" / f"part-{number}.parquet", row_group_size=150)
    monkeypatch.setattr(code_tables, "_GROUP_ROWS", 130)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    encode(
        codec=codec_dir, vectors=open_vectors(tmp_path / "emb"), output=tmp_path / "one" / "codes",
        trainer=ONE_PROCESS, precision="float32", shard_rows=300,
    )  # fmt: skip
    arguments = (codec_dir, tmp_path / "emb", tmp_path / "other" / "codes")
    killed, said = processes.run(_killed_again_and_again, *arguments, cwd=tmp_path)
    assert 1 < killed < 15, said
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"codes", "codes.json"}
    left, right = ({path.name for path in (tmp_path / name / "codes").iterdir()} for name in ("one", "other"))
    assert left == right
    for file in (tmp_path / "one" / "codes").iterdir():
        assert file.read_bytes() == (tmp_path / "other" / "codes" / file.name).read_bytes()
