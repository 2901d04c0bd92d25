"""`qinco_lit.build_index`: what `qinco index` writes, from arrays and files, on the disk only where it is asked for."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qinco_lit as ql
from qinco_lit.search.index.bundle import load
from tests.search.conftest import build, inputs
from tests.search.index_jobs import ROWS, contents, encode_file
from tests.search.indexes import DIM, LISTS, ivf_codec

__all__ = ["build", "inputs"]  # inputs of `qinco index`, and the command with them


@pytest.fixture
def base(inputs: Path) -> np.ndarray:
    return np.asarray(np.load(inputs / "base.npy"))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, and the folder the process is in, empty both."""
    for name in ("temporary", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def left(scratch: Path) -> list[str]:
    return [path.name for name in ("temporary", "here") for path in (scratch / name).iterdir()]


@pytest.mark.parametrize("num_lists", [LISTS, None])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_three_lines_from_an_array_to_exact_search_in_the_decoded_vectors(
    base: np.ndarray, scratch: Path, num_lists: int | None, metric: Any
) -> None:
    codec = ivf_codec(num_lists=num_lists)
    searcher = ql.build_index(codec, base, metric=metric, progress=False)
    assert left(scratch) == []
    assert codec.folder is None
    x = base / np.linalg.norm(base, axis=1, keepdims=True) if metric == "cosine" else base
    if num_lists is None:
        x_hat = codec.decode(codec.encode(x))
    else:
        list_ids, codes = codec.encode(x)
        x_hat = codec.decode(codes, list_ids=list_ids)
    products = x[:40].astype(np.float64) @ x_hat.T
    scores = ((x[:40, None] - x_hat[None]) ** 2).sum(-1) if metric == "l2" else products
    best = np.sort(scores, axis=1)[:, :10] if metric == "l2" else np.sort(scores, axis=1)[:, ::-1][:, :10]
    distances, ids = searcher.search(base[:40], k=10, nprobe=searcher.num_lists, num_additive=ROWS)
    np.testing.assert_allclose(distances, best, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(np.take_along_axis(scores, ids, 1), best, rtol=1e-4, atol=1e-3)
    new = searcher.add(base[:3])
    assert new.tolist() == [ROWS, ROWS + 1, ROWS + 2]
    assert searcher.remove(new) == 3
    searcher.save(scratch / "saved")
    np.testing.assert_array_equal(
        ql.Searcher.load(scratch / "saved").search(base[:40], k=10)[1], searcher.search(base[:40], k=10)[1]
    )


def test_it_writes_what_the_command_writes(build: Any, inputs: Path, tmp_path: Path) -> None:
    build("command", num_training=500)
    given = {"codes": inputs / "codes.h5", "training": inputs / "train.npy", "num_training": 500}
    searcher = ql.build_index(inputs / "codec", inputs / "base.npy", output=tmp_path / "ours", **given)
    assert contents(tmp_path / "ours") == contents(tmp_path / "command")
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "command")]
    for config in configs:
        del config["parts"], config["config_sha256"]  # the report has times
    assert configs[0] == configs[1]
    assert {path.name for path in tmp_path.iterdir()} == {"ours", "command"}
    assert len(searcher) == ROWS


