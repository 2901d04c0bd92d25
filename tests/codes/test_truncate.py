"""`qinco truncate` of a store: the first codes of every vector, in the same form, checked, and resumable."""

import argparse
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from qinco_lit import atomic
from qinco_lit.cli import main
from qinco_lit.commands import truncate, verify
from qinco_lit.encoding import shards
from qinco_lit.progress import Progress
from qinco_lit.vectors import code_store, open_codes
from tests.codes.conftest import NUM_ROWS, SHARD_ROWS, contents, save_codec

STEPS = 4


def cut(source: Path, num_steps: int, name: str | Path = "cut.h5") -> Path:
    output = source.parent / name
    truncate.run(argparse.Namespace(path=source, num_steps=num_steps, output=output))
    return output


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_codec(tmp_path_factory.mktemp("four") / "codec", num_steps=STEPS)


@pytest.fixture
def store(job: Callable[..., Path], four_steps: Path) -> Callable[..., Path]:
    return lambda **options: job(codec=four_steps, **options)


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("codebook_size", [16, 256, 1024])
@pytest.mark.parametrize("lists", [None, 20])
def test_it_holds_the_first_codes_in_the_same_form(job, tmp_path, codebook_size, packed, merge, lists):
    codec = save_codec(tmp_path / "codec", num_steps=STEPS, codebook_size=codebook_size, lists=lists)
    path = job(codec=codec, packed=packed, merge=merge)
    whole = open_codes(path)
    for num_steps in (1, 3):
        output = cut(path, num_steps, f"first{num_steps}.h5")
        verify.run(argparse.Namespace(store=output))
        first = open_codes(output)
        np.testing.assert_array_equal(first[:], whole[:][:, :num_steps])
        assert (first.dtype, first.is_virtual, first.info.packed) == (whole.dtype, not merge, packed)
        if lists is not None:
            np.testing.assert_array_equal(first.list_ids(), whole.list_ids())
        same = {"num_steps", "encoded_num_steps"}
        before, after = whole.info.to_values(), first.info.to_values()
        assert {name: after[name] for name in after if name not in same} == {
            name: before[name] for name in before if name not in same
        }
        assert (after["num_steps"], after["encoded_num_steps"]) == (num_steps, STEPS)
        assert first.shards[1].sha256 == _sha256(first, SHARD_ROWS, 2 * SHARD_ROWS)
        with h5py.File(output, "r") as file:
            assert file.attrs["encoded_num_steps"] == STEPS
            np.testing.assert_array_equal(file["codes"][:], first.info.stored(first[:]))


def _sha256(store: code_store.CodeStore, start: int, stop: int) -> str:
    ids = b"" if store.info.num_lists is None else store.list_ids(start, stop).astype("<i4").tobytes()
    return hashlib.sha256(store.info.stored(store[start:stop]).tobytes() + ids).hexdigest()


@pytest.mark.parametrize("options", [{}, {"merge": True}, {"packed": True}])
def test_once_or_twice_is_the_same_and_to_all_steps_changes_no_byte(store, tmp_path, options):
    path = store(**options)
    before = contents(tmp_path)
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    cut(path, 2, tmp_path / "a" / "codes.h5")
    cut(cut(path, 3, "three.h5"), 2, tmp_path / "b" / "codes.h5")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    cut(path, STEPS, tmp_path / "c" / "codes.h5")
    assert contents(tmp_path / "c") == before


