"""What stops `qinco encode`, and what damages its work: one line, nothing lost, nothing half-written."""

import argparse
import errno
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from qinco_lit import atomic
from qinco_lit.commands import truncate, verify
from qinco_lit.encoding import module, shards
from qinco_lit.encoding.decode_file import decode_file
from qinco_lit.locks import only_writer
from qinco_lit.vectors import open_codes
from tests import processes
from tests.codes.conftest import NUM_ROWS, SHARD_ROWS, contents


def _encode_without_room(arguments: list[str]) -> int:
    """In a process of its own."""
    sys.dont_write_bytecode = True  # a compiled module would be cut, too, and stay so
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # EFBIG, as a full disk gives ENOSPC
    return processes.qinco(["encode", *arguments])


def run_verify(path: Path) -> None:
    verify.run(argparse.Namespace(store=path))


@pytest.mark.parametrize(("dtype", "value"), [(np.float32, np.nan), (np.float16, np.inf), (np.float64, 1e300)])
def test_a_row_without_numbers_is_named(job, tmp_path, dtype, value):
    rows = np.zeros((NUM_ROWS, 6), dtype)
    rows[777, 2] = value
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(
        ValueError, match=r"^.*x.npy: vector 777 holds NaN or infinity \(as float32\): repair or remove it"
    ):
        job(vectors=tmp_path / "x.npy")
    assert not (tmp_path / "codes.h5").exists()
    finished = [name for name in contents(tmp_path) if name.endswith(".json") and "shard-" in name]
    assert len(finished) <= 777 // SHARD_ROWS
    assert not [name for name in contents(tmp_path) if name.endswith(".tmp")]


@pytest.mark.parametrize("merge", [False, True])
def test_a_full_disk_keeps_what_is_finished(job, tmp_path, monkeypatch, merge):
    expected = job("expected.h5", merge=merge).read_bytes()
    reserved: list[Path] = []
    full = {"at": 3}

    def reserve(descriptor: int, start: int, num_bytes: int) -> None:
        reserved.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        if len(reserved) == full["at"]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "posix_fallocate", reserve)
    with pytest.raises(OSError, match="No space left on device") as raised:
        job("codes.h5", merge=merge)
    assert str(raised.value) == (
        f"[Errno 28] {tmp_path}/codes.h5.shards/shard-00002.h5: No space left on device; 600 of 1000 rows are finished "
        "and kept: free some space and run the same command again"
    )
    names = {
        "manifest.json",
        "failure.json",
        "shard-00000.h5",
        "shard-00000.json",
        "shard-00001.h5",
        "shard-00001.json",
    }
    assert {path.name for path in (tmp_path / "codes.h5.shards").iterdir()} == names
    assert not (tmp_path / "codes.h5").exists()
    if merge:  # no room for the merged file, either
        full["at"] = len(reserved) + 3
        with pytest.raises(
            OSError, match=r"codes.h5: No space left on device; 1000 of 1000 rows are finished and kept"
        ):
            job("codes.h5", merge=True)
        assert not (tmp_path / "codes.h5").exists()
    reserved.clear()
    full["at"] = -1
    name = "codes.h5"
    result = job(name, merge=merge).read_bytes()
    assert result.replace(b"codes.h5", b"expected.h5") == expected if merge else len(reserved) == 2
    np.testing.assert_array_equal(open_codes(tmp_path / name)[:], open_codes(tmp_path / "expected.h5")[:])
    assert not [path for path in tmp_path.rglob("*") if path.name in ("failure.json",) or path.suffix == ".tmp"]


def test_a_write_that_the_system_refuses(tmp_path, codec_dir, vectors_path):
    arguments = [f"codec={codec_dir}", f"input={vectors_path}", "output=codes.h5", "trainer.accelerator=cpu"]
    code, said = processes.run(_encode_without_room, arguments, cwd=tmp_path)
    assert code == 2
    assert said == (
        "qinco: error: [Errno 27] codes.h5.shards/shard-00000.h5: File too large; 0 of 1000 rows are finished and "
        "kept: free some space and run the same command again\n"
    )
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"manifest.json", "failure.json"}


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def _flip(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["codes"][7, 1] ^= 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"shard-00001.h5: \d+ bytes, but the shard was written with \d+: it is damaged"),
        (_flip, r"shard-00001.h5: shard 1 \(rows 300..599\) is damaged: its checksum is another"),
        (Path.unlink, r"shard-00001.h5: the file of this shard is missing"),
    ],
)
def test_damage_is_found_and_repaired(job, tmp_path, damage, message):
    output = job()
    run_verify(output)
    before = contents(tmp_path)
    shard = tmp_path / "codes.h5.shards" / "shard-00001.h5"
    damage(shard)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_verify(output)
    if damage is _flip:
        job()  # looks at sizes only: reading everything each time would cost too much
        assert contents(tmp_path) != before
        shard.unlink()
    job()
    assert contents(tmp_path) == before
    run_verify(output)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink])
def test_damage_is_found_by_a_restart(job, tmp_path, damage, monkeypatch):
    before = job() and contents(tmp_path)
    (tmp_path / "codes.h5").unlink()
    damage(tmp_path / "codes.h5.shards" / "shard-00002.h5")
    given: list[int] = []
    encode = module.Codec.encode
    monkeypatch.setattr(
        module.Codec, "encode", lambda codec, x, **search: (given.append(len(x)), encode(codec, x, **search))[1]
    )
    job()
    assert given == [SHARD_ROWS]
    assert contents(tmp_path) == before


