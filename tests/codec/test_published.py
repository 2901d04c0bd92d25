"""Checkpoints that are not what they should be."""

import shutil
from pathlib import Path

import pytest
import torch

from qinco_lit.cli import main
from qinco_lit.codec import Codec
from qinco_lit.published import import_checkpoint

GOLDEN = Path(__file__).parent.parent / "golden"


class _Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch owned",)


def _checkpoint() -> dict[str, object]:
    checkpoint: dict[str, object] = torch.load(GOLDEN / "qinco2.pt", weights_only=True)
    return checkpoint


def _import(tmp_path: Path, checkpoint: object) -> Codec:
    torch.save(checkpoint, tmp_path / "x.pt")
    return import_checkpoint(tmp_path / "x.pt")


def test_a_file_that_runs_code_is_refused_unrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="holds more than tensors and plain values and is refused"):
        _import(tmp_path, {"model": _Malicious()})
    assert not (tmp_path / "owned").exists()


def test_module_prefix_of_distributed_training_is_accepted(tmp_path: Path) -> None:
    checkpoint = _checkpoint()
    checkpoint["model"] = {f"module.{name}": value for name, value in checkpoint["model"].items()}  # type: ignore[attr-defined]
    state = _import(tmp_path, checkpoint).quantizer.state_dict()
    for name, value in import_checkpoint(GOLDEN / "qinco2.pt").quantizer.state_dict().items():
        assert torch.equal(state[name], value)


def test_wrong_contents_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        import_checkpoint(tmp_path / "nothing.pt")
    (tmp_path / "cut.pt").write_bytes((GOLDEN / "qinco2.pt").read_bytes()[:5000])
    with pytest.raises(ValueError, match="is no torch checkpoint or is truncated"):
        import_checkpoint(tmp_path / "cut.pt")
    with pytest.raises(ValueError, match="is no published QINCo2 checkpoint: parameters, data_dim missing"):
        _import(tmp_path, {"model": {}})
    missing = _checkpoint()
    del missing["model"]["steps.2.concat.mlp.bias"]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"missing \['steps.2.concat.mlp.bias'\]"):
        _import(tmp_path, missing)
    shape = _checkpoint()
    shape["parameters"]["dh"] = 21  # type: ignore[index]
    with pytest.raises(ValueError, match=r"up_proj.weight has shape \(20, 12\), its parameters ask \(21, 12\)"):
        _import(tmp_path, shape)
    without = _checkpoint()
    del without["parameters"]["M"]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="describe no QINCo model"):
        _import(tmp_path, without)
    nan = _checkpoint()
    nan["model"]["data_mean"][3] = torch.nan  # type: ignore[index]
    with pytest.raises(ValueError, match="data_mean holds NaN"):
        _import(tmp_path, nan)
    ivf = _checkpoint()
    ivf["parameters"].update(ivf_in_use=True, ivf_K=20)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="is an IVF model"):
        _import(tmp_path, ivf)


def test_command_writes_a_codec(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy(GOLDEN / "qinco1.pt", tmp_path / "x.pt")
    assert main(["import", str(tmp_path / "x.pt"), "--output", str(tmp_path / "codec")]) == 0
    assert Codec.load(tmp_path / "codec").quantizer.config["outer_skip"] is False
    assert main(["import", str(tmp_path / "y.pt"), "--output", str(tmp_path / "other")]) == 2
    assert capfd.readouterr().err.strip().splitlines()[-1].startswith("qinco: error: no checkpoint at ")
    assert not (tmp_path / "other").exists()
