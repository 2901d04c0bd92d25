"""`qinco encode`: one result for one input, whatever happens on the way."""

import json
import shutil
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch

from qinco_lit.codec import Codec
from qinco_lit.encoding import default_shard_rows, module, shards
from qinco_lit.encoding import encode_file as command
from qinco_lit.environment import environment
from qinco_lit.quantizers import Quantizer, chunks
from qinco_lit.vectors import open_codes, open_vectors, write_vectors
from tests.codes.conftest import NUM_ROWS, SHARD_ROWS, contents, save_codec, save_vectors
from tests.models import random_quantizer


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (module, chunks):
        monkeypatch.setattr(place, "BLOCK_ROWS", 64)
    monkeypatch.setattr(Quantizer, "searched_rows", lambda *_: 50)


def test_batch_size_changes_no_byte(job, tmp_path, small_blocks, monkeypatch):
    given: list[list[int]] = []
    encode = Quantizer.encode_together
    monkeypatch.setattr(
        Quantizer,
        "encode_together",
        lambda quantizer, x, *search, **options: (
            given[-1].append(len(x)),
            encode(quantizer, x, *search, **options),
        )[1],
    )
    results = []
    for batch_size in (1, 64, 100, 200, 10_000):
        given.append([])
        job(batch_size=batch_size)
        results.append(contents(tmp_path))
        shutil.rmtree(tmp_path / "codes.h5.shards")
        (tmp_path / "codes.h5").unlink()
    assert all(result == results[0] for result in results)
    shard = [50, 14] * 4 + [44]  # of 300 rows, in blocks of 64
    assert given == [[*shard, *shard, *shard, 50, 14, 36]] * 5  # the same rows are always searched together


def test_autocast_around_the_job_changes_no_byte(job, tmp_path):
    expected = job() and contents(tmp_path)
    shutil.rmtree(tmp_path / "codes.h5.shards")
    (tmp_path / "codes.h5").unlink()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        job()
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("lists", [{}, {"num_lists": 5}])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_batch_is_encoded_without_waiting_for_the_device(job, vectors_path, tmp_path, monkeypatch, lists, dtype):
    vectors, folder = open_vectors(vectors_path), shards.ShardFolder(tmp_path / "x.h5", open_codes(job()).info)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for tensors without data
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    codec = Codec(random_quantizer(6, num_steps=3, codebook_size=16, hidden_dim=8, **lists), precision="bfloat16")
    encoding = module.Encoding(codec.to("meta"), vectors, folder, search={}, batch_size=1, num_threads=None)
    batch = module.Batch(0, torch.from_numpy(vectors[:].astype(dtype)))
    found = encoding.predict_step(encoding.transfer_batch_to_device(batch, torch.device("meta"), 0))
    assert found.num_rows == NUM_ROWS
    assert {each.device.type for each in (found.codes, found.list_ids) if each is not None} == {"meta"}


@pytest.mark.parametrize("merge", [False, True])
def test_the_second_call_does_nothing(job, tmp_path, monkeypatch, merge):
    job(merge=merge)
    before = contents(tmp_path)
    monkeypatch.setattr(module.Codec, "encode", None)
    job(merge=merge)
    job(merge=merge, shard_rows=None)
    assert contents(tmp_path) == before


def test_merge_later_is_merge_at_once(job, tmp_path, monkeypatch):
    at_once = job("a.h5", merge=True).read_bytes()
    job("b.h5")
    monkeypatch.setattr(module.Codec, "encode", None)
    assert job("b.h5", merge=True).read_bytes() == at_once
    before = contents(tmp_path)
    job("b.h5")  # a merged store stays merged
    assert contents(tmp_path) == before
    assert sorted(before) == ["a.h5", "b.h5"]


def test_shards_left_by_a_merge_that_was_killed_are_removed(job, tmp_path):
    job()
    shutil.copytree(tmp_path / "codes.h5.shards", tmp_path / "kept")
    job(merge=True)
    (tmp_path / "kept").rename(tmp_path / "codes.h5.shards")
    job(merge=True)
    assert sorted(contents(tmp_path)) == ["codes.h5"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam_size": 2}, "beam_size is 3 there, 2 here"),
        ({"num_candidates": 2}, "num_candidates is 4 there, 2 here"),
        ({"candidate_budget": 2}, "num_candidates is 4 there, None here, candidate_budget is None there, 2 here"),
        ({"precision": "bfloat16"}, "precision is float32 there, bfloat16 here"),
        ({"packed": True}, "packed is False there, True here"),
        ({"shard_rows": 500}, "shard_rows is 300 there, 500 here"),
        ({"codec": "another"}, "codec_sha256 is [0-9a-f]{12}… there, [0-9a-f]{12}… here"),
        (
            {"vectors": "more"},
            "num_rows is 1000 there, 1100 here, input_bytes is 28000 there, 30800 here, input_sample.*",
        ),
        ({"vectors": "other"}, "input_sample_sha256 is [0-9a-f]{12}… there, [0-9a-f]{12}… here"),
    ],
)
@pytest.mark.parametrize("state", ["complete", "merged", "unfinished"])
def test_other_work_is_refused_and_kept(job, tmp_path, change, message, state):
    output = job(merge=state == "merged")
    if state == "unfinished":
        output.unlink()
        (tmp_path / "codes.h5.shards" / "shard-00002.json").unlink()
    save_codec(tmp_path / "another", seed=1)
    save_vectors(tmp_path / "more.fvecs", num_rows=1100)
    save_vectors(tmp_path / "other.fvecs", seed=1)
    paths = {"another": tmp_path / "another", "more": tmp_path / "more.fvecs", "other": tmp_path / "other.fvecs"}
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"codes.h5(.shards)? belongs to other work: {message}; name another output="):
        job(**{name: paths.get(str(value), value) for name, value in change.items()})
    assert contents(tmp_path) == before


