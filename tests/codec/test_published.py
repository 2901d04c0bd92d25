"""Checkpoints in the QINCo2 repository's layout: what is inferred, tolerated and refused."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qinco_lit.cli import main
from qinco_lit.codec import Codec
from qinco_lit.codec_folder import tensors
from qinco_lit.published import import_checkpoint

GOLDEN = Path(__file__).parent.parent / "golden"


def _checkpoint(name: str = "qinco2") -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    return checkpoint


def _import(tmp_path: Path, checkpoint: object, **options: Any) -> Codec:
    torch.save(checkpoint, tmp_path / "x.pt")
    return import_checkpoint(tmp_path / "x.pt", **options)


def _assert_same(codec: Codec, other: Codec) -> None:
    assert codec.quantizer.config == other.quantizer.config
    state = codec.quantizer.state_dict()
    for name, value in other.quantizer.state_dict().items():
        assert torch.equal(state[name], value), name


def test_module_prefix_of_distributed_training_is_accepted(tmp_path: Path) -> None:
    checkpoint = _checkpoint()
    checkpoint["model"] = {f"module.{name}": value for name, value in checkpoint["model"].items()}
    _assert_same(_import(tmp_path, checkpoint), import_checkpoint(GOLDEN / "qinco2.pt"))


def test_only_the_model_and_its_parameters_are_needed(tmp_path: Path) -> None:
    expected, checkpoint = import_checkpoint(GOLDEN / "qinco2.pt"), _checkpoint()
    weight = torch.nn.Parameter(checkpoint["model"]["steps.1.codebook.weight"].clone())
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    states = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "logger": {"mse": [1.0]}}
    _assert_same(_import(tmp_path, {**_checkpoint(), **states}), expected)
    _assert_same(_import(tmp_path, {key: checkpoint[key] for key in ("model", "parameters")}), expected)
    statistics = {name for name in checkpoint["model"] if ".xtarget_" in name}
    checkpoint["model"] = {name: value for name, value in checkpoint["model"].items() if name not in statistics}
    _assert_same(_import(tmp_path, checkpoint), expected)


@pytest.mark.parametrize("name", ["qinco1", "qinco2", "qinco2_nobeam", "qinco2_square", "qinco2_wide"])
def test_sizes_are_those_of_the_tensors_whatever_of_them_is_stored(name: str, tmp_path: Path) -> None:
    checkpoint = _checkpoint(name)
    kept = ("A", "B", "qinco1_mode")
    checkpoint["parameters"] = {key: value for key, value in checkpoint["parameters"].items() if key in kept}
    _assert_same(_import(tmp_path, checkpoint), import_checkpoint(GOLDEN / f"{name}.pt"))


def test_a_search_that_is_not_stored_is_the_papers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = _checkpoint()
    checkpoint["parameters"] = {}
    with caplog.at_level("INFO", logger="qinco_lit.published"):
        config = _import(tmp_path, checkpoint).quantizer.config
    assert (config["num_candidates"], config["beam_size"]) == (16, 32)
    assert caplog.messages == ["the file does not say its whole search: A=16, B=32 are assumed"]


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    checkpoint = _checkpoint()
    checkpoint["model"] = {name: value.half() for name, value in checkpoint["model"].items()}
    state = tensors(_import(tmp_path, checkpoint).quantizer)
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert torch.equal(state["first_codebook"], checkpoint["model"]["steps.0.codebook.weight"].float())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("K", 17, "K=17, its tensors K=16"), ("M", 5, "M=5, its tensors M=4"), ("de", 13, "de=13, its tensors de=12"),
     ("dh", 21, "dh=21, its tensors dh=20"), ("L", 3, "L=3, its tensors L=2"),
     ("dh", "20", "dh='20', its tensors dh=20")],
)  # fmt: skip
def test_sizes_that_contradict_the_tensors_are_named(key: str, value: object, said: str, tmp_path: Path) -> None:
    checkpoint = _checkpoint()
    checkpoint["parameters"][key] = value
    with pytest.raises(ValueError, match=f"x.pt: its parameters say {said}$"):
        _import(tmp_path, checkpoint)


def test_files_that_are_no_checkpoint_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nothing\.pt$"):
        import_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        import_checkpoint(tmp_path)
    whole = (GOLDEN / "qinco2.pt").read_bytes()
    for size in (0, 3, 5000, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.pt is no torch checkpoint or is truncated$"):
            import_checkpoint(tmp_path / "cut.pt")
    with zipfile.ZipFile(GOLDEN / "qinco2.pt") as archive:
        inside = archive.getinfo("qinco2/data/1").header_offset + 400
    (tmp_path / "bit.pt").write_bytes(whole[:inside] + bytes([whole[inside] ^ 1]) + whole[inside + 1 :])
    with pytest.raises(ValueError, match=r"bit\.pt is damaged: the checksum of 'qinco2/data/\d' in it is wrong$"):
        import_checkpoint(tmp_path / "bit.pt")
    torch.save(_checkpoint(), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="is in the format of torch before 1.6, which no published checkpoint has$"):
        import_checkpoint(tmp_path / "legacy.pt")
    with pytest.raises(ValueError, match="is no published checkpoint: it holds a list$"):
        _import(tmp_path, [1, 2])
    with pytest.raises(ValueError, match="is no published QINCo2 checkpoint: parameters missing$"):
        _import(tmp_path, {"model": {}})
    with pytest.raises(ValueError, match="`model` is no state dict of tensors$"):
        _import(tmp_path, {"model": {"a": 1}, "parameters": {}})
    with pytest.raises(ValueError, match=r"it has no steps\.0\.codebook\.weight$"):
        _import(tmp_path, {"model": {}, "parameters": {}})
    with pytest.raises(ValueError, match="its parameters are a int, not a dict$"):
        _import(tmp_path, {"model": {}, "parameters": 3})


def test_wrong_tensors_are_named(tmp_path: Path) -> None:
    missing, unknown, shape, nan, whole_numbers, flat, scale = (_checkpoint() for _ in range(7))
    del missing["model"]["steps.2.concat.mlp.bias"]
    unknown["model"]["steps.2.other"] = torch.zeros(1)
    shape["model"]["steps.2.codebook.weight"] = torch.zeros(15, 24)
    nan["model"]["data_mean"][3] = torch.nan
    whole_numbers["model"]["data_mean"] = torch.zeros(24, dtype=torch.int64)
    flat["model"]["steps.0.codebook.weight"] = torch.zeros(16)
    scale["model"]["data_std"] = torch.tensor(0.0)
    for checkpoint, message in (
        (missing, r"missing \['steps.2.concat.mlp.bias'\], unknown \[\]$"),
        (unknown, r"missing \[\], unknown \['steps.2.other'\]$"),
        (shape, r"steps.2.codebook.weight has shape \(15, 24\), the model needs \(16, 24\)$"),
        (nan, "data_mean holds NaN or infinity$"),
        (whole_numbers, "data_mean holds torch.int64, not floating-point numbers$"),
        (flat, "steps.0.codebook.weight is no matrix$"),
        (scale, r"vectors cannot be divided by 0\.0$"),
    ):
        with pytest.raises(ValueError, match=message):
            _import(tmp_path, checkpoint)
    for value in (17, -1, 4.5):
        search = _checkpoint()
        search["parameters"]["A"] = value
        with pytest.raises(ValueError, match=f"'A': {value}, .* describe no QINCo model"):
            _import(tmp_path, search)


def test_centroids_are_for_ivf_models(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.zeros((40, 24), np.float32))
    with pytest.raises(ValueError, match="is no IVF model: leave out the centroids$"):
        _import(tmp_path, _checkpoint(), centroids=tmp_path / "c.npy")
    ivf = torch.load(GOLDEN / "ivf_qinco2.pt", weights_only=True)
    with pytest.raises(ValueError, match="has coarse centroids of its own: leave out the centroids$"):
        _import(tmp_path, ivf, centroids=tmp_path / "c.npy")
    del ivf["model"]["steps.0.ivf_centroids.weight"]
    with pytest.raises(
        ValueError, match="without its coarse centroids: give the file of 40 centroids with --centroids"
    ):
        _import(tmp_path, ivf)
    with pytest.raises(ValueError, match="has 16 dimensions, the centroids have 24$"):
        _import(tmp_path, ivf, centroids=tmp_path / "c.npy")
    np.save(tmp_path / "c.npy", np.zeros((39, 16), np.float32))
    with pytest.raises(ValueError, match="its parameters say ivf_K=40, its tensors ivf_K=39$"):
        _import(tmp_path, ivf, centroids=tmp_path / "c.npy")


def test_command_writes_a_codec(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy(GOLDEN / "qinco1.pt", tmp_path / "x.pt")
    assert main(["import", str(tmp_path / "x.pt"), "--output", str(tmp_path / "codec")]) == 0
    assert Codec.load(tmp_path / "codec").quantizer.config["outer_skip"] is False
    assert main(["import", str(tmp_path / "y.pt"), "--output", str(tmp_path / "other")]) == 2
    assert capfd.readouterr().err.strip().splitlines()[-1].startswith("qinco: error: no checkpoint at ")
    assert not (tmp_path / "other").exists()
