"""A training of any family, interrupted and resumed, leaves the bytes of the one that was not (also test_killed.py)."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from qinco_lit.cli import main
from qinco_lit.codec import Codec
from qinco_lit.training.module import QuantizerTraining
from tests.training.conftest import clustered

_LISTS = ["coarse=ivf", "coarse.centroids={centroids}", "recipe.dead_codewords=redraw"]
_PARTS = ["model=pq_qinco2", "model.num_steps=4", "model.num_parts=2", "model.candidate_budget=8", "opq=true"]
_QINCO1 = ["model.num_candidates=0", "model.beam_size=1", "model.embed_dim=null", "model.num_blocks=2"]
FAMILIES = {
    "plain": [],
    "lists": _LISTS,
    "lists found first": ["coarse=ivf", "coarse.num_lists=24"],
    "parts, rotated, with lists": [*_PARTS, "model.part_dims=[8,4]", "model.part_steps=[3,1]", *_LISTS],
    "low rank": ["model=qinco_lr", *_QINCO1, "recipe.lr=1e-3"],
}


@pytest.mark.usefixtures("quick_rotation")
@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_equals_uninterrupted(
    family: str, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    centroids = clustered(24, seed=5)
    np.save(tmp_path / "centroids.npy", centroids)
    given = [option.format(centroids=tmp_path / "centroids.npy") for option in FAMILIES[family]]

    def train(name: str) -> int:
        return main(["train", *small, *given, "trainer.max_epochs=2", f"hydra.run.dir={tmp_path / name}"])

    assert train("whole") == 0
    before = QuantizerTraining.on_train_batch_start

    def stop(self: QuantizerTraining, batch: object, batch_idx: int) -> None:
        before(self, batch, batch_idx)
        if self.trainer.global_step == 20:  # in the second epoch
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(QuantizerTraining, "on_train_batch_start", stop)
        assert train("stopped") == 130
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert not (stopped / "codec").exists()
    checkpoint = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)
    assert not [key for key in checkpoint["state_dict"] if "coarse" in key]  # a file has them
    found = stopped / "coarse" / "centroids.npy"
    assert found.exists() == (family == "lists found first")
    kept = found.stat().st_mtime_ns if found.exists() else None
    assert main(["train", f"resume={stopped}"]) == 0
    for name in ("codec/weights.safetensors", "codec/config.json", "checkpoints/best.ckpt"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    own = Codec.load(whole / "codec").coarse_centroids
    if kept is not None:
        assert found.stat().st_mtime_ns == kept
        centroids = np.load(found)
    assert (own is None) == ("coarse=ivf" not in given)
    if own is not None:
        np.testing.assert_allclose(own, centroids, rtol=0, atol=1e-3)
