"""Offsets of dimensions do not count: vectors far from the origin are quantized as well as the same around it."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from qinco_lit.coarse.assignment import FrozenLists
from qinco_lit.codec import Codec
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.metrics import mean_squared_error
from qinco_lit.quantizers import build_quantizer
from qinco_lit.training import Recipe
from qinco_lit.training.faiss_start import opq_rotation
from qinco_lit.training.module import QuantizerTraining
from qinco_lit.training.start import initialize, set_normalization
from qinco_lit.training.trainer import quiet_lightning
from qinco_lit.vectors import write_vectors
from qinco_lit.vectors.data_facts import DataSource
from tests.training.conftest import clustered
from tests.training.recipes import RECIPE

pytestmark = pytest.mark.usefixtures("quick_rotation")
DIM = 12
OFFSETS = np.float32([20_000, -7_000, 0, 300, 0, 0, 1, 0, -20_000, 50, 0, 9_000])
SIZES = {"codebook_size": 16, "embed_dim": 8, "hidden_dim": 16, "num_blocks": 1, "num_candidates": 4, "beam_size": 3}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {"num_steps": 3},
    "lists": {"num_steps": 3, "num_lists": 7},
    "opq": {"num_steps": 4, "num_parts": 2, "opq": True},
    "opq_lists": {"num_steps": 4, "num_parts": 2, "opq": True, "num_lists": 7},
}


def _rows(num_rows: int) -> np.ndarray:
    """Whole numbers, which float32 holds with and without the offsets."""
    return np.rint(clustered(num_rows))


def _error(model: dict[str, Any], x: np.ndarray, centroids: np.ndarray, folder: Path) -> float:
    """MSE of the last 256 vectors by the codec that is trained on the others."""
    quiet_lightning()
    folder.mkdir()
    write_vectors(folder / "x.npy", x)
    data = VectorDataModule(DataSource(name="x", train=folder / "x.npy"), batch_size=64, num_val=256, seed=0)
    quantizer, recipe = build_quantizer(DIM, **SIZES, **model), Recipe(**{**RECIPE, "kmeans_rows": 1024})
    lists = FrozenLists(centroids, None, torch.device("cpu")) if "num_lists" in model else None
    start = partial(initialize, recipe=recipe, seed=0, lists=lists)
    module = QuantizerTraining(quantizer, recipe, start=start, seed=0, lists=lists)
    Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    ).fit(module, datamodule=data)  # fmt: skip
    codec, held_out = Codec(quantizer), x[-256:]
    if lists is None:
        return mean_squared_error(held_out, codec.decode(codec.encode(held_out)))
    list_ids, codes = codec.encode(held_out)
    return mean_squared_error(held_out, codec.decode(codes, list_ids=list_ids))


@pytest.mark.parametrize("name", MODELS)
def test_a_constant_added_to_a_dimension_changes_the_error_by_no_more_than_rounding(tmp_path: Path, name: str) -> None:
    """float32 has steps of 0.002 at 20,000; training makes of them what it makes of another order of summation."""
    x, centroids = _rows(1280), _rows(7)
    near, far = (
        _error(MODELS[name], x + offset, centroids + offset, tmp_path / folder)
        for folder, offset in (("near", np.float32(0)), ("far", OFFSETS))
    )
    assert far == pytest.approx(near, rel=0.01)


def test_centred_normalization_does_not_see_offsets() -> None:
    x, stds = torch.from_numpy(_rows(1000)), {}
    moved = x + torch.from_numpy(OFFSETS)
    exact = moved.double().numpy()
    for kind in ("centred", "standard"):
        near, far = build_quantizer(DIM, num_steps=1, **SIZES), build_quantizer(DIM, num_steps=1, **SIZES)
        set_normalization(near, x, kind)
        set_normalization(far, moved, kind)
        stds[kind] = float(near.data_std[0]), float(far.data_std[0])
        np.testing.assert_allclose(far.data_mean, exact.mean(0), rtol=1e-7)
        centre = exact.mean(0) if kind == "centred" else exact.mean()
        assert stds[kind][1] == pytest.approx(np.sqrt(((exact - centre) ** 2).mean()), rel=1e-6)
        if kind == "centred":
            bound = np.spacing(np.abs(OFFSETS)).max() / stds[kind][0]
            torch.testing.assert_close(far.normalize(moved), near.normalize(x), rtol=0, atol=2 * float(bound))
    assert stds["centred"][0] == stds["centred"][1]
    assert stds["standard"][1] > 100 * stds["standard"][0]  # as published


@pytest.mark.parametrize("kind", ["centred", "standard", "minmax", "none"])
def test_equal_vectors_of_different_numbers_are_nothing_to_quantize(kind: str) -> None:
    same = torch.arange(float(DIM)).expand(9, DIM)
    with pytest.raises(ValueError, match=r"^the first 9 training vectors are all the same: there is nothing to"):
        set_normalization(build_quantizer(DIM, num_steps=1, **SIZES), same, kind)


def test_a_rotation_does_not_see_offsets() -> None:
    x = _rows(600)
    near, far = (opq_rotation(x + offset, [6, 6], seed=0) for offset in (np.float32(0), OFFSETS))
    np.testing.assert_allclose(far, near, atol=1e-3)
