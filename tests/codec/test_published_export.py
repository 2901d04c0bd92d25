"""Codecs written in the QINCo2 repository's layout: the round trip is exact, what it cannot hold is refused."""

import argparse
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from qinco_lit.codec import Codec
from qinco_lit.commands import export as command
from qinco_lit.published import export_checkpoint, import_checkpoint
from tests.models import random_quantizer

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = [*sorted(GOLDEN.glob("qinco*.pt")), GOLDEN / "ivf_qinco2.pt"]
_SMALL = {"num_steps": 3, "codebook_size": 8, "hidden_dim": 7, "num_blocks": 2}
_QINCO1 = {**_SMALL, "embed_dim": None, "outer_skip": False, "num_candidates": 0, "beam_size": 1}
_QINCO2 = {**_SMALL, "embed_dim": 5, "num_candidates": 3, "beam_size": 4}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_published_checkpoint_comes_back_as_it_was(path: Path, tmp_path: Path) -> None:
    export_checkpoint(import_checkpoint(path), tmp_path / "x.pt")
    published, written = (torch.load(file, weights_only=True) for file in (path, tmp_path / "x.pt"))
    assert list(written) == ["epoch", "model", "optimizer", "scheduler", "logger", "parameters", "data_dim"]
    assert written["parameters"] == published["parameters"]
    assert written["data_dim"] == published["data_dim"]
    assert set(written["model"]) == set(published["model"])
    for name, value in published["model"].items():
        assert written["model"][name].shape == value.shape
        if name.endswith((".xtarget_mean", ".xtarget_var")):  # a codec does not have them
            assert written["model"][name].unique().tolist() == [float(name.endswith("var"))]
        else:
            assert torch.equal(written["model"][name], value), name


@pytest.mark.parametrize(
    "config",
    [
        _QINCO2,
        _QINCO1,
        {**_QINCO1, "beam_size": 4},
        {**_QINCO2, "embed_dim": 6},  # the vectors' own dimension, said
        {**_QINCO2, "num_candidates": 0},
        {**_QINCO2, "codebook_size": 300},
        {**_QINCO2, "num_steps": 1},
        {**_QINCO2, "num_lists": 9},
        {**_QINCO2, "num_lists": 9, "num_steps": 1, "num_candidates": 0},
    ],
)
def test_weights_and_parameters_survive_the_round_trip(config: dict[str, Any], tmp_path: Path) -> None:
    quantizer = random_quantizer(6, **config)
    export_checkpoint(Codec(quantizer), tmp_path / "x.pt")
    other = import_checkpoint(tmp_path / "x.pt").quantizer
    assert other.config == quantizer.config
    state = other.state_dict()
    assert set(state) == set(quantizer.state_dict())
    for name, value in quantizer.state_dict().items():
        assert torch.equal(state[name], value), name


def test_no_embed_dim_comes_back_as_the_number_that_it_means(tmp_path: Path) -> None:
    export_checkpoint(Codec(random_quantizer(6, **{**_QINCO2, "embed_dim": None})), tmp_path / "x.pt")
    assert import_checkpoint(tmp_path / "x.pt").quantizer.config["embed_dim"] == 6


def test_a_budget_search_is_dropped_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    codec = Codec(random_quantizer(6, **_QINCO2, candidate_budget=10))
    with caplog.at_level(logging.INFO, logger="qinco_lit"):
        export_checkpoint(codec, tmp_path / "x.pt")
    assert caplog.messages == ["the layout has no budget search: candidate_budget=10 is dropped, A=3 and B=4 are kept"]
    config = import_checkpoint(tmp_path / "x.pt").quantizer.config
    assert config == {**codec.quantizer.config, "candidate_budget": None}


@pytest.mark.parametrize("change", [{"embed_dim": 5}, {"num_candidates": 3}])
def test_what_the_layout_cannot_express_is_refused(change: dict[str, int], tmp_path: Path) -> None:
    codec = Codec(random_quantizer(6, **{**_QINCO1, **change}))
    name, value = next(iter(change.items()))
    with pytest.raises(ValueError, match=f"cannot express outer_skip=False with .*{name}={value}.*QINCo1 only$"):
        export_checkpoint(codec, tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


def test_an_option_that_the_layout_has_no_word_for_is_refused(tmp_path: Path) -> None:
    codec = Codec(random_quantizer(6, **_QINCO2))
    codec.quantizer.parts[0].config["low_rank"] = 4
    with pytest.raises(ValueError, match="cannot express low_rank=4: this codec cannot be exported$"):
        export_checkpoint(codec, tmp_path / "x.pt")
    codec.quantizer.parts[0].config["low_rank"] = None  # not used
    export_checkpoint(codec, tmp_path / "x.pt")


@pytest.mark.parametrize("family", [_QINCO1, {**_QINCO2, "num_lists": 9}])
def test_a_truncated_codec_becomes_a_shorter_checkpoint(family: dict[str, Any], tmp_path: Path) -> None:
    codec = Codec(random_quantizer(6, **family)).truncated(2)
    export_checkpoint(codec, tmp_path / "x.pt")
    other = import_checkpoint(tmp_path / "x.pt").quantizer
    assert other.config == {**codec.quantizer.config, "num_steps": 2}
    state = other.state_dict()
    assert all(torch.equal(state[name], value) for name, value in codec.quantizer.state_dict().items())


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Codec(random_quantizer(6, seed=seed, **_QINCO2)) for seed in (0, 1))
    export_checkpoint(first, tmp_path / "deep" / "x.pt")
    before = (tmp_path / "deep" / "x.pt").read_bytes()
    export_checkpoint(first, tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == before

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            export_checkpoint(second, tmp_path / "deep" / "x.pt")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.pt"]
    assert (tmp_path / "deep" / "x.pt").read_bytes() == before
    with pytest.raises(ValueError, match=r"deep is a folder: name a file, .*deep/checkpoint\.pt$"):
        export_checkpoint(first, tmp_path / "deep")


def test_command_writes_a_checkpoint(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    codec = Codec(random_quantizer(6, **_QINCO2))
    codec.save(tmp_path / "codec")
    command.run(parser.parse_args([str(tmp_path / "codec"), "--output", str(tmp_path / "x.pt")]))
    state = import_checkpoint(tmp_path / "x.pt").quantizer.state_dict()
    assert all(torch.equal(state[name], value) for name, value in codec.quantizer.state_dict().items())
    with pytest.raises(FileNotFoundError, match="no codec in"):
        command.run(parser.parse_args([str(tmp_path / "nothing"), "--output", str(tmp_path / "y.pt")]))
    assert not (tmp_path / "y.pt").exists()
