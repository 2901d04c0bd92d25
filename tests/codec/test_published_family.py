"""Every family of the QINCo1 release becomes a codec that gives the published numbers, or is refused for what it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qinco_lit.codec import Codec
from qinco_lit.published import export_checkpoint, import_checkpoint, read_qinco1_release
from qinco_lit.quantizers import Quantizer
from qinco_lit.vectors import open_codes
from tests.cli.conftest import qinco, refused  # noqa: F401
from tests.codec.release_models import IVFQINCo, PQ_QINCo, QINCoLR, Release
from tests.quantizers.products import random_rotation

GOLDEN = Path(__file__).parent.parent / "golden"
FAMILIES = ["v1_qinco", "v1_qinco_lr", "v1_ivf_qinco", "v1_pq_qinco", "v1_opq_qinco"]


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Release:
    return Release(monkeypatch)


def _golden(name: str) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]:
    """The published numbers; their codes and list ids as ours: an IVF model's first column is the list."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        golden = dict(file)
    lists = {"list_ids": golden["codes"][:, 0].astype(np.int32)} if "ivf" in name else {}
    return golden, golden["codes"][:, len(lists) :].astype(np.uint8), lists


@pytest.mark.parametrize("name", FAMILIES)
def test_codes_and_reconstructions_are_the_published_ones(name: str, tmp_path: Path) -> None:
    golden, codes, lists = _golden(name)
    imported = import_checkpoint(GOLDEN / f"{name}.pt")
    imported.save(tmp_path / "codec")
    for codec in (imported, Codec.load(tmp_path / "codec")):
        encoded = codec.encode(golden["x"])
        if lists:
            np.testing.assert_array_equal(encoded[0], lists["list_ids"])
            encoded = encoded[1]
        np.testing.assert_array_equal(encoded, codes)
        np.testing.assert_allclose(codec.decode(codes, **lists), golden["x_hat"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES[1:])
def test_the_commands_give_the_published_numbers(name: str, qinco: Callable[..., Any], tmp_path: Path) -> None:  # noqa: F811
    golden, codes, lists = _golden(name)
    np.save(tmp_path / "x.npy", golden["x"])
    for line in (
        ["import", str(GOLDEN / f"{name}.pt"), "--output", "codec"],
        ["encode", "codec=codec", "input=x.npy", "output=codes.h5", "packed=true", "trainer.accelerator=cpu"],
        ["verify", "codes.h5"],
        ["decode", "codec=codec", "codes=codes.h5", "output=x_hat.npy", "device=cpu"],
    ):
        assert (outcome := qinco(*line)).code == 0, outcome.err
    store = open_codes(tmp_path / "codes.h5")
    np.testing.assert_array_equal(store[:], codes)
    if lists:
        np.testing.assert_array_equal(store.list_ids(0, len(codes)), lists["list_ids"])
    np.testing.assert_allclose(np.load(tmp_path / "x_hat.npy"), golden["x_hat"], rtol=1e-5, atol=1e-5)


def _scales(quantizer: Quantizer) -> list[float]:
    """The one of each part."""
    own = [set(quantizer.data_std[dims].tolist()) for dims in quantizer.part_slices]
    assert all(len(scales) == 1 for scales in own)
    return [scales.pop() for scales in own]


@pytest.mark.parametrize("name", ["v1_pq_qinco", "v1_opq_qinco"])
def test_a_product_is_what_the_file_says(name: str) -> None:
    described, quantizer = (
        read_qinco1_release(GOLDEN / f"{name}.pt"),
        import_checkpoint(GOLDEN / f"{name}.pt").quantizer,
    )
    assert quantizer.config["part_dims"] == [part.sizes["d"] for part in described.parts]
    assert quantizer.config["part_steps"] == [part.sizes["M"] for part in described.parts]
    assert _scales(quantizer) == [part.sizes["db_scale"] for part in described.parts]
    assert quantizer.part_columns == [[0, 1, 2], [3, 4, 5]]  # part after part
    assert quantizer.config["opq"] == ("opq_matrix" in described.state)


def test_what_the_published_layout_cannot_hold_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:  # noqa: F811
    for name, said in (
        ("v1_pq_qinco", "the published layout holds one model a file and cannot express num_parts=2"),
        ("v1_qinco_lr", "the published layout cannot express concat_rank=6"),
    ):
        import_checkpoint(GOLDEN / f"{name}.pt").save(tmp_path / name)
        assert refused("export", name, "--output", "x.pt") == f"{said}: this codec cannot be exported"


def test_an_ivf_model_of_the_release_can_be_exported(tmp_path: Path) -> None:
    codec = import_checkpoint(GOLDEN / "v1_ivf_qinco.pt")
    export_checkpoint(codec, tmp_path / "x.pt")
    again = import_checkpoint(tmp_path / "x.pt").quantizer
    assert again.config == codec.quantizer.config
    assert all(torch.equal(again.state_dict()[name], value) for name, value in codec.quantizer.state_dict().items())


# --- files that this process writes -----------------------------------------------------------------------------------


def _import(tmp_path: Path, model: nn.Module) -> Codec:
    torch.save(model, tmp_path / "x.pt")
    return import_checkpoint(tmp_path / "x.pt")


def test_unequal_parts_and_scales(tmp_path: Path, release: Release) -> None:
    """Each part by itself gives its codes; the model's own scale multiplies those of the parts."""
    sizes, opq = [{"d": 4, "M": 2, "db_scale": 3.0}, {"d": 6, "M": 4}, {"d": 2, "M": 1}], random_rotation(12)
    codec = _import(tmp_path, release.product(*sizes, opq=opq, db_scale=2.0))
    assert codec.quantizer.config["part_dims"] == [4, 6, 2]
    assert codec.quantizer.config["part_steps"] == [2, 4, 1]
    assert _scales(codec.quantizer) == [6.0, 5.0, 5.0]
    x = 3 * torch.randn((50, 12), generator=torch.Generator().manual_seed(1))
    codes = codec.encode(x)
    model, y, first = torch.load(tmp_path / "x.pt", weights_only=False), x / 2 @ opq.T, 0
    for number, columns in ((0, [0, 1]), (1, [2, 3, 4, 5]), (2, [6])):
        part = _import(tmp_path, model.sub_quantizers[number])
        torch.testing.assert_close(codes[:, columns], part.encode(y[:, first : first + part.dim]))
        first += part.dim


def test_parts_may_be_low_rank(tmp_path: Path, release: Release) -> None:
    model = PQ_QINCo([release.single(QINCoLR), release.single(QINCoLR)])
    codec = _import(tmp_path, model)
    assert codec.quantizer.config["concat_rank"] == 5
    network = codec.quantizer.parts[1].residual_steps()[0].network
    assert torch.equal(network.concat_in.weight, model.sub_quantizer_1.step1.MLPconcat[0].weight)
    assert torch.equal(network.concat_out.weight, model.sub_quantizer_1.step1.MLPconcat[1].weight)


def test_a_rotation_that_is_no_parameter_is_not_passed_over(tmp_path: Path, release: Release) -> None:
    model = release.product({}, {})
    model.__dict__["opq_matrix"] = opq = random_rotation(12)
    assert torch.equal(_import(tmp_path, model).quantizer.rotation, opq)
    half = release.product({}, {}, opq=opq.half())  # orthogonal up to its rounding
    assert torch.equal(_import(tmp_path, half).quantizer.rotation, opq.half().float())


def _wrong_products(release: Release) -> list[tuple[nn.Module, str]]:
    gone, renamed, first_gone, empty = (release.product({}, {}, {}) for _ in range(4))
    del gone.sub_quantizer_1, first_gone.sub_quantizer_0
    first_gone.sub_quantizers = first_gone.sub_quantizers[1:]
    renamed.add_module("other", renamed.sub_quantizer_2)
    del renamed.sub_quantizer_2
    empty.sub_quantizers = []
    for index in range(3):
        delattr(empty, f"sub_quantizer_{index}")
    damaged, beside, stretched = (release.product({}, {}) for _ in range(3))
    del damaged.sub_quantizer_1.step2
    beside.other = nn.Linear(2, 2)
    stretched.sub_quantizer_1.step1.codebook = nn.Embedding(8, 7)
    nan = release.product({}, {}, opq=random_rotation(12))
    nan.opq_matrix.data[0, 0] = torch.nan
    mixed = [release.single(), release.single(QINCoLR)], [release.single(), release.single(IVFQINCo, K_IVF=9)]
    return [
        (gone, r"its model_qinco.PQ_QINCo has 3 parts: missing \['sub_quantizer_1'\], unknown \[\]"),
        (first_gone, r"has 2 parts: missing \['sub_quantizer_0'\], unknown \['sub_quantizer_2'\]"),
        (renamed, r"has 3 parts: missing \['sub_quantizer_2'\], unknown \['other'\]"),
        (empty, "a PQ_QINCo has parts that are all QINCo or all QINCoLR, this one none"),
        (PQ_QINCo(mixed[0]), r"all QINCo or all QINCoLR, this one \['QINCo', 'QINCoLR'\]"),
        (PQ_QINCo(mixed[1]), r"all QINCo or all QINCoLR, this one \['QINCo', 'IVFQINCo'\]"),
        (PQ_QINCo([release.product({})]), r"all QINCo or all QINCoLR, this one \['PQ_QINCo'\]"),
        (release.product({}, {"K": 9}), r"its parts have K=\[8, 9\]: parts of one size are read"),
        (release.product({}, {"h": 4}), r"its parts have h=\[5, 4\]: parts of one size are read"),
        (damaged, ": sub_quantizer_1: its parameters say M=3, its tensors M=2"),
        (beside, r"does not fit its parameters: unknown \['other.weight', 'other.bias'\]"),
        (stretched, r"sub_quantizer_1.step1.codebook.weight has shape \(8, 7\), the model needs \(8, 6\)"),
        (release.product({}, {}, d=13), "its parameters say d=13, its tensors d=12"),
        (release.product({}, {"db_scale": 0.0}), r"vectors cannot be divided by 0\.0"),
        (release.product({}, {}, db_scale=-1), r"vectors cannot be divided by -2\.5"),
        (release.product({}, {}, db_scale="2"), "db_scale of its model_qinco.PQ_QINCo is a str, not a number"),
        (nan, "opq_matrix holds NaN or infinity"),
        (
            release.product({}, {}, opq=random_rotation(10)),
            r"opq_matrix has shape \(10, 10\), parts of \[6, 6\] dimensions need \(12, 12\)",
        ),
        (
            release.product({}, {}, opq=2 * random_rotation(12)),
            "opq_matrix is no rotation: R R.T differs from the identity by up to 3",
        ),
    ]


def test_products_that_do_not_fit_together_are_named(tmp_path: Path, release: Release) -> None:
    for model, message in _wrong_products(release):
        with pytest.raises(ValueError, match=rf"x\.pt.*{message}$") as caught:
            _import(tmp_path, model)
        assert len(str(caught.value).splitlines()) == 1


def test_the_command_refuses_in_one_line(release: Release, refused: Callable[..., str], tmp_path: Path) -> None:  # noqa: F811
    torch.save(release.product({}, {}, opq=random_rotation(10)), tmp_path / "x.pt")
    said = "opq_matrix has shape (10, 10), parts of [6, 6] dimensions need (12, 12)"
    assert refused("import", "x.pt", "--output", "codec") == f"x.pt: {said}"
    whole = (GOLDEN / "v1_opq_qinco.pt").read_bytes()
    for size in (5000, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        assert refused("import", "cut.pt", "--output", "codec") == "cut.pt is no torch checkpoint or is truncated"


def test_networks_that_are_of_another_family_are_named(tmp_path: Path, release: Release) -> None:
    full, low_rank, narrow, ivf = (
        release.single(),
        release.single(QINCoLR),
        release.single(QINCoLR),
        release.single(IVFQINCo, K_IVF=9),
    )
    full.step1.MLPconcat = low_rank.step2.MLPconcat
    low_rank.step2.MLPconcat = nn.Linear(12, 6)
    narrow.step1.MLPconcat = nn.Sequential(nn.Linear(12, 4, bias=False), nn.Linear(4, 6, bias=False))
    del ivf.step0
    for model, message in (
        (full, r"missing \['step1.MLPconcat.weight', 'step1.MLPconcat.bias'\], unknown \['step1.MLPconcat.0.weight', "),
        (low_rank, r"missing \['step2.MLPconcat.0.weight', 'step2.MLPconcat.1.weight'\], unknown \['step2.MLPconcat.w"),
        (narrow, r"step1.MLPconcat.0.weight has shape \(4, 12\), the model needs \(5, 12\)$"),
        (ivf, r"x.pt: step0.codebook.weight is missing$"),
    ):
        with pytest.raises(ValueError, match=message):
            _import(tmp_path, model)
