"""An index directory is whole, its parts belong together, and what is wrong is said in one line."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from qinco_lit.published import import_checkpoint
from qinco_lit.search.decoders.additive import AdditiveFit
from qinco_lit.search.index import bundle as bundles
from qinco_lit.search.index.bundle import Bundle, load, save
from qinco_lit.search.index.faiss_index import NormRange, add_codes, empty_index
from qinco_lit.search.index.lists import merge_on_disk, write_lists
from tests.search.indexes import LISTS, Indexed, indexed, stored_ids

GOLDEN = Path(__file__).parent.parent / "golden"
PLAIN_FAISS = """
import os, sys
import faiss, numpy as np
index = faiss.read_index("index.faiss")
index.nprobe = index.nlist
print(index.ntotal, os.path.exists("lists.ivfdata"))
distances, ids = index.search(np.load(sys.argv[1]), 5)
np.save(sys.argv[2], distances)
assert not [name for name in sys.modules if name.startswith("qinco")]
"""


@pytest.fixture(scope="module")
def given() -> Indexed:
    return indexed()


def on_disk(given: Indexed, folder: Path) -> Bundle:
    """A copy of the bundle whose lists are in a file."""
    bundle = given.bundle
    write_lists(bundle.index, folder / "part")
    index = faiss.clone_index(bundle.index)
    merge_on_disk(index, [folder / "part"], folder / "lists.ivfdata")
    return Bundle(bundle.codec, index, bundle.additive, bundle.pairwise, bundle.metric, bundle.config, {"a": 1})


def found(bundle: Bundle, given: Indexed) -> tuple[np.ndarray, ...]:
    parameters = faiss.SearchParametersIVF(nprobe=LISTS, quantizer_params=faiss.SearchParametersHNSW(efSearch=64))
    return bundle.index.search(given.queries, 10, params=parameters)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("pairwise", [True, False])
@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_round_trip(tmp_path, metric, pairwise, mmap, where):
    given = indexed(metric=metric, pairwise=pairwise)
    bundle = given.bundle if where == "memory" else on_disk(given, tmp_path)
    bundle.report = {"seconds": {"lists": 1.5}}
    save(bundle, tmp_path / "index")
    back = load(tmp_path / "index", mmap=mmap, verify=True)
    assert back.is_mapped == (mmap or where == "disk")
    assert (back.metric, back.report) == (metric, bundle.report)
    np.testing.assert_array_equal(stored_ids(back.index), stored_ids(given.bundle.index))
    for there, here in zip(found(back, given), found(given.bundle, given), strict=True):
        np.testing.assert_array_equal(there, here)
    np.testing.assert_array_equal(back.additive.codebooks, bundle.additive.codebooks)
    assert (back.pairwise is None) == (not pairwise)
    if back.pairwise is not None:
        expected = given.bundle.pairwise.decode(given.list_ids, given.codes)
        np.testing.assert_array_equal(back.pairwise.decode(given.list_ids, given.codes), expected)
    list_ids, codes = back.encode(given.x)
    np.testing.assert_array_equal(list_ids, given.list_ids)
    np.testing.assert_array_equal(codes, given.codes)
    names = {path.name for path in (tmp_path / "index").iterdir()}
    expected_names = {"config.json", "index.faiss", "additive.safetensors", "report.json", "codec"}
    assert names == expected_names | ({"pairwise"} if pairwise else set()) | (
        {"lists.ivfdata"} if where == "disk" else set()
    )


def test_config_says_what_it_is(given, tmp_path):
    save(given.bundle, tmp_path / "index")
    config = json.loads((tmp_path / "index" / "config.json").read_text())
    known = {name: config[name] for name in ("format", "version", "faiss", "metric", "dim", "num_vectors")}
    assert known == {
        "format": "qinco_lit index",
        "version": 1,
        "faiss": f"IVF12_HNSW32,RQ{given.codes.shape[1]}x4_Nqint8",
        "metric": "l2",
        "dim": 16,
        "num_vectors": 400,
    }
    weights = json.loads((tmp_path / "index" / "codec" / "config.json").read_text())["weights_sha256"]
    assert config["codec_sha256"] == weights == config["parts"]["codec/weights.safetensors"]["sha256"]
    files = [path for path in (tmp_path / "index").rglob("*") if path.is_file() and path.parent / path.name]
    assert {str(path.relative_to(tmp_path / "index")) for path in files} - set(config["parts"]) == {"config.json"}


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_plain_faiss_opens_the_file_in_its_folder(given, tmp_path, where):
    save(given.bundle if where == "memory" else on_disk(given, tmp_path), tmp_path / "index")
    np.save(tmp_path / "queries.npy", given.queries)
    arguments = [sys.executable, "-c", PLAIN_FAISS, str(tmp_path / "queries.npy"), str(tmp_path / "distances.npy")]
    done = subprocess.run(arguments, cwd=tmp_path / "index", check=True, capture_output=True, text=True)
    assert done.stdout == f"400 {where == 'disk'}\n"
    np.testing.assert_allclose(np.load(tmp_path / "distances.npy"), found(given.bundle, given)[0][:, :5], rtol=1e-5)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


PARTS = [
    "index.faiss",
    "additive.safetensors",
    "report.json",
    "codec/config.json",
    "codec/weights.safetensors",
    "pairwise/config.json",
    "pairwise/tables.safetensors",
]


@pytest.mark.parametrize("name", [*PARTS, "lists.ivfdata"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "other"])
def test_a_part_that_is_not_the_one_that_was_written_is_refused(given, tmp_path, name, damage):
    save(on_disk(given, tmp_path), tmp_path / "index")
    part = tmp_path / "index" / name
    if damage == "flip":
        _flip(part)
        message = "is damaged or of another index: its SHA-256 is not that of config.json"
    elif damage == "truncate":
        os.truncate(part, part.stat().st_size - 1)
        message = r"has \d+ bytes, \d+ are expected: it is damaged or of another index"
    elif damage == "remove":
        part.unlink()
        message = "is missing: the index is not complete"
    else:
        (tmp_path / "b").mkdir()
        save(on_disk(indexed(seed=1), tmp_path / "b"), tmp_path / "other")
        if part.read_bytes() == (tmp_path / "other" / name).read_bytes():
            pytest.skip("both have the same")
        shutil.copy(tmp_path / "other" / name, part)
        message = r"(has \d+ bytes, \d+ are expected: it )?is damaged or of another index"
    with pytest.raises((ValueError, FileNotFoundError), match=f"{name} {message}") as raised:
        load(tmp_path / "index", verify=True)
    assert "\n" not in str(raised.value)
    if name == "lists.ivfdata" and damage == "flip":  # may be far larger than the memory: read when asked for
        assert load(tmp_path / "index").index.ntotal == 400


def _consistent(folder: Path) -> None:
    """Give the files of a folder, and the config itself, the checksums that they have."""
    config = json.loads((folder / "config.json").read_text())
    config["parts"] = {name: record for name, record in bundles._checksums(folder) if name != "config.json"}
    config["config_sha256"] = bundles._config_sha256(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("codec", r"index/codec does not fit the other parts: weights [0-9a-f]{12}, expected [0-9a-f]{12}"),
        ("additive.safetensors", r"index.faiss does not fit the other parts: its codebooks are not those of additive"),
        ("index.faiss", r"index.faiss does not fit the other parts: its codebooks are not those of additive"),
        ("pairwise", r"pairwise does not fit the other parts: its additive decoder is not additive.safetensors"),
    ],
)
def test_parts_of_two_indexes_do_not_make_one(given, tmp_path, part, message):
    save(given.bundle, tmp_path / "index")
    save(indexed(seed=1).bundle, tmp_path / "other")
    target = tmp_path / "index" / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    copy = shutil.copytree if (tmp_path / "other" / part).is_dir() else shutil.copy
    copy(tmp_path / "other" / part, target)
    _consistent(tmp_path / "index")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "index")


def test_counts_must_fit(given, tmp_path):
    save(given.bundle, tmp_path / "index")
    save(indexed(300).bundle, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "index.faiss", tmp_path / "index" / "index.faiss")
    _consistent(tmp_path / "index")
    with pytest.raises(ValueError, match=r"index.faiss does not fit the other parts: vectors 300, expected 400"):
        load(tmp_path / "index")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"format": "qinco_lit codec"}, r"config.json is no index this version reads: format 'qinco_lit codec' .* 1"),
        ({"version": 2}, r"config.json is no index this version reads: format 'qinco_lit index' version 2"),
        ({"metric": "l1"}, r"config.json is no index this version reads: metric 'l1'"),
        ("{", r"config.json is no index this version reads: Expecting property name"),
        ({}, r"config.json is no index this version reads: codec_sha256, parts missing"),
    ],
)
def test_a_config_of_something_else(given, tmp_path, config, message):
    save(given.bundle, tmp_path / "index")
    file = tmp_path / "index" / "config.json"
    values = json.loads(file.read_text())
    if config == {}:
        del values["codec_sha256"], values["parts"]
    file.write_text(config if isinstance(config, str) else json.dumps({**values, **config}))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "index")
    with pytest.raises(FileNotFoundError, match=r"no index in .*nowhere: config.json is missing \(`qinco index`"):
        load(tmp_path / "nowhere")


def test_only_an_earlier_state_of_the_same_index_is_replaced(given, tmp_path):
    target = tmp_path / "index"
    save(given.bundle, target)
    bundle = load(target)
    bundle.index.remove_ids(given.ids[:5])
    add_codes(bundle.index, given.list_ids[:1], given.codes[:1], np.array([10**15]))
    save(bundle, target)
    assert set(stored_ids(load(target).index)) == {*given.ids[5:].tolist(), 10**15}
    other = indexed(seed=1).bundle
    other.config = {**other.config, "inputs": {"codes": "x"}}
    before = (target / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"index holds another index: name another directory, or remove it"):
        save(other, target)
    assert (target / "config.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"mine exists and is no index: name another directory"):
        save(other, tmp_path / "mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"file exists and is no index: name another directory"):
        save(other, tmp_path / "file")


def test_a_save_that_fails_leaves_what_was_there(given, tmp_path, monkeypatch):
    target = tmp_path / "index"
    save(given.bundle, target)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise RuntimeError("Error in write: write error in x: 1 != 2 (No space left on device)")

    monkeypatch.setattr(bundles.faiss, "write_index", full)
    with pytest.raises(OSError, match=r"^\[Errno 28\] .*index.faiss: No space left on device: '.*/index'$"):
        save(given.bundle, target)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_full_disk_is_one_line_whichever_file_it_cuts(given, tmp_path):
    """A file may not grow beyond its size but one byte: EFBIG, as a full disk gives ENOSPC."""
    target = tmp_path / "index"
    save(given.bundle, target)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    least, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in sorted(map(len, before.values())):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, most))
        try:
            with pytest.raises(OSError, match=r"File too large: '[^\n]*'$"):
                save(given.bundle, target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (least, most))
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_save_has_left_goes_with_the_next_save_or_load(given, tmp_path):
    target = tmp_path / "index"
    for after in (lambda: save(given.bundle, target), lambda: load(target)):
        left = tmp_path / ".index.0123456789ab.tmp"
        (left / "codec").mkdir(parents=True)
        (left / "index.faiss").write_bytes(b"half of it")
        after()
        assert list(tmp_path.iterdir()) == [target]


def test_lists_on_disk_are_linked_or_copied_and_never_changed(given, tmp_path, monkeypatch):
    save(on_disk(given, tmp_path), tmp_path / "a")
    (tmp_path / "lists.ivfdata").unlink()
    bundle = load(tmp_path / "a")
    save(bundle, tmp_path / "linked")
    assert (tmp_path / "a" / "lists.ivfdata").samefile(tmp_path / "linked" / "lists.ivfdata")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("qinco_lit.search.index.files.os.link", refuse)
    save(bundle, tmp_path / "copied")
    monkeypatch.undo()
    for name in ("linked", "copied"):
        for there, here in zip(found(load(tmp_path / name, verify=True), given), found(bundle, given), strict=True):
            np.testing.assert_array_equal(there, here)
    save(bundle, tmp_path / "a")  # onto itself
    assert load(tmp_path / "a", verify=True).index.ntotal == 400
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=r"lists.ivfdata: the file of the mapped lists is gone"):
        save(bundle, tmp_path / "b")


def test_many_lists_are_assigned_through_the_graph(given, tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "EXACT_LISTS", LISTS - 1)
    save(given.bundle, tmp_path / "index")
    bundle = load(tmp_path / "index")
    assert bundle._assigner is not None
    list_ids, codes = bundle.encode(given.x)
    assert (list_ids == given.list_ids).mean() > 0.99
    same = list_ids == given.list_ids
    np.testing.assert_array_equal(codes[same], given.codes[same])


@pytest.mark.parametrize("name", ["ivf_qinco2", "v1_ivf_qinco"])
def test_the_published_model_through_its_index(tmp_path, name):
    with np.load(GOLDEN / f"{name}.npz") as golden:
        x, columns, x_hat = golden["x"], golden["codes"], golden["x_hat"]
    codec = import_checkpoint(GOLDEN / f"{name}.pt")
    centroids, list_ids, codes = codec.coarse_centroids, columns[:, 0].astype(np.int32), columns[:, 1:]
    fit = AdditiveFit(codec.num_steps, codec.codebook_size, codec.dim)
    fit.add(codes, x - centroids[list_ids])
    additive, _ = fit.solve()
    norms = NormRange()
    norms.add(additive.decode(codes))
    index = empty_index(centroids, additive.codebooks, norms.limits())
    add_codes(index, list_ids, codes, np.arange(len(x)))
    save(Bundle(codec, index, additive, None, "l2"), tmp_path / "index")
    bundle = load(tmp_path / "index")
    np.testing.assert_allclose(bundle.codec.decode(codes, list_ids=list_ids), x_hat, rtol=1e-4, atol=1e-4)
    parameters = faiss.SearchParametersIVF(
        nprobe=len(centroids), quantizer_params=faiss.SearchParametersHNSW(efSearch=160)
    )
    scores, ids = bundle.index.search(x[:20], len(x), params=parameters)
    estimates = centroids[list_ids] + additive.decode(codes)
    true = ((x[:20, None] - estimates[ids]) ** 2).sum(-1)
    low, high = norms.limits()
    np.testing.assert_allclose(scores, true, rtol=0, atol=(high - low) / 512 + 1e-3)
    assert set(ids[0]) == set(range(len(x)))
