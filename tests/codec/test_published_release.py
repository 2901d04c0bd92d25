"""Files of the QINCo1 release: the published numbers, every family read wholly, other layouts of the same pickle."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qinco_lit.codec import Codec
from qinco_lit.codec_folder import tensors
from qinco_lit.published import Qinco1Model, import_checkpoint, read_qinco1_release
from tests.codec.release_models import Release

GOLDEN = Path(__file__).parent.parent / "golden"


def _golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def _decoded(model: Qinco1Model, codes: Tensor) -> Tensor:
    """What a described model decodes to, by the models' formulas, written plainly."""
    state, scale = model.state, float(model.sizes["db_scale"])
    if model.parts:
        widths = [int(part.sizes["M"]) for part in model.parts]
        columns = torch.split(codes, widths, dim=1)
        x_hat = torch.cat([_decoded(part, own) for part, own in zip(model.parts, columns, strict=True)], dim=1)
        return (x_hat @ state["opq_matrix"] if "opq_matrix" in state else x_hat) * scale
    x_hat = state["codebook0.weight"][codes[:, 0]]
    for column, code in enumerate(codes.T[1:], start=1):
        step = f"step{column - 1 if model.family == 'IVFQINCo' else column}"
        s = state[f"{step}.codebook.weight"][code]
        both = torch.cat([s, x_hat], dim=1)
        if model.family == "QINCoLR":
            s = s + both @ state[f"{step}.MLPconcat.0.weight"].T @ state[f"{step}.MLPconcat.1.weight"].T
        else:
            s = s + both @ state[f"{step}.MLPconcat.weight"].T + state[f"{step}.MLPconcat.bias"]
        for block in range(int(model.sizes["L"])):
            up, down = (state[f"{step}.residual_block{block}.{number}.weight"] for number in (0, 2))
            s = s + (s @ up.T).relu() @ down.T
        x_hat = x_hat + s
    return x_hat * scale


@pytest.mark.parametrize("name", ["v1_qinco", "v1_qinco_lr", "v1_ivf_qinco", "v1_pq_qinco", "v1_opq_qinco"])
def test_every_family_is_read_wholly(name: str) -> None:
    golden, model = _golden(name), read_qinco1_release(GOLDEN / f"{name}.pt")
    x_hat = _decoded(model, torch.from_numpy(golden["codes"]).long())
    np.testing.assert_allclose(x_hat.numpy(), golden["x_hat"], rtol=1e-4, atol=1e-4)


# --- pickles that this process writes from modules of the same names --------------------------------------------------


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Release:
    return Release(monkeypatch)


def _import(tmp_path: Path, model: nn.Module, **options: Any) -> Codec:
    torch.save(model, tmp_path / "x.pt", **options)
    return import_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols_than_that_of_torch_are_refused_in_one_line(
    protocol: int, tmp_path: Path, release: Release
) -> None:
    model = release.single(db_scale=np.float32(2.5))
    with pytest.raises(ValueError, match=r"x\.pt is refused: it uses the pickle opcode 0x\w\w, which no published"):
        _import(tmp_path, model, pickle_protocol=protocol)


@pytest.mark.parametrize("scale", [2.5, np.float32(2.5), np.float64(2.5), torch.tensor(2.5)])
def test_kinds_of_numbers(scale: Any, tmp_path: Path, release: Release) -> None:
    model = release.single(db_scale=scale, K=np.int64(8))
    state = tensors(_import(tmp_path, model).quantizer)
    own = model.state_dict()
    assert state["data_std"] == 2.5
    assert torch.equal(state["data_mean"], torch.zeros(6))
    assert torch.equal(state["first_codebook"], own["codebook0.weight"])
    assert torch.equal(state["steps.1.network.concat.bias"], own["step2.MLPconcat.bias"])
    assert torch.equal(state["steps.0.network.down.1.weight"], own["step1.residual_block1.2.weight"])


def test_views_and_half_precision_are_read(tmp_path: Path, release: Release) -> None:
    model = release.single()
    wide = torch.randn(6, 20)
    model.codebook0.weight.data = wide[:, 3:11].T  # strided, with an offset, of a larger storage
    model.step1.double()
    model.step2.bfloat16()
    state = tensors(_import(tmp_path, model).quantizer)
    assert torch.equal(state["first_codebook"], wide[:, 3:11].T)
    assert torch.equal(state["steps.0.codebook"], model.state_dict()["step1.codebook.weight"].float())
    assert torch.equal(state["steps.1.codebook"], model.state_dict()["step2.codebook.weight"].float())


def test_wrong_contents_are_named(tmp_path: Path, release: Release) -> None:
    for attributes, message in (
        ({"M": 4}, "its parameters say M=4, its tensors M=3$"),
        ({"h": 7}, "its parameters say h=7, its tensors h=5$"),
        ({"db_scale": "2"}, "db_scale of its model_qinco.QINCo is a str, not a number$"),
        ({"db_scale": 0.0}, r"vectors cannot be divided by 0\.0$"),
        ({"db_scale": float("nan")}, "db_scale holds NaN or infinity$"),
        ({"db_scale": None}, r"describe no QINCo model \(no db_scale\)$"),
        ({"other": nn.Linear(2, 2)}, r"missing \[\], unknown \['other.weight', 'other.bias'\]$"),
        ({"step3": nn.Conv1d(1, 1, 1)}, r"is refused: it refers to torch.nn.modules.conv.Conv1d, which no"),
    ):
        with pytest.raises(ValueError, match=message):
            _import(tmp_path, release.single(**attributes))
    model = release.single()
    model.step1.codebook.weight.data[2, 3] = torch.inf
    with pytest.raises(ValueError, match="x.pt: weight holds NaN or infinity$"):
        _import(tmp_path, model)
    with pytest.raises(ValueError, match=r"holds a torch\.nn\.modules\.linear\.Linear$"):
        _import(tmp_path, nn.Linear(2, 2))
    shutil.copy(GOLDEN / "v1_qinco.pt", tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"is of the QINCo1 release, which keeps its centroids: leave out c\.npy$"):
        import_checkpoint(tmp_path / "x.pt", centroids="c.npy")