@pytest.mark.parametrize("at", ["encode_rows", "fit_decoders", "_finish"])
def test_a_call_that_stops_goes_on_and_codes_are_those_of_encode(
    inputs: Path, tmp_path: Path, base: np.ndarray, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    codec = ql.Codec.load(inputs / "codec")
    ql.build_index(codec, base, output=tmp_path / "one")
    with monkeypatch.context() as patch:
        patch.setattr(f"qinco_lit.search.build.job.{at}", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ql.build_index(codec, base, output=tmp_path / "two")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two.work"}
    ql.build_index(codec, base, output=tmp_path / "two")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    encode_file(inputs / "codec", inputs / "base.npy", tmp_path / "codes.h5")
    ql.build_index(codec, base, output=tmp_path / "given", codes=tmp_path / "codes.h5")
    assert contents(tmp_path / "given") == contents(tmp_path / "one")
    before = (tmp_path / "one" / "config.json").stat().st_mtime_ns
    assert len(ql.build_index(codec, base, output=tmp_path / "one")) == ROWS
    assert (tmp_path / "one" / "config.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"one is an index of other work: training, validation, database differ"):
        ql.build_index(codec, base[::-1], output=tmp_path / "one")


def test_vectors_of_any_kind_are_the_same_vectors(inputs: Path, tmp_path: Path) -> None:
    x = np.rint(np.load(inputs / "base.npy"))
    np.save(tmp_path / "x.npy", x)
    kinds = {
        "array": x, "double": x.astype(np.float64), "half": x.astype(np.float16), "int8": x.astype(np.int8),
        "list": x.tolist(), "torch": torch.from_numpy(x), "path": tmp_path / "x.npy", "text": str(tmp_path / "x.npy"),
        "file": ql.open_vectors(tmp_path / "x.npy"), "strided": np.asfortranarray(x),
    }  # fmt: skip
    found = {}
    for name, rows in kinds.items():
        searcher = ql.build_index(inputs / "codec", rows, progress=False, pairwise=False)
        found[name] = searcher.search(x[:30], 5, nprobe=LISTS, num_additive=ROWS)
    for name, (distances, ids) in found.items():
        np.testing.assert_array_equal(ids, found["array"][1], err_msg=name)
        np.testing.assert_array_equal(distances, found["array"][0], err_msg=name)


def test_ids_of_the_user(inputs: Path, base: np.ndarray, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).permutation(10**6)[:ROWS]
    np.save(tmp_path / "ids.npy", ids)
    codec, options = ql.Codec.load(inputs / "codec"), {"nprobe": LISTS, "num_additive": ROWS}
    plain = ql.build_index(codec, base, pairwise=False).search(base[:20], 1, **options)[1]
    for given in (ids, ids.tolist(), torch.from_numpy(ids), tmp_path / "ids.npy", str(tmp_path / "ids.npy")):
        found = ql.build_index(codec, base, ids=given, pairwise=False).search(base[:20], 1, **options)[1]
        assert (np.isin(found, ids)).all()
        assert (found == ids[plain]).mean() > 0.9  # of equal codes the smaller id


def test_a_default_number_of_lists_grows_with_the_root_of_the_vectors(base: np.ndarray) -> None:
    codec = ivf_codec(num_lists=None)
    few, many = (ql.build_index(codec, x, pairwise=False).num_lists for x in (base[:100], np.tile(base, (5, 1))))
    assert (few, many) == (2, 64)  # 32 rows a list at least
    bundle = None
    with tempfile.TemporaryDirectory() as folder:
        ql.build_index(codec, base, centroids=base[:5], output=Path(folder) / "index", pairwise=False)
        bundle = load(Path(folder) / "index")
    np.testing.assert_array_equal(bundle.index.quantizer.reconstruct_n(0, 5), base[:5])


def test_mistakes_are_one_line_that_names_the_argument_and_leave_nothing(
    inputs: Path, base: np.ndarray, scratch: Path
) -> None:
    codec, plain = ql.Codec.load(inputs / "codec"), ivf_codec(num_lists=None)
    nan = base.copy()
    nan[123, 4] = np.nan
    encode_file(inputs / "codec", inputs / "train.npy", scratch / "train.h5")
    for arguments, options, message in (
        ((codec, base[:, :5]), {}, rf"x has dimension 5, the codec {DIM}"),
        ((codec, base[0]), {}, r"x has shape \(16,\): give vectors \(n, dim\)"),
        ((codec, base[:0]), {}, r"x has shape \(0, 16\): give vectors \(n, dim\)"),
        ((codec, base[:1]), {}, r"x has 1 vector: give 2 at least, or training=VECTORS"),
        ((codec, base), {"training": base[:, :4]}, rf"training has dimension 4, x has {DIM}"),
        ((codec, base), {"training": base[:1]}, r"training has 1 vector: give 2 at least, one is held out"),
        ((codec, base), {"metric": "l1"}, r"metric='l1': give one of l2, ip, cosine"),
        ((codec, base), {"ids": [1, 2]}, r"ids has 2 ids, there are 700 vectors: give one for each"),
        ((codec, base), {"ids": np.zeros(ROWS, int)}, r"ids: id 0 is there twice: every vector needs its own"),
        ((codec, base), {"num_lists": 4}, r".* has 12 lists of its own: leave num_lists and centroids out"),
        ((plain, base), {"num_lists": 4, "centroids": base[:4]}, r"give num_lists or centroids, not both: .*"),
        ((plain, base), {"num_lists": 5000}, r"num_lists=5000: there are 700 .*vectors, fewer than lists"),
        ((codec, base), {"codes": scratch / "train.h5"}, r".*train.h5 holds codes of other vectors than x: .*"),
        ((plain, base), {"codes": inputs / "codes.h5"}, r".*codes.h5 holds codes of another codec: .*"),
        ((codec, base), {"on_disk": True}, r"on_disk=True leaves the lists in a file: give output=DIR"),
        ((codec, base), {"num_training": 0}, r"num_training=0: give at least 1"),
        ((codec, nan), {}, r"x \(an array\): .*123.* NaN or infinity.*"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            ql.build_index(*arguments, progress=False, **options)
        assert left(scratch) == [], message
    for arguments, options, message in (
        ((scratch / "gone", base), {}, r"no codec in .*gone: config.json is missing.*"),
        ((codec, scratch / "gone.npy"), {}, r".*gone.npy.*no such file.*"),
        ((codec, base), {"output": scratch / "no" / "index"}, r"output=.*no/index: the folder .*no does not exist.*"),
        ((codec, base), {"ids": "gone.npy"}, r"ids=gone.npy: no such file"),
    ):
        with pytest.raises(FileNotFoundError, match=f"^{message}$"):
            ql.build_index(*arguments, progress=False, **options)
        assert left(scratch) == [], message