@pytest.mark.parametrize("packed", [False, True])
def test_the_size_of_the_pieces_changes_no_byte(store, tmp_path, monkeypatch, packed):
    path = store(packed=packed)
    cut(path, 3)
    expected = contents(tmp_path)
    shutil.rmtree(tmp_path / "cut.h5.shards")
    (tmp_path / "cut.h5").unlink()
    monkeypatch.setattr(code_store, "_VERIFIED_BYTES", 100)
    sizes: list[int] = []
    append = shards.ShardWriter.append
    monkeypatch.setattr(
        shards.ShardWriter, "append", lambda writer, rows: (sizes.append(len(rows.codes)), append(writer, rows))[1]
    )
    cut(path, 3)
    assert max(sizes) <= 100 // open_codes(path).info.bytes_per_vector
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("merge", [False, True])
def test_it_goes_on_where_it_was_interrupted(store, tmp_path, monkeypatch, caplog, merge):
    path = store(merge=merge)
    before = contents(tmp_path)
    expected = contents(cut(path, 2).parent)
    (tmp_path / "cut.h5").unlink()
    shutil.rmtree(tmp_path / "cut.h5.shards", ignore_errors=True)
    append, given = shards.ShardWriter.append, []

    def interrupted(writer: shards.ShardWriter, rows: Any) -> None:
        given.append(len(rows.codes))
        if len(given) == 3:
            raise KeyboardInterrupt
        append(writer, rows)

    monkeypatch.setattr(shards.ShardWriter, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cut(path, 2)
    names = {"manifest.json", *(f"shard-0000{shard}.{kind}" for shard in (0, 1) for kind in ("h5", "json"))}
    assert set(contents(tmp_path)) - set(before) == {f"cut.h5.shards/{name}" for name in names}
    with pytest.raises(
        ValueError, match=r"cut.h5 is not complete: 2 of 4 shards .* run the same `qinco truncate` again$"
    ):
        verify.run(argparse.Namespace(store=tmp_path / "cut.h5"))
    monkeypatch.setattr("qinco_lit.encoding.truncate.Progress", partial(Progress, line_every_s=0.0))
    with caplog.at_level("INFO"):
        cut(path, 2)
    assert given[3:] == [SHARD_ROWS, NUM_ROWS - 3 * SHARD_ROWS]
    assert contents(tmp_path) == expected
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "600 rows are finished already"
    assert [line.split(" rows")[0] for line in lines[1:3]] == ["truncating: 900 of 1,000", "truncating: 1,000 of 1,000"]
    assert lines[3].startswith(f"{tmp_path}/cut.h5: 1,000 rows, 2 of 4 codes each, 0.0 MB, in ")


@pytest.mark.parametrize("merge", [False, True])
def test_a_damaged_shard_is_not_copied(store, tmp_path, merge):
    path = store(merge=merge)
    damaged, row = (path, 305) if merge else (tmp_path / "codes.h5.shards" / "shard-00001.h5", 5)
    with h5py.File(damaged, "r+") as file:
        file["codes"][row, 3] ^= 1  # not even a code that is kept
    with pytest.raises(ValueError, match=r"shard 1 \(rows 300..599\) is damaged: its checksum is another$"):
        cut(path, 2)
    assert not (tmp_path / "cut.h5").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    assert shards.ShardFolder.open(tmp_path / "cut.h5").finished() == {0}  # type: ignore[union-attr]


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("num_steps", [2, STEPS])
def test_a_store_that_is_complete_is_tidied_up_and_kept(store, tmp_path, monkeypatch, caplog, merge, num_steps):
    path = store(merge=merge)
    expected = contents(cut(path, num_steps).parent)
    (tmp_path / "cut.h5").unlink()
    shutil.rmtree(tmp_path / "cut.h5.shards", ignore_errors=True)
    record = tmp_path / "cut.h5.json"
    record.unlink()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # right after the store has its name
        patched.setattr(shards.ShardFolder, "remove", killed)
        patched.setattr("qinco_lit.encoding.truncate._write_record", killed)
        with pytest.raises(KeyboardInterrupt):
            cut(path, num_steps)
    assert (tmp_path / "cut.h5.shards").is_dir()
    assert not record.exists()
    monkeypatch.setattr(shards.ShardFolder, "writing", None)  # nothing is cut again
    with caplog.at_level("INFO"):
        cut(path, num_steps)
    assert caplog.messages[-1] == f"{tmp_path}/cut.h5 is complete already: 1,000 rows"
    assert contents(tmp_path) == expected
    values = json.loads(record.read_text())
    assert (values["source"], values["seconds"]) == (str(path), None)
    assert values["store"] == open_codes(tmp_path / "cut.h5").info.to_values()
    written = record.read_bytes()
    cut(path, num_steps)
    assert record.read_bytes() == written
    assert contents(tmp_path) == expected


def test_a_shard_that_is_gone_is_cut_again(store, tmp_path):
    path = store()
    expected = contents(cut(path, 2).parent)
    (tmp_path / "cut.h5.shards" / "shard-00001.h5").unlink()
    cut(path, 2)
    assert contents(tmp_path) == expected


def test_verify_names_the_commands_that_may_have_begun_a_whole_copy(store, tmp_path):
    cut(store(), STEPS).unlink()
    with pytest.raises(ValueError, match=r"not joined; run the same `qinco encode` or `qinco truncate` again$"):
        verify.run(argparse.Namespace(store=tmp_path / "cut.h5"))


def test_a_full_disk_keeps_what_is_finished(store, tmp_path, monkeypatch):
    path = store()
    reserved: list[int] = []

    def reserve(descriptor: int, start: int, num_bytes: int) -> None:
        reserved.append(num_bytes)
        if len(reserved) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "posix_fallocate", reserve)
    with pytest.raises(OSError, match="No space left on device") as raised:
        cut(path, 2)
    assert str(raised.value) == (
        f"[Errno 28] {tmp_path}/cut.h5.shards/shard-00002.h5: No space left on device; 600 of 1000 rows are finished "
        "and kept: free some space and run the same command again"
    )
    np.testing.assert_array_equal(open_codes(cut(path, 2))[:], open_codes(path)[:][:, :2])