def test_verify_of_unfinished_work(job, tmp_path):
    output = job()
    output.unlink()
    with pytest.raises(
        ValueError,
        match=r"not complete: its shards are not joined; run the same `qinco encode` or `qinco truncate` again$",
    ):
        run_verify(output)
    (tmp_path / "codes.h5.shards" / "shard-00003.json").unlink()
    with pytest.raises(
        ValueError, match=r"is not complete: 3 of 4 shards are finished \(900 of 1000 rows\); run the same"
    ):
        run_verify(output)
    _flip(tmp_path / "codes.h5.shards" / "shard-00001.h5")
    with pytest.raises(
        ValueError, match=r"shard-00001.h5: shard 1 \(rows 300..599\) is damaged: its checksum is another"
    ):
        run_verify(output)


def test_verify_of_a_merged_store(job):
    output = job(merge=True)
    run_verify(output)
    with h5py.File(output, "r+") as file:
        file["codes"][999, 0] ^= 1
    with pytest.raises(ValueError, match=r"codes.h5: shard 3 \(rows 900..999\) is damaged: its checksum is another"):
        run_verify(output)


@pytest.mark.parametrize("merge", [False, True])
def test_what_killed_processes_leave_is_removed(job, tmp_path, merge):
    before = job(merge=merge) and contents(tmp_path)
    (tmp_path / "codes.h5").unlink()
    folder = tmp_path / "codes.h5.shards"
    folder.mkdir(exist_ok=True)
    names = [".manifest.json", ".shard-00000.json", ".shard-00002.h5"]
    stale = [*(folder / f"{name}.01.tmp" for name in names), tmp_path / ".codes.h5.01.tmp"]
    for path in stale:
        path.write_text("half")
    (tmp_path / ".codes.h5x.tmp").write_text("mine")
    job(merge=merge)
    assert contents(tmp_path) == {**before, ".codes.h5x.tmp": b"mine"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_between_two_shards_at_the_latest(job, tmp_path, monkeypatch, number):
    expected = job() and contents(tmp_path)
    shutil.rmtree(tmp_path / "codes.h5.shards")
    (tmp_path / "codes.h5").unlink()
    encode, calls = module.Codec.encode, []

    def signalled(codec: module.Codec, x: object, **search: object) -> object:
        calls.append(x)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return encode(codec, x, **search)  # type: ignore[arg-type]

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(module.Codec, "encode", signalled)
    with pytest.raises(KeyboardInterrupt):
        job()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert not (tmp_path / "codes.h5").exists()
    assert not [name for name in contents(tmp_path) if name.endswith(".tmp")]
    assert len(calls) == 3
    job()
    assert contents(tmp_path) == expected


def test_a_second_job_on_the_same_output_gives_way(job, tmp_path, monkeypatch):
    writer = shards.CodeWriter.append

    def append(self: shards.CodeWriter, rows: shards.StoredRows) -> None:
        writer(self, rows)
        for temporary in (tmp_path / "codes.h5.shards").glob(".shard*.tmp"):  # what the other job does as it starts
            temporary.unlink()

    monkeypatch.setattr(shards.CodeWriter, "append", append)
    with pytest.raises(
        FileNotFoundError, match=r"shard-00000.h5: its temporary file is gone: does another process write"
    ):
        job()


def test_only_failures_of_earlier_runs_are_forgotten(job, tmp_path):
    info = open_codes(job()).info
    folder = shards.ShardFolder(tmp_path / "other.h5", info)
    folder.create()
    folder.report_failure(1, ValueError("another rank was faster"))
    left = (folder.folder / "failure.json").stat().st_mtime
    folder.forget_failure(before=left)  # a run that began just then
    with pytest.raises(shards.OtherRankFailedError, match="^another rank was faster$"):
        folder.check_failure()
    folder.forget_failure(before=left + 1)
    folder.check_failure()
    folder.forget_failure(before=left + 1)  # nothing is there


@pytest.mark.parametrize("command", ["encode", "encode again", "decode", "truncate", "truncate codec"])
def test_an_output_that_another_process_writes_is_refused_and_nothing_changes(job, codec_dir, tmp_path, command):
    codes, output = job(), tmp_path / "out"
    output = {"decode": output.with_suffix(".npy"), "truncate codec": output}.get(command, output.with_suffix(".h5"))
    cut = argparse.Namespace(path=codec_dir if command == "truncate codec" else codes, num_steps=2, output=output)
    run = {
        "encode": lambda: job(output.name),
        "decode": lambda: decode_file(codec=codec_dir, codes=codes, output=output, device="cpu"),
    }.get(command.partition(" again")[0], lambda: truncate.run(cut))
    if command == "encode again":
        run()
    before = contents(tmp_path)
    with only_writer(output):
        with pytest.raises(ValueError) as refusal:
            run()
        assert contents(tmp_path) == before | {f".{output.name}.lock": b""}
    assert str(refusal.value) == f"{output}: another process writes it; wait for that one, or name another output"
    run()
    assert output.exists()
    assert not list(tmp_path.glob(".*"))
