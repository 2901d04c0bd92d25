"""Codes next to the vectors: in Parquet, with their ids, of the bytes of the other store, resumable as that one."""

import contextlib
import json
import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qinco_lit import atomic
from qinco_lit.commands import verify
from qinco_lit.encoding import shards
from qinco_lit.encoding.decode_file import decode_file
from qinco_lit.encoding.encode_file import encode_file
from qinco_lit.encoding.truncate import truncate_codes
from qinco_lit.search.build.user_ids import UserIds
from qinco_lit.vectors import code_tables, open_codes, open_vectors
from tests.codes.conftest import NUM_ROWS, contents, save_codec
from tests.vectors.test_vectors_tables import column

SIZES = [400, 1, 599]


@pytest.fixture(scope="module")
def emb(tmp_path_factory, vectors_path) -> Path:
    """The rows of `vectors_path` in three Parquet files, with ids that say nothing of their place."""
    folder, rows = tmp_path_factory.mktemp("tables") / "emb", open_vectors(vectors_path)[:]
    folder.mkdir()
    ids = np.random.default_rng(0).permutation(NUM_ROWS) * 7
    for number, part in enumerate(np.split(np.arange(NUM_ROWS), np.cumsum(SIZES)[:-1])):
        content = pa.table({"id": ids[part], "key": [f"k{i}" for i in part], "embedding": column(rows[part])})
        pq.write_table(content, folder / f"part-{number + 8}.parquet", row_group_size=150)
    return folder


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(code_tables, "_GROUP_ROWS", 130)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("lists", [None, 7])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_for_each_file_with_its_ids_and_the_codes_of_the_other_store(job, emb, tmp_path, lists, packed):
    codec = save_codec(tmp_path / "codec", lists=lists, codebook_size=11)
    expected = open_codes(job(codec=codec, packed=packed))
    store = open_codes(job("codes", vectors=emb, codec=codec, packed=packed))
    assert [file.name for file in sorted((tmp_path / "codes").iterdir())] == [
        "part-10.parquet", "part-8.parquet", "part-9.parquet",
    ]  # fmt: skip
    assert not (tmp_path / "codes.shards").exists()
    assert json.loads((tmp_path / "codes.json").read_text())["num_rows_encoded"] == NUM_ROWS
    for reader in (store, pickle.loads(pickle.dumps(store))):
        np.testing.assert_array_equal(reader[:], expected[:])
        np.testing.assert_array_equal(reader[395:405], expected[395:405])
        if lists:
            np.testing.assert_array_equal(reader.list_ids(), expected.list_ids())
    tables = [pq.read_table(tmp_path / "codes" / f"part-{number}.parquet") for number in (8, 9, 10)]
    assert [len(table) for table in tables] == SIZES
    whole, given = (
        pa.concat_tables(tables),
        pa.concat_tables([pq.read_table(emb / f"part-{n}.parquet") for n in (8, 9, 10)]),
    )
    assert whole.column_names == ["id", *(["list_id"] if lists else []), "codes"]
    assert whole["id"].equals(given["id"])
    stored = np.stack(whole["codes"].to_numpy())
    np.testing.assert_array_equal(expected.info.unstored(stored.astype(expected.info.stored_dtype)), expected[:])
    # and what reads stores reads it
    decode_file(codec, expected, tmp_path / "a.npy")
    decode_file(codec, tmp_path / "codes", tmp_path / "b.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    ids = UserIds(f"{tmp_path}/codes/*.parquet:id", NUM_ROWS)
    np.testing.assert_array_equal(ids(0, NUM_ROWS), given["id"].to_numpy())


@contextlib.contextmanager
def interrupted_at_the_third_part(monkeypatch):
    """Ctrl-C in the block, when half of that is written."""
    write, written = code_tables._write_part, []

    def interrupted(path, *arguments):
        if len(written) == 2:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(write(path, *arguments))

    with monkeypatch.context() as patched:
        patched.setattr(code_tables, "_write_part", interrupted)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_the_same_bytes_whatever_happens_on_the_way(job, emb, tmp_path, monkeypatch):
    job("codes", vectors=emb)
    expected = files(tmp_path / "codes")
    job("codes", vectors=emb)  # complete
    assert files(tmp_path / "codes") == expected
    (tmp_path / "other").mkdir()
    job("other", vectors=emb, batch_size=64)
    assert files(tmp_path / "other") == expected

    with interrupted_at_the_third_part(monkeypatch):
        job("third", vectors=emb)
    assert sorted(file.name for file in (tmp_path / "third").iterdir()) == ["part-8.parquet", "part-9.parquet"]
    with pytest.raises(
        ValueError, match=r"third: part 2 is missing, its rows begin at 401: run the same `qinco encode`"
    ):
        open_codes(tmp_path / "third")
    monkeypatch.setattr(shards.ShardFolder, "writing", None)  # nothing is encoded again
    job("third", vectors=emb)
    assert files(tmp_path / "third") == expected
    assert not (tmp_path / "third.shards").exists()


def test_a_full_disk_publishes_no_half_of_a_file_and_loses_nothing(job, emb, tmp_path, monkeypatch):
    job("expected", vectors=emb)
    name_it = atomic.temporary_name

    def on_a_full_disk(final):
        temporary = name_it(final)
        if final.name == "part-9.parquet":
            temporary.symlink_to("/dev/full")  # which no byte can be written to
        return temporary

    monkeypatch.setattr(atomic, "temporary_name", on_a_full_disk)
    with pytest.raises(OSError, match="No space left on device") as raised:
        job("codes", vectors=emb)
    assert str(raised.value) == (
        f"[Errno 28] {tmp_path}/codes: No space left on device; 1000 of 1000 rows are finished and kept: "
        "free some space and run the same command again"
    )
    assert [file.name for file in (tmp_path / "codes").iterdir()] == ["part-8.parquet"]
    monkeypatch.setattr(atomic, "temporary_name", name_it)
    monkeypatch.setattr(shards.ShardFolder, "writing", None)  # nothing is encoded again
    job("codes", vectors=emb)
    assert files(tmp_path / "codes") == files(tmp_path / "expected")
    assert not (tmp_path / "codes.shards").exists()


def test_one_file_of_many_and_a_column_of_texts(job, emb, tmp_path):
    store = open_codes(job("codes.parquet", vectors=f"{emb}/*.parquet:embedding", id_column="key"))
    np.testing.assert_array_equal(store[:], open_codes(job())[:])
    assert pq.read_table(tmp_path / "codes.parquet")["key"].to_pylist() == [f"k{number}" for number in range(NUM_ROWS)]


def test_vectors_that_are_no_tables_and_names_that_would_be_in_another_order(job, vectors_path, emb, tmp_path):
    store = open_codes(job("codes", vectors=[emb / "part-9.parquet", vectors_path, emb / "part-8.parquet"]))
    assert len(store) == 1 + NUM_ROWS + 400
    assert list(files(tmp_path / "codes")) == ["00000-part-9.parquet", "00001-base.parquet", "00002-part-8.parquet"]
    assert pq.read_table(tmp_path / "codes" / "00000-part-9.parquet").column_names == ["codes"]
    rows = open_vectors(vectors_path)
    array = encode_file(save_codec(tmp_path / "codec"), rows[:70], tmp_path / "array", precision="float32")
    np.testing.assert_array_equal(array[:], store[1:71])
    assert list(files(tmp_path / "array")) == ["codes.parquet"]


def test_ids_that_not_all_files_have_are_left_out_with_a_word(job, emb, tmp_path, caplog):
    (tmp_path / "emb").mkdir()
    for number in (8, 9, 10):
        content = pq.read_table(emb / f"part-{number}.parquet")
        if number == 9:
            content = content.set_column(0, "id", content["id"].cast(pa.int32()))
        pq.write_table(content, tmp_path / "emb" / f"part-{number}.parquet")
    job("codes", vectors=tmp_path / "emb")
    assert pq.read_table(tmp_path / "codes" / "part-8.parquet").column_names == ["codes"]
    words = "part-9.parquet has it as int32, the first file has it as int64"
    assert f"the codes go without ids: of column id, {tmp_path}/emb/{words}" in caplog.text


def test_a_row_of_many_files_without_numbers_is_named_by_its_own(job, emb, tmp_path, vectors_path):
    rows = open_vectors(vectors_path)[:9]
    rows[7, 2] = np.nan
    np.save(tmp_path / "bad.npy", rows)
    with pytest.raises(ValueError, match=r"/bad\.npy: vector 7 holds NaN or infinity"):
        job("codes", vectors=[vectors_path, tmp_path / "bad.npy", vectors_path])


def test_a_row_range_of_the_files_has_the_ids_of_its_rows(emb, codec_dir, tmp_path):
    encode_file(codec_dir, open_vectors(emb).view(100, 500), tmp_path / "codes", precision="float32")
    ids = [pq.read_table(emb / f"part-{number}.parquet")["id"].to_pylist() for number in (8, 9, 10)]
    found = [pq.read_table(tmp_path / "codes" / f"part-{number}.parquet")["id"].to_pylist() for number in (8, 9, 10)]
    assert found == [ids[0][100:], ids[1], ids[2][:99]]


def test_verify_finds_a_damaged_file_and_truncate_reads_the_store(job, emb, tmp_path, caplog):
    output = job("codes", vectors=emb)
    verify.run(Namespace(store=output))
    truncate_codes(output, 2, tmp_path / "cut.h5")
    np.testing.assert_array_equal(open_codes(tmp_path / "cut.h5")[:], open_codes(output)[:][:, :2])
    with pytest.raises(ValueError, match=r"cut: codes are written as HDF5, name a file that ends in \.h5"):
        truncate_codes(output, 2, tmp_path / "cut")
    part = output / "part-10.parquet"
    content = pq.read_table(part)
    changed = content["codes"].combine_chunks().flatten().to_numpy().copy()
    changed[50] ^= 1
    metadata = pq.ParquetFile(part).metadata.metadata
    codes = pa.FixedSizeListArray.from_arrays(pa.array(changed), 3)
    content = content.set_column(1, "codes", codes).replace_schema_metadata(metadata)
    pq.write_table(content, part)
    for run in (
        lambda: verify.run(Namespace(store=output)),
        lambda: truncate_codes(output, 2, tmp_path / "c.h5"),
    ):
        with pytest.raises(ValueError, match=r"part-10\.parquet: shard 2 \(rows 401\.\.999\) is damaged: its checksum"):
            run()
    assert contents(tmp_path / "codes")


def test_files_that_change_or_go_before_their_ids_are_read_are_named(job, emb, tmp_path, monkeypatch):
    (tmp_path / "emb").mkdir()
    for file in emb.iterdir():
        (tmp_path / "emb" / file.name).write_bytes(file.read_bytes())
    part, write = tmp_path / "emb" / "part-10.parquet", shards.write_parts

    def fewer():
        pq.write_table(pq.read_table(part).slice(0, 9), part)

    for change, kind, message in [
        (part.unlink, FileNotFoundError, rf"^\[Errno 2\] No such file or directory: '{part}'$"),
        (fewer, ValueError, r"part-10\.parquet: \d+ bytes when opened, now \d+; reopen it$"),
    ]:
        monkeypatch.setattr(shards, "write_parts", lambda *given, change=change: (change(), write(*given)))
        with pytest.raises(kind, match=message):
            job("codes", vectors=tmp_path / "emb")
        part.write_bytes((emb / part.name).read_bytes())
    monkeypatch.setattr(shards, "write_parts", write)
    assert len(open_codes(job("codes", vectors=tmp_path / "emb"))) == NUM_ROWS


def test_what_does_not_fit_is_one_line_before_anything_is_encoded(job, emb, vectors_path, tmp_path, monkeypatch):
    monkeypatch.setattr(shards.ShardFolder, "create", None)  # where work would begin
    (tmp_path / "mine").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "mine" / "x.parquet")
    for options, message in [
        ({"name": "codes.npy"}, r"codes\.npy: codes are written as HDF5 or Parquet, name a file that ends in"),
        ({"name": "mine", "vectors": emb}, r"mine/x\.parquet: no codes that `qinco encode` wrote: name another folder"),
        ({"id_column": "id"}, r"id_column=id: ids go into Parquet files, .*codes\.h5 is HDF5: give output=FOLDER/"),
        ({"name": "codes", "id_column": "id"}, r"id_column=id: .*base\.fvecs has no column of this name"),
        ({"name": "codes", "vectors": emb, "id_column": "x"}, r"id_column=x: .*part-8\.parquet has no column of this"),
        ({"name": "codes", "vectors": emb, "merge": True}, r"merge=true: a store in Parquet refers to no shards"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message) as error:
            job(**options)
        assert "\n" not in str(error.value)


def test_a_store_of_other_work_is_not_continued_and_parts_of_two_are_told_apart(job, emb, tmp_path):
    job("codes", vectors=emb)
    with pytest.raises(ValueError, match=r"codes belongs to other work: beam_size is 3 there, 2 here"):
        job("codes", vectors=emb, beam_size=2)
    job("other", vectors=emb, beam_size=2)
    (tmp_path / "other" / "part-9.parquet").replace(tmp_path / "codes" / "part-9.parquet")
    with pytest.raises(ValueError, match=r"part-9\.parquet: part 1 is of another store than the others"):
        open_codes(tmp_path / "codes")
    (tmp_path / "codes" / "part-9.parquet").unlink()
    with pytest.raises(ValueError, match=r"codes: part 1 is missing, its rows begin at 400"):
        open_codes(tmp_path / "codes")


def test_ids_that_are_no_integers_or_not_there(emb, tmp_path):
    for name, message in {
        "key": r"^ids=.*part-8\.parquet:key: column key holds string; vectors are lists of numbers, ids integers$",
        "uid": r"^ids=.*part-8\.parquet:uid: no column 'uid'; columns there: id key embedding$",
    }.items():
        with pytest.raises(ValueError, match=message):
            UserIds(f"{emb}/*.parquet:{name}", NUM_ROWS)
    with pytest.raises(ValueError, match=r"has 1000 ids, there are 999 vectors: give one for each"):
        UserIds(f"{emb}/*.parquet:id", 999)
    with pytest.raises(FileNotFoundError, match=r"^ids=.*none\.npy: no such file$"):
        UserIds(tmp_path / "none.npy", 3)