def test_what_it_refuses(store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store()
    cut(tmp_path / "codes.h5", 1, "work.h5")
    (tmp_path / "work.h5").unlink()
    (tmp_path / "there").mkdir()
    (tmp_path / "text.h5").write_text("text")
    cut(tmp_path / "codes.h5", 3, "three.h5")
    cut(tmp_path / "codes.h5", 2, "foreign.h5").write_text("of the user, beside shards of the same work")
    before = contents(tmp_path)
    steps = "codes.h5 has 4 steps; give 1 to 4"
    for arguments, message in {
        ("codes.h5", "0", "cut.h5"): f"--num-steps 0: {steps}",
        ("codes.h5", "-1", "cut.h5"): f"--num-steps -1: {steps}",
        ("codes.h5", "5", "cut.h5"): f"--num-steps 5: {steps}",
        ("codes.h5", "two", "cut.h5"): "argument --num-steps: invalid int value: 'two'",
        ("codes.h5", "2", "codes.h5"): "--output codes.h5 exists: name another one",
        ("codes.h5", "4", "codes.h5"): "--output codes.h5 exists: name another one",
        ("codes.h5", "2", "text.h5"): "--output text.h5 exists: name another one (text.h5: no store of codes",
        ("codes.h5", "2", "foreign.h5"): "--output foreign.h5 exists: name another one (",
        (
            "codes.h5",
            "2",
            "three.h5",
        ): "three.h5 belongs to other work: num_steps is 3 there, 2 here; name another --output, or remove it",
        ("codes.h5", "2", "there"): "--output there exists: name another one",
        ("codes.h5", "2", "cut.npy"): "--output cut.npy: codes are written as HDF5, name a file that ends in .h5",
        ("codes.h5", "2", "no/cut.h5"): "--output no/cut.h5: the folder no does not exist; make it first",
        ("gone.h5", "2", "cut.h5"): "gone.h5: no such store of codes or codec folder",
        ("text.h5", "2", "cut.h5"): "text.h5: no store of codes that this version reads (",
        ("there", "2", "cut"): "no codec in there: config.json is missing",
        (
            "codes.h5",
            "2",
            "work.h5",
        ): "work.h5.shards belongs to other work: num_steps is 1 there, 2 here; name another --output, or remove it",
    }.items():
        source, num_steps, output = arguments
        assert main(["truncate", source, "--num-steps", num_steps, "--output", output]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"qinco: error: {message}")
        assert line.count("\n") == 1
        assert contents(tmp_path) == before


def test_the_command_says_what_it_did(store, tmp_path, caplog):
    path = store()
    arguments = ["truncate", str(path), "--num-steps", "3", "--output", str(tmp_path / "cut.h5")]
    with caplog.at_level("INFO"):
        assert main(arguments) == 0
    assert caplog.messages[-1].startswith(f"{tmp_path}/cut.h5: 1,000 rows, 3 of 4 codes each, 0.0 MB, in ")
    record = json.loads((tmp_path / "cut.h5.json").read_text())
    assert (record["format"], record["source"]) == ("qinco_lit truncate", str(path))
    assert record["store"] == open_codes(tmp_path / "cut.h5").info.to_values()
    assert record["command"] == "qinco " + " ".join(arguments)
