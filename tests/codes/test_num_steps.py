"""Fewer codes than the model has: encoded so, cut from more, with the whole codec or with what is cut from it."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from qinco_lit.cli import main
from qinco_lit.codec import Codec
from qinco_lit.codec_folder import tensors
from qinco_lit.commands import truncate
from qinco_lit.encoding.decode_file import check_codec, decode_file
from qinco_lit.quantizers import build_quantizer
from qinco_lit.vectors import open_codes, open_vectors
from tests.codes.conftest import DIM, contents, save_codec
from tests.models import random_quantizer

STEPS = 4
SEARCH = {"beam_size": 3, "num_candidates": 4}
KINDS = ["plain", "lists", "low_rank", "product", "product_lists"]


def cut(source: Path, num_steps: int, name: str) -> Path:
    output = source.parent / name
    truncate.run(argparse.Namespace(path=source, num_steps=num_steps, output=output))
    return output


def _save(folder: Path, kind: str) -> Path:
    if not kind.startswith("product"):
        lists, rank = (20 if kind == "lists" else None), (3 if kind == "low_rank" else None)
        return save_codec(folder, num_steps=STEPS, lists=lists, concat_rank=rank)
    config = {"num_parts": 2, "num_steps": STEPS, "codebook_size": 16, "hidden_dim": 8, "num_blocks": 1, **SEARCH}
    quantizer = build_quantizer(DIM, **config, num_lists=20 if kind == "product_lists" else None)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.normal_(0, 0.5, generator=generator)
        if quantizer.coarse_centroids is not None:
            quantizer.coarse_centroids.normal_(generator=generator)
    Codec(quantizer).save(folder)
    return folder


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A codec of each kind, saved once, with what is cut from it to 2 steps beside it."""
    folder = tmp_path_factory.mktemp("codecs")

    def saved(kind: str) -> Path:
        if not (folder / kind).exists():
            cut(_save(folder / kind, kind), 2, f"{kind}-2")
        return folder / kind

    return saved


def _two_of(codec_dir: Path) -> Path:
    return codec_dir.with_name(f"{codec_dir.name}-2")


def _codes(encoded: object) -> np.ndarray:
    return encoded[1] if isinstance(encoded, tuple) else encoded  # type: ignore[return-value]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_store_of_fewer_steps_is_that_of_the_codec_whole_or_cut(job, codecs, vectors_path, tmp_path, kind, packed):
    codec_dir, x = codecs(kind), open_vectors(vectors_path)[:]
    path = job(codec=codec_dir, num_steps=2, packed=packed)
    store, codec = open_codes(path), Codec.load(codec_dir, precision="float32")
    np.testing.assert_array_equal(store[:], _codes(codec.encode(x, num_steps=2)))
    assert (store.info.num_steps, store.info.encoded_num_steps) == (2, None)
    before = contents(tmp_path)
    by_cut = job("cut.h5", codec=_two_of(codec_dir), packed=packed)
    np.testing.assert_array_equal(open_codes(by_cut)[:], store[:])
    assert open_codes(by_cut).info == store.info
    assert list(open_codes(by_cut).shards) == list(store.shards)
    for other in (codec_dir, _two_of(codec_dir)):
        decode_file(codec=other, codes=path, output=tmp_path / f"{other.name}.npy", device="cpu")
    assert (tmp_path / f"{kind}.npy").read_bytes() == (tmp_path / f"{kind}-2.npy").read_bytes()
    job(codec=_two_of(codec_dir), packed=packed)  # goes on with the other's work: all of it is done
    assert {name: data for name, data in contents(tmp_path).items() if name in before} == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_is_decoded_by_the_codec_whole_or_cut(job, codecs, tmp_path, kind):
    codec_dir = codecs(kind)
    whole = job(codec=codec_dir)
    prefix = cut(whole, 2, "prefix.h5")
    store, results = open_codes(whole), []
    lists = {} if store.info.num_lists is None else {"list_ids": store.list_ids()}
    for codes in (whole, prefix):
        for codec in (codec_dir, _two_of(codec_dir)):
            decode_file(codec=codec, codes=codes, output=tmp_path / "x.npy", num_steps=2, device="cpu")
            results.append(open_vectors(tmp_path / "x.npy")[:])
            expected = Codec.load(codec).decode(store[:][:, :2], **lists)
            np.testing.assert_allclose(results[-1], expected, rtol=1e-5, atol=1e-5)
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_found_for_fewer_steps_are_as_good_as_the_first_of_more(job, codecs, vectors_path, kind):
    """The beam after m steps holds the hypothesis that the longer search keeps, and the shorter one takes the best."""
    codec_dir, x = codecs(kind), open_vectors(vectors_path)[:]
    codec, errors = Codec.load(codec_dir), []
    for store in (open_codes(job("m.h5", codec=codec_dir, num_steps=2)), open_codes(job(codec=codec_dir))):
        lists = {} if store.info.num_lists is None else {"list_ids": store.list_ids()}
        errors.append(np.square(codec.decode(store[:][:, :2], **lists) - x).sum(axis=1))
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
    assert errors[0].mean() < errors[1].mean()


