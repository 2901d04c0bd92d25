"""The published implementation's numbers on tiny models (tests/golden/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qinco_lit.codec import Codec
from qinco_lit.published import import_checkpoint, published_names

GOLDEN = Path(__file__).parent.parent / "golden"
NAMES = ["ivf_qinco2", "qinco1", "qinco2", "qinco2_nobeam", "qinco2_square", "qinco2_wide"]


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> tuple[Codec, dict[str, np.ndarray]]:
    with np.load(GOLDEN / f"{request.param}.npz") as file:
        return import_checkpoint(GOLDEN / f"{request.param}.pt"), dict(file)


def _split(codec: Codec, columns: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Golden codes as ours: an IVF model's first column is the list id."""
    if codec.num_lists is None:
        return columns.astype(np.uint8), {}
    return columns[:, 1:].astype(np.uint8), {"list_ids": columns[:, 0].astype(np.int32)}


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_codes_agree(case: tuple[Codec, dict[str, np.ndarray]], precision: str) -> None:
    codec, golden = case
    encoded = Codec(codec.quantizer, precision=precision).encode(golden["x"])
    codes, lists = _split(codec, golden["codes"])
    if lists:
        list_ids, encoded = encoded
        assert list_ids.dtype == np.int32
        np.testing.assert_array_equal(list_ids, lists["list_ids"])
    assert encoded.dtype == np.uint8
    assert (encoded == codes).mean() >= 0.999


def test_decoding_agrees(case: tuple[Codec, dict[str, np.ndarray]]) -> None:
    codec, golden = case
    codes, lists = _split(codec, golden["codes"])
    x_hat = codec.decode(codes, **lists)
    assert np.linalg.norm(x_hat - golden["x_hat"]) <= 1e-4 * np.linalg.norm(golden["x_hat"])


def test_error_of_every_prefix_agrees(case: tuple[Codec, dict[str, np.ndarray]]) -> None:
    codec, golden = case
    codes, lists = _split(codec, golden["codes"])
    mse = [((x_hat - golden["x"]) ** 2).sum(1).mean() for x_hat in codec.decode_steps(codes, **lists)]
    np.testing.assert_allclose(mse, golden["mse_per_step"][-codec.num_steps :], rtol=1e-4)


def test_losses_and_gradients_agree(case: tuple[Codec, dict[str, np.ndarray]]) -> None:
    codec, golden = case
    quantizer = codec.quantizer.requires_grad_(True)
    x = quantizer.normalize(torch.from_numpy(golden["x"]))
    codes, lists = _split(codec, golden["codes"])
    list_ids = torch.from_numpy(lists["list_ids"]).long() if lists else None
    losses = quantizer.losses(x, torch.from_numpy(codes).long(), list_ids)
    assert losses.reconstruction.sum().item() == pytest.approx(float(golden["loss.mse_loss"]), rel=1e-5)
    assert losses.preselector.sum().item() == pytest.approx(float(golden.get("loss.loss_substep", 0.0)), rel=1e-5)

    (losses.reconstruction.sum() + losses.preselector.sum()).backward()
    parameters = dict(quantizer.parts[0].named_parameters())
    names = published_names(quantizer)
    gradients = {name.removeprefix("grad."): value for name, value in golden.items() if name.startswith("grad.")}
    assert {names[name] for name in gradients} == set(parameters)
    for name, expected in gradients.items():
        actual = parameters[names[name]].grad
        assert actual is not None
        assert np.linalg.norm(actual.numpy() - expected) <= 1e-3 * np.linalg.norm(expected), name
