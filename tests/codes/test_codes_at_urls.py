"""Codes as Parquet at urls: the files of a store on this machine, whole or not at all, gone on with from anywhere."""

import json
from argparse import Namespace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from qinco_lit.cli import main
from qinco_lit.coarse.centroids import train_centroids
from qinco_lit.codec import Codec
from qinco_lit.commands import truncate, verify
from qinco_lit.encoding import shards
from qinco_lit.encoding.decode_file import decode_file
from qinco_lit.encoding.encode_file import encode_file
from qinco_lit.locks import only_writer
from qinco_lit.onnx_export import export_onnx
from qinco_lit.reports.facts.describe import describe
from qinco_lit.search.build.job import BuildOptions
from qinco_lit.vectors import code_tables, open_codes, open_vectors
from tests.codes.conftest import NUM_ROWS, SHARD_ROWS
from tests.codes.test_codes_in_tables import (  # noqa: F401
    emb,
    files,
    interrupted_at_the_third_part,
    small_groups,
)

URLS = ["memory://bucket/codes", "file://{}/bucket/codes"]


@pytest.fixture(autouse=True)
def bucket(monkeypatch, tmp_path) -> None:
    """An empty one in memory, and a working directory of its own."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def encoded(codec_dir, emb):  # noqa: F811
    """Encode `emb` to an output, in this process."""

    def run(output: str | Path, **options):
        return encode_file(codec_dir, emb, output, shard_rows=SHARD_ROWS, precision="float32", **options)

    return run


def at(url: str) -> dict[str, bytes]:
    """What lies below a url, by its name there."""
    system, path = fsspec.url_to_fs(url)
    return {str(name)[len(path) + 1 :]: system.cat_file(name) for name in system.find(path)}


@pytest.mark.parametrize("url", URLS)
def test_the_files_are_those_of_a_store_on_this_machine(encoded, codec_dir, emb, tmp_path, url):  # noqa: F811
    expected = encoded(tmp_path / "codes")
    url = url.format(tmp_path)
    store = encoded(f"{url}/")
    assert at(url) == files(tmp_path / "codes")
    assert json.loads(at(url.removesuffix("/codes"))["codes.json"])["num_rows_encoded"] == NUM_ROWS
    assert not list(Path.cwd().iterdir())
    # and all that reads stores reads it
    np.testing.assert_array_equal(store[395:405], expected[395:405])
    verify.run(Namespace(store=url))
    decode_file(codec_dir, url, tmp_path / "a.npy")
    decode_file(codec_dir, expected, tmp_path / "b.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    truncate.run(Namespace(path=url, num_steps=2, output=tmp_path / "cut.h5"))
    np.testing.assert_array_equal(open_codes(tmp_path / "cut.h5")[:], expected[:][:, :2])
    assert describe(url)[0] == describe(str(tmp_path / "codes"))[0]
    assert len(open_vectors(f"{url}/*.parquet:id")) == NUM_ROWS


def test_one_file_at_a_url_from_the_command_line(encoded, codec_dir, emb, tmp_path):  # noqa: F811
    encoded(tmp_path / "codes.parquet")
    given = [f"codec={codec_dir}", f"input={emb}", f"shard_rows={SHARD_ROWS}", "trainer.accelerator=cpu"]
    assert main(["encode", *given, "precision=float32", "output=memory://bucket/codes.parquet"]) == 0
    assert at("memory://bucket")["codes.parquet"] == (tmp_path / "codes.parquet").read_bytes()


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_what_is_interrupted_goes_on_here_or_on_another_machine(encoded, tmp_path, monkeypatch, is_elsewhere):
    encoded(tmp_path / "codes")
    url = "memory://bucket/codes"
    with interrupted_at_the_third_part(monkeypatch):
        encoded(url)
    assert sorted(at(url)) == ["part-8.parquet", "part-9.parquet"]
    assert [path.name for path in Path.cwd().iterdir()] == ["codes.shards"]
    with pytest.raises(ValueError, match=r"^memory://bucket/codes: part 2 is missing, its rows begin at 401: run the"):
        open_codes(url)
    if is_elsewhere:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
    else:
        monkeypatch.setattr(shards.ShardFolder, "writing", None)  # nothing is encoded again
    encoded(url)
    assert at(url) == files(tmp_path / "codes")
    assert not list(Path.cwd().iterdir())
    monkeypatch.setattr(shards.ShardFolder, "create", None)  # where work would begin
    encoded(url)


def test_other_work_gives_way_and_one_process_works_here(encoded, tmp_path, monkeypatch):
    url = "memory://bucket/codes"
    monkeypatch.setattr(code_tables, "_write_part", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoded(url)
    monkeypatch.chdir(tmp_path)
    words = (
        r"^memory://bucket/codes\.json belongs to other work: beam_size is 3 there, 2 here; name another output=, or"
    )
    with pytest.raises(ValueError, match=words):
        encoded(url, beam_size=2)
    assert not (tmp_path / "codes.shards").exists()
    with only_writer(Path("codes")), pytest.raises(ValueError, match=r"^codes: another process writes it"):
        encoded(url)
    fsspec.filesystem("memory").pipe_file("/bucket/codes.json", b"{}")
    with pytest.raises(
        ValueError, match=r"^memory://bucket/codes\.json is there and says nothing of codes: name another"
    ):
        encoded(url)
    fsspec.filesystem("memory").pipe_file("/bucket/mine/x.parquet", b"PAR1")
    with pytest.raises(ValueError, match=r"^memory:///bucket/mine/x\.parquet: no Parquet file, or a truncated one"):
        encoded("memory://bucket/mine")


def test_what_a_server_refuses_is_one_line_before_any_work_or_with_all_of_it_kept(encoded, tmp_path, monkeypatch):
    put = MemoryFileSystem.put_file

    def denied(_, __, path, **options):
        raise PermissionError("Access\nDenied")

    monkeypatch.setattr(MemoryFileSystem, "put_file", denied)
    with pytest.raises(OSError, match=r"^memory://bucket/codes\.json cannot be written: Access Denied$"):
        encoded("memory://bucket/codes")
    assert not list(Path.cwd().iterdir())
    monkeypatch.setattr(
        MemoryFileSystem, "put_file",
        lambda self, file, path, **options: (denied if "part-9" in path else put)(self, file, path, **options),
    )  # fmt: skip
    with pytest.raises(OSError) as raised:
        encoded("memory://bucket/codes")
    assert str(raised.value) == (
        "memory://bucket/codes/part-9.parquet cannot be written: Access Denied; 1000 of 1000 rows are finished and "
        "kept in codes.shards: run the same command again"
    )
    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    monkeypatch.setattr(shards.ShardFolder, "writing", None)  # nothing is encoded again
    assert len(encoded("memory://bucket/codes")) == NUM_ROWS
    with pytest.raises(OSError, match=r"^nonsense://b/codes cannot be read: Protocol not known: nonsense$"):
        encoded("nonsense://b/codes")


def test_where_names_can_be_changed_a_file_has_its_own_when_all_of_it_is_there(encoded, tmp_path, monkeypatch):
    copy, seen = LocalFileSystem.cp_file, []

    def failing(self, source, target, **options):
        seen.append(Path(target).name)
        if "part-9" in target:
            Path(target).write_bytes(b"half")
            raise OSError("the line went dead")
        copy(self, source, target, **options)

    monkeypatch.setattr(LocalFileSystem, "cp_file", failing)
    with pytest.raises(OSError, match=r"part-9\.parquet cannot be written: the line went dead; 1000 of 1000 rows"):
        encoded(f"file://{tmp_path}/bucket/codes")
    assert all(name.startswith(".") and name.endswith(".tmp") for name in seen)
    assert [path.name for path in (tmp_path / "bucket" / "codes").iterdir()] == ["part-8.parquet"]


def test_what_is_not_written_to_urls_says_so(codec_dir, vectors_path, tmp_path, capsys):
    for run, message in [
        (lambda: encode_file(codec_dir, vectors_path, "s3://b/x.h5"), "^output=s3://b/x.h5: codes go to urls as"),
        (lambda: encode_file(codec_dir, vectors_path, "s3://b"), "^output=s3://b: name a folder in it, s3://b/NAME$"),
        (lambda: train_centroids(open_vectors(vectors_path), 4, output="s3://b/x.npy"), "^s3:/b/x.npy: only codes in"),
        (
            lambda: truncate.run(Namespace(path=tmp_path, num_steps=1, output=Path("s3://b/x.h5"))),
            "^s3:/b/x.h5: only codes in Parquet are written to urls",
        ),
        (
            lambda: decode_file(codec_dir, encode_file(codec_dir, vectors_path, "c.h5"), "s3://b/x.npy"),
            "^s3:/b/x.npy: only codes in Parquet are written to urls .*: name a place on this machine, and copy",
        ),
        (lambda: Codec.load(codec_dir).save("s3://b/codec"), "^s3:/b/codec: only codes in Parquet"),
        (lambda: export_onnx(Codec.load(codec_dir), "s3://b/x.onnx"), "^s3:/b/x.onnx: only codes in Parquet"),
        (lambda: BuildOptions().check(Path("s3://b/index")), "^s3:/b/index: only codes in Parquet"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            run()
    assert main(["train", "data=photo_sift", "hydra.run.dir=s3://b/run"]) == 2
    assert "qinco: error: s3:/b/run: only codes in Parquet" in capsys.readouterr().err
    assert not Path("s3:").exists()
