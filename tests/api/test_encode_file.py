"""`qinco_lit.encode_file`: the bytes of `qinco encode`, from arrays and files, in a process that stays as it was."""

import logging
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qinco_lit as ql
from qinco_lit.encoding import module
from qinco_lit.encoding.decode_file import decode_file
from tests.codes.conftest import DIM, NUM_ROWS, SHARD_ROWS, Job, codec_dir, contents, job, save_codec, vectors_path

__all__ = ["codec_dir", "job", "vectors_path"]  # a small codec, vectors, and `qinco encode` with them

OPTIONS = {"shard_rows": SHARD_ROWS, "precision": "float32", "device": "cpu"}


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("lists", [None, 5])
def test_the_store_has_the_bytes_of_the_command(
    job: Job, tmp_path: Path, vectors_path: Path, lists: int | None, merge: bool
):
    codec_dir = save_codec(tmp_path / "codec", lists=lists)
    expected = job("there.h5", codec=codec_dir, merge=merge).read_bytes()
    codec = ql.Codec.load(codec_dir, precision="float32")
    in_memory = ql.Codec(codec.quantizer, precision="float32")
    for number, given in enumerate((codec_dir, str(codec_dir), codec, in_memory)):
        folder = tmp_path / str(number)
        folder.mkdir()
        options = OPTIONS if isinstance(given, str | Path) else {"shard_rows": SHARD_ROWS}
        store = ql.encode_file(given, vectors_path, folder / "there.h5", merge=merge, **options)
        assert (folder / "there.h5").read_bytes() == expected
        found = codec.encode(ql.open_vectors(vectors_path))
        codes, list_ids = (found, None) if lists is None else (found[1], found[0])
        np.testing.assert_array_equal(store[:], codes)
        if list_ids is not None:
            np.testing.assert_array_equal(store.list_ids(0, len(store)), list_ids)


@pytest.mark.parametrize("kind", ["float16", "float64", "uint8", "torch", "lists", "columns"])
def test_arrays_have_the_codes_of_their_rows(codec_dir: Path, tmp_path: Path, kind: str):
    x = np.random.default_rng(0).normal(scale=40, loc=100, size=(500, DIM)).clip(0, 255).astype(np.float32)
    given: Any = x.astype(kind) if kind in ("float16", "float64", "uint8") else x
    given = {"torch": torch.from_numpy(x), "lists": x.tolist(), "columns": np.asfortranarray(x)}.get(kind, given)
    store = ql.encode_file(codec_dir, given, tmp_path / "codes.h5", **OPTIONS)
    codec = ql.Codec.load(codec_dir, precision="float32")
    np.testing.assert_array_equal(store[:], codec.encode(np.asarray(given)))
    assert ql.encode_file(codec_dir, given, tmp_path / "codes.h5", **OPTIONS)[:].tobytes() == store[:].tobytes()