def test_one_number_of_steps_is_not_continued_as_another(job, codecs, tmp_path):
    codec_dir = codecs("plain")
    job(codec=codec_dir, num_steps=2)
    before = contents(tmp_path)
    for num_steps in (3, None):
        with pytest.raises(
            ValueError, match=f"other work: num_steps is 2 there, {num_steps or STEPS} here; name another"
        ):
            job(codec=codec_dir, num_steps=num_steps)
    cut(tmp_path / "codes.h5", 1, "cut.h5")
    with pytest.raises(ValueError, match="belongs to other work: encoded_num_steps is 2 there, None here; name"):
        job("cut.h5", codec=codec_dir, num_steps=1)
    for num_steps in (0, 5, -1):
        with pytest.raises(ValueError, match=rf"^num_steps={num_steps}: .*plain has 4 steps; give 1 to 4$"):
            job("new.h5", codec=codec_dir, num_steps=num_steps)
    assert {name: data for name, data in contents(tmp_path).items() if not name.startswith("cut")} == before
    all_steps = job("whole.h5", codec=codec_dir, merge=True).read_bytes()
    assert job("every.h5", codec=codec_dir, merge=True, num_steps=STEPS).read_bytes() == all_steps


def test_stores_of_more_steps_and_of_other_codecs_are_refused(job, codecs, tmp_path):
    codec_dir = codecs("plain")
    store = open_codes(job(codec=codec_dir))
    check_codec(store, Codec.load(_two_of(codec_dir)), num_steps=2)
    with pytest.raises(
        ValueError, match=r"codes.h5 has codes of 4 steps, the codec in .*plain-2 was cut to 2: give num_steps=2$"
    ):
        check_codec(store, Codec.load(_two_of(codec_dir)))
    other = cut(save_codec(tmp_path / "other", seed=1, num_steps=STEPS), 2, "other-2")
    with pytest.raises(ValueError, match=r"codes.h5 holds codes of another codec: its weights have SHA-256 "):
        check_codec(store, Codec.load(other), num_steps=2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_codec_that_is_cut_says_from_what(codecs, tmp_path, kind):
    codec_dir = codecs(kind)
    config = json.loads((codec_dir / "config.json").read_text())
    origin = {"weights_sha256": config["weights_sha256"], "num_steps": STEPS}
    three = cut(codec_dir, 3, f"{kind}-3")
    for folder, num_steps in {three: 3, _two_of(codec_dir): 2, cut(three, 2, f"{kind}-3-2"): 2}.items():
        codec = Codec.load(folder)
        assert (codec.num_steps, codec.truncated_from) == (num_steps, origin)
    assert contents(three.with_name(f"{kind}-3-2")) == contents(_two_of(codec_dir))
    assert Codec.load(codec_dir).truncated_from is None
    sizes = [(folder / "weights.safetensors").stat().st_size for folder in (_two_of(codec_dir), three, codec_dir)]
    assert sizes == sorted(set(sizes))


def test_what_the_command_refuses_of_codecs(codecs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_codec(tmp_path / "run" / "codec", num_steps=STEPS)
    _save(tmp_path / "product", "product")
    before = contents(tmp_path)
    for arguments, message in {
        ("run/codec", "5", "cut"): "--num-steps 5: run/codec has 4 steps; give 1 to 4",
        ("run/codec", "0", "cut"): "--num-steps 0: run/codec has 4 steps; give 1 to 4",
        ("run/codec", "2", "product"): "--output product exists: name another one",
        ("run/codec", "2", "run/codec"): "--output run/codec exists: name another one",
        ("run", "2", "cut"): "run is no codec, but holds one: give run/codec",
        ("run/codec", "2", "no/such/cut"): "--output no/such/cut: the folder no/such does not exist; make it first",
        ("gone", "2", "cut"): "gone: no such store of codes or codec folder",
        ("product", "1", "cut"): "num_steps=1: a part would have no codes, give 2 to 4",
    }.items():
        source, num_steps, output = arguments
        assert main(["truncate", source, "--num-steps", num_steps, "--output", output]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"qinco: error: {message}")
        assert line.count("\n") == 1
        assert contents(tmp_path) == before


def test_from_the_command_line(codecs, vectors_path, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codec_dir = codecs("plain")
    with caplog.at_level("INFO"):
        assert main(["truncate", str(codec_dir), "--num-steps", "3", "--output", "three"]) == 0
    assert caplog.messages[-1] == "three: the first 3 of 4 steps"
    options = [f"input={vectors_path}", "trainer.accelerator=cpu", "precision=float32", "shard_rows=500"]
    assert main(["encode", f"codec={codec_dir}", "output=a.h5", "num_steps=3", *options]) == 0
    assert main(["encode", "codec=three", "output=b.h5", *options]) == 0
    np.testing.assert_array_equal(open_codes("a.h5")[:], open_codes("b.h5")[:])
    assert main(["decode", "codec=three", "codes=a.h5", "output=x.npy", "device=cpu"]) == 0
    x_hat = Codec.load("three").decode(open_codes("a.h5")[:])
    np.testing.assert_allclose(np.load("x.npy"), x_hat, rtol=1e-5, atol=1e-5)


def test_a_codec_cut_in_memory_has_its_own_name(tmp_path):
    quantizer = random_quantizer(DIM, num_steps=STEPS, codebook_size=16, hidden_dim=8, num_blocks=1, **SEARCH)
    Codec(quantizer).truncated(2).save(tmp_path / "codec")  # of weights that lie in no folder
    assert Codec.load(tmp_path / "codec").identity == Codec.load(tmp_path / "codec").weights_sha256


def test_the_weights_are_those_of_the_first_steps():
    quantizer = random_quantizer(DIM, num_steps=STEPS, codebook_size=16, hidden_dim=8, num_blocks=1, **SEARCH)
    first, whole = tensors(Codec(quantizer).truncated(2).quantizer), tensors(quantizer)
    assert set(first) == {name for name in whole if not name.startswith(("steps.1.", "steps.2."))}
    assert all(torch.equal(first[name], whole[name]) for name in first)
