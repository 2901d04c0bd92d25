"""Files of the QINCo1 release: the published numbers, every family read wholly, other layouts of the same pickle."""

import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qinco_lit.codec import Codec
from qinco_lit.published import Qinco1Model, import_checkpoint, read_qinco1_release

GOLDEN = Path(__file__).parent.parent / "golden"


def _golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def test_qinco_gives_the_published_codes() -> None:
    golden, codec = _golden("v1_qinco"), import_checkpoint(GOLDEN / "v1_qinco.pt")
    np.testing.assert_array_equal(codec.encode(golden["x"]), golden["codes"])
    np.testing.assert_allclose(codec.decode(golden["codes"]), golden["x_hat"], rtol=1e-5, atol=1e-5)
    assert codec.quantizer.config["beam_size"] == 1
    assert not codec.quantizer.config["outer_skip"]


def test_codes_and_lists_of_an_ivf_model_are_the_published_ones() -> None:
    golden, codec = _golden("v1_ivf_qinco"), import_checkpoint(GOLDEN / "v1_ivf_qinco.pt")
    list_ids, codes = codec.encode(golden["x"])
    np.testing.assert_array_equal(list_ids, golden["codes"][:, 0])
    assert (codes == golden["codes"][:, 1:]).mean() >= 0.999
    x_hat = codec.decode(golden["codes"][:, 1:].astype(np.uint8), list_ids=list_ids)
    np.testing.assert_allclose(x_hat, golden["x_hat"], rtol=1e-4, atol=1e-4)


def test_an_imported_model_saves_and_loads(tmp_path: Path) -> None:
    golden = _golden("v1_qinco")
    import_checkpoint(GOLDEN / "v1_qinco.pt").save(tmp_path / "codec")
    np.testing.assert_array_equal(Codec.load(tmp_path / "codec").encode(golden["x"]), golden["codes"])


def _decoded(model: Qinco1Model, codes: Tensor) -> Tensor:
    """What a described model decodes to, from the formulas of algorithm.md only."""
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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v1_qinco_lr", r"holds a QINCoLR \(d=16, K=16, L=2, M=4, h=6, db_scale=3\) of .* low-rank first layer"),
        (
            "v1_opq_qinco",
            r"holds a PQ_QINCo of 2 parts \(db_scale=1\) of .* waits for product quantizers of QINCo parts",
        ),
    ],
)
def test_a_family_without_a_model_is_refused_by_name(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}.pt {said}.*, which this version lacks$"):
        import_checkpoint(GOLDEN / f"{name}.pt")


# --- pickles that this process writes from modules of the same names --------------------------------------------------


class _QINCo(nn.Module):
    def __init__(self, step_class: type[nn.Module], **attributes: Any) -> None:
        super().__init__()
        self.codebook0 = nn.Embedding(8, 6)
        for step in (1, 2):
            setattr(self, f"step{step}", step_class())
        for name, value in attributes.items():
            setattr(self, name, value)


class _QINCoStep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.codebook = nn.Embedding(8, 6)
        self.MLPconcat = nn.Linear(12, 6)
        for block in range(2):
            layers = nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 6, bias=False)
            setattr(self, f"residual_block{block}", nn.Sequential(*layers))


def _model(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> nn.Module:
    module = types.ModuleType("model_qinco")
    monkeypatch.setitem(sys.modules, "model_qinco", module)
    for cls in (_QINCo, _QINCoStep):
        own = type(cls.__name__[1:], (cls,), {"__module__": "model_qinco"})
        setattr(module, own.__name__, own)
    sizes = {"d": 6, "K": 8, "L": 2, "M": 3, "h": 5, "db_scale": 2.5}
    torch.manual_seed(0)
    return module.QINCo(module.QINCoStep, **{**sizes, **attributes})  # type: ignore[no-any-return]


def _import(tmp_path: Path, model: nn.Module, **options: Any) -> Codec:
    torch.save(model, tmp_path / "x.pt", **options)
    return import_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("scale", [2.5, np.float32(2.5), np.float64(2.5), torch.tensor(2.5)])
def test_protocols_and_kinds_of_numbers(
    protocol: int, scale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model(monkeypatch, db_scale=scale, K=np.int64(8))
    state = _import(tmp_path, model, pickle_protocol=protocol).quantizer.state_dict()
    own = model.state_dict()
    assert state["data_std"] == 2.5
    assert torch.equal(state["data_mean"], torch.zeros(6))
    assert torch.equal(state["first_codebook"], own["codebook0.weight"])
    assert torch.equal(state["steps.1.network.concat.bias"], own["step2.MLPconcat.bias"])
    assert torch.equal(state["steps.0.network.down.1.weight"], own["step1.residual_block1.2.weight"])


def test_views_and_half_precision_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(monkeypatch)
    wide = torch.randn(6, 20)
    model.codebook0.weight.data = wide[:, 3:11].T  # strided, with an offset, of a larger storage
    model.step1.double()
    model.step2.bfloat16()
    state = _import(tmp_path, model).quantizer.state_dict()
    assert torch.equal(state["first_codebook"], wide[:, 3:11].T)
    assert torch.equal(state["steps.0.codebook"], model.state_dict()["step1.codebook.weight"].float())
    assert torch.equal(state["steps.1.codebook"], model.state_dict()["step2.codebook.weight"].float())


def test_wrong_contents_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for attributes, message in (
        ({"M": 4}, "its parameters say M=4, its tensors M=3$"),
        ({"h": 7}, "its parameters say h=7, its tensors h=5$"),
        ({"db_scale": "2"}, "db_scale of its model_qinco.QINCo is a str, not a number$"),
        ({"db_scale": 0.0}, r"vectors cannot be divided by 0\.0$"),
        ({"db_scale": float("nan")}, "db_scale holds NaN or infinity$"),
        ({"db_scale": None}, r"describe no QINCo model \('db_scale'\)$"),
        ({"other": nn.Linear(2, 2)}, r"missing \[\], unknown \['other.weight', 'other.bias'\]$"),
        ({"step3": nn.Conv1d(1, 1, 1)}, r"is refused: it refers to torch.nn.modules.conv.Conv1d, which no"),
    ):
        with pytest.raises(ValueError, match=message):
            _import(tmp_path, _model(monkeypatch, **attributes))
    model = _model(monkeypatch)
    model.step1.codebook.weight.data[2, 3] = torch.inf
    with pytest.raises(ValueError, match="x.pt: weight holds NaN or infinity$"):
        _import(tmp_path, model)
    with pytest.raises(ValueError, match=r"holds a torch\.nn\.modules\.linear\.Linear$"):
        _import(tmp_path, nn.Linear(2, 2))
    shutil.copy(GOLDEN / "v1_qinco.pt", tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"is of the QINCo1 release, which keeps its centroids: leave out c\.npy$"):
        import_checkpoint(tmp_path / "x.pt", centroids="c.npy")