def test_interrupted_and_called_again_it_ends_in_the_same_bytes(
    codec_dir: Path, vectors_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "whole").mkdir()
    ql.encode_file(codec_dir, vectors_path, tmp_path / "whole" / "codes.h5", **OPTIONS)
    expected = contents(tmp_path / "whole")
    (tmp_path / "again").mkdir()
    encode, calls = module.Codec.encode, 0

    def interrupted(codec: ql.Codec, x: Any, **search: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return encode(codec, x, **search)

    monkeypatch.setattr(module.Codec, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ql.encode_file(codec_dir, vectors_path, tmp_path / "again" / "codes.h5", **OPTIONS)
    assert not (tmp_path / "again" / "codes.h5").exists()
    ql.encode_file(codec_dir, vectors_path, tmp_path / "again" / "codes.h5", **OPTIONS)
    assert calls == 3 + 2  # two shards were finished
    assert contents(tmp_path / "again") == expected


def test_the_process_stays_as_it_was(
    codec_dir: Path,
    vectors_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(logging.getLogger("pytorch_lightning"), "level", logging.WARNING)

    def state() -> list[Any]:
        levels = [logging.getLogger(name).level for name in ("pytorch_lightning", "lightning.pytorch", "")]
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
        return [levels, handlers, torch.get_num_threads(), torch.is_grad_enabled(), list(warnings.filters)]

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = state()
    codec = ql.Codec.load(codec_dir)
    store = ql.encode_file(codec, vectors_path, "codes.h5", merge=True, num_threads=2, progress=False)
    assert state() == before
    assert sorted(path.name for path in Path().iterdir()) == ["codes.h5", "codes.h5.json"]
    assert capfd.readouterr() == ("", "")
    from_a_thread: list[Any] = []
    target = lambda: from_a_thread.append(ql.encode_file(codec, vectors_path, "thread.h5", progress=False)[:])  # noqa: E731
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(from_a_thread[0], store[:])


def test_codes_of_a_codec_in_memory_are_those_of_the_folder_it_is_saved_to(
    codec_dir: Path, vectors_path: Path, tmp_path: Path
):
    codec = ql.Codec(ql.Codec.load(codec_dir).quantizer)
    store = ql.encode_file(codec, vectors_path, tmp_path / "codes.h5")
    codec.save(tmp_path / "saved")
    vectors = decode_file(tmp_path / "saved", store, tmp_path / "x.npy", device="cpu", progress=False)
    np.testing.assert_allclose(vectors[:], codec.decode(store[:]), rtol=1e-5, atol=1e-5)
    two = decode_file(codec.truncated(2), tmp_path / "codes.h5", tmp_path / "two.npy", num_steps=2)
    np.testing.assert_allclose(two[:], codec.decode(store[:][:, :2]), rtol=1e-5, atol=1e-5)


def test_mistakes_are_one_line_and_leave_the_output_alone(codec_dir: Path, vectors_path: Path, tmp_path: Path):
    output = tmp_path / "codes.h5"
    x = np.asarray(ql.open_vectors(vectors_path)[:])
    broken = x.copy()
    broken[SHARD_ROWS + 7, 2] = np.nan
    codec = ql.Codec.load(codec_dir, precision="float32")
    for change, message in [
        ({"input": x[:, :4]}, r"\S*codec encodes vectors of dimension 6, input \(an array\) has 4"),
        ({"input": x[0]}, r"input has shape \(6,\): give vectors \(n, dim\)"),
        ({"input": x.astype(int)}, r"input: vectors of dtype int64 are not supported: give float32 or uint8"),
        ({"input": tmp_path / "none.npy"}, r".*none.npy.*"),
        ({"output": tmp_path / "codes.npy"}, r"output=\S*codes.npy: codes are written as HDF5 or Parquet, .*"),
        ({"output": tmp_path / "no" / "codes.h5"}, r"output=\S*: the folder \S*no does not exist; make it first"),
        ({"codec": tmp_path}, r"no codec in \S*: config.json is missing .*"),
        ({"shard_rows": 0}, r"shard_rows=0: give at least 1"),
        ({"num_steps": 9}, r"num_steps=9: \S*codec has 3 steps; give 1 to 3"),
        ({"codec": codec, "precision": "bfloat16"}, r"precision=bfloat16: this codec has float32: .*"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=f"^{message}$"):
            ql.encode_file(**{"codec": codec_dir, "input": x, "output": output, **OPTIONS, **change})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=rf"^input \(an array\): vector {SHARD_ROWS + 7} holds NaN or infinity"):
        ql.encode_file(codec_dir, broken, output, **OPTIONS)
    ql.encode_file(codec_dir, x, tmp_path / "other.h5", **OPTIONS)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"other.h5 belongs to other work: beam_size is 3 there, 2 here; name another"):
        ql.encode_file(codec_dir, x, tmp_path / "other.h5", beam_size=2, **OPTIONS)
    with pytest.raises(ValueError, match=r"other.h5 belongs to other work: .*input_sample_sha256"):
        ql.encode_file(codec_dir, x[::-1], tmp_path / "other.h5", **OPTIONS)
    assert contents(tmp_path) == before
    assert len(x) == NUM_ROWS