def test_the_same_vectors_under_another_name_are_the_same(job, tmp_path, vectors_path):
    output = job()
    before = output.read_bytes()
    output.unlink()
    (tmp_path / "codes.h5.shards" / "shard-00001.json").unlink()
    shutil.copy(vectors_path, tmp_path / "copy.fvecs")
    assert job(vectors=tmp_path / "copy.fvecs").read_bytes() == before


def test_every_row_of_a_small_input_and_the_ends_of_a_large_one_are_in_its_hash(tmp_path):
    from qinco_lit.vectors.code_info import input_facts

    for num_rows, changed in [(50, range(50)), (200_000, (0, 63, 199_936, 199_999))]:
        rows = np.zeros((num_rows, 2), np.uint8)
        hashes = set()
        for row in (None, *changed):
            if row is not None:
                rows[row] = 1
            write_vectors(tmp_path / "x.bvecs", rows)
            hashes.add(input_facts(open_vectors(tmp_path / "x.bvecs"))["input_sample_sha256"])
            rows[:] = 0
        assert len(hashes) == 1 + len(changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_rows": 0}, r"shard_rows=0: give at least 1"),
        ({"batch_size": 0}, r"batch_size=0: give at least 1"),
        ({"num_threads": 0}, r"num_threads=0: give at least 1"),
        ({"beam_size": 0}, r"beam_size=0 must be at least 1"),
        ({"precision": "double"}, r"precision=double is unknown: choose from .*"),
        (
            {"trainer": {"precision": "bf16-true"}},
            r"trainer.precision=bf16-true: it would round the vectors; give precision=NAME",
        ),
        (
            {"name": "codes.npy"},
            r"output=.*codes.npy: codes are written as HDF5 or Parquet, name a file .*, or a folder",
        ),
        ({"name": "no/codes.h5"}, r"output=.*codes.h5: the folder .*no does not exist; make it first"),
    ],
)
def test_impossible_options(job, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{message}$"):
        job(**options)
    assert contents(tmp_path) == {}


def test_a_rank_may_start_while_another_writes_the_manifest(job, tmp_path):
    (tmp_path / "codes.h5.shards").mkdir()
    (tmp_path / "codes.h5.shards" / ".manifest.json.0123.tmp").write_text("{")
    assert open_codes(job()).shape == (NUM_ROWS, 3)


def test_vectors_that_do_not_fit(job, tmp_path, codec_dir):
    np.save(tmp_path / "wide.npy", np.zeros((5, 7), np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((5, 6), np.int32))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"^.*codec encodes vectors of dimension 6, .*wide.npy has 7$"):
        job(vectors=tmp_path / "wide.npy")
    with pytest.raises(ValueError, match=r"whole.npy: vectors of dtype int32 are not supported: give float32 or uint8"):
        job(vectors=tmp_path / "whole.npy")
    assert contents(tmp_path) == before


def test_what_is_there_and_no_store_is_kept(job, tmp_path):
    (tmp_path / "codes.h5").write_text("mine")
    with pytest.raises(ValueError, match=r"codes.h5: no store of codes"):
        job()
    (tmp_path / "codes.h5").unlink()
    (tmp_path / "codes.h5.shards").mkdir()
    (tmp_path / "codes.h5.shards" / "mine").write_text("mine")
    with pytest.raises(ValueError, match=r"codes.h5.shards exists and holds no shards of codes: name another output$"):
        job()
    assert contents(tmp_path) == {"codes.h5.shards/mine": b"mine"}


@pytest.mark.parametrize(
    ("num_rows", "shard_rows"),
    [(1, 65_536), (4 << 20, 65_536), ((4 << 20) + 1, 131_072), (64 << 20, 1 << 20), (10**9, 1 << 20)],
)
def test_default_shard_rows(num_rows, shard_rows):
    assert default_shard_rows(num_rows) == shard_rows


def test_progress_counts_every_row_once(job, tmp_path, monkeypatch, caplog):
    job()
    (tmp_path / "codes.h5").unlink()
    (tmp_path / "codes.h5.shards" / "shard-00001.json").unlink()
    (tmp_path / "codes.h5.shards" / "shard-00003.json").unlink()
    monkeypatch.setattr(command, "Progress", partial(command.Progress, line_every_s=0.0))
    with caplog.at_level("INFO"):
        job()
    lines = [record.getMessage() for record in caplog.records if record.name == "qinco_lit.progress"]
    assert lines[0] == "600 rows are finished already"
    assert [line.split(" rows")[0] for line in lines[1:3]] == [
        "encoding: 900 of 1,000",
        "encoding: 1,000 of 1,000",
    ]
    assert command.folder_of(tmp_path / "codes.h5").name == "codes.h5.shards"


def test_what_encoded_is_said_beside_the_store(job, tmp_path, codec_dir):
    output = job()
    path = tmp_path / "codes.h5.json"
    record = json.loads(path.read_text())
    assert (record["codec"], record["device"], record["num_ranks"]) == (str(codec_dir), "cpu", 1)
    assert record["num_rows_encoded"] == NUM_ROWS
    assert record["store"] == open_codes(output).info.to_values()
    assert set(environment()) <= set(record)
    before = path.read_bytes()
    job()
    job(merge=True)
    assert path.read_bytes() == before  # nothing was encoded
    path.unlink()
    output.unlink()
    shard = job(merge=False).with_name("codes.h5.shards") / "shard-00001.json"
    shard.unlink()
    output.unlink()
    job()
    assert json.loads(path.read_text())["num_rows_encoded"] == SHARD_ROWS  # by the call that ended the work
