"""Mixed precision: gradients reach every weight, the loss stays near that of float32, what is kept is float32."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger

from qinco_lit.cli import main
from qinco_lit.codec import Codec
from qinco_lit.training.trainer import make_trainer
from qinco_lit.vectors import open_vectors
from tests.models import random_quantizer
from tests.training.conftest import clustered

_FAMILIES = {
    "qinco2": [],
    "paper": ["recipe=paper", "recipe.lr=1e-3"],
    "qinco1": ["model=qinco1", "model.num_blocks=1"],
    "low rank": ["model=qinco_lr", "model.num_blocks=1", "model.concat_rank=4"],
    "parts": ["model=pq_qinco2", "model.num_parts=2", "model.num_steps=4", "opq=true"],
    "budget": ["model.candidate_budget=6"],
    "lists": ["coarse=ivf"],
}


def _gradients(autocast: bool) -> tuple[float, dict[str, torch.Tensor]]:
    quantizer = random_quantizer(
        16, num_steps=3, codebook_size=16, embed_dim=12, hidden_dim=24, num_blocks=2, num_candidates=4, beam_size=3
    )
    x = torch.randn((256, 16), generator=torch.Generator().manual_seed(0))
    codes = quantizer.encode(x)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        # the search does not round for autocast, nor leave weights without gradients in its cache
        torch.testing.assert_close(quantizer.encode(x), codes, rtol=0, atol=0)
        losses = quantizer(x, codes)
        loss = losses.reconstruction.sum() + losses.preselector.sum()
    assert loss.dtype == torch.float32
    loss.backward()
    return loss.item(), {name: p.grad for name, p in quantizer.named_parameters() if p.grad is not None}


def test_half_precision_training_is_close_to_float32() -> None:
    loss, gradients = _gradients(autocast=True)
    expected_loss, expected = _gradients(autocast=False)
    assert gradients.keys() == expected.keys()
    assert len(gradients) == 1 + 2 * (2 + 2 + 2 + 4)  # codebooks, projections, concat, blocks
    assert abs(loss / expected_loss - 1) < 0.01
    for name, value in expected.items():
        assert (gradients[name] - value).norm() < 0.05 * value.norm(), name


@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
def test_float16_is_float16_where_there_is_no_gpu(
    accelerator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = {"accelerator": accelerator, "precision": "16-mixed"}
    plugin = make_trainer(options, run_dir=tmp_path, logger=CSVLogger(tmp_path), callbacks=[]).precision_plugin
    with plugin.forward_context():
        assert torch.get_autocast_dtype("cpu") == torch.float16


@pytest.mark.usefixtures("quick_rotation")
@pytest.mark.parametrize(
    ("family", "precision"),
    # of the two float16 is the one whose gradients are scaled, and may overflow
    [*((family, "16-mixed") for family in _FAMILIES), *((f, "bf16-mixed") for f in ("qinco2", "parts", "lists"))],
)
def test_every_family_trains_validates_and_resumes(
    family: str, precision: str, small: list[str], vectors_path: Path, tmp_path: Path
) -> None:
    centroids, run_dir = tmp_path / "centroids.npy", tmp_path / "run"
    np.save(centroids, clustered(8, seed=5))
    of_model = ("candidates", "beam", "embed") if "model=" in "".join(_FAMILIES[family]) else ()
    given = [option for option in small if not any(word in option for word in of_model)] + _FAMILIES[family]
    given += [f"coarse.centroids={centroids}"] * (family == "lists")
    options = ["trainer.accelerator=cpu", f"trainer.precision={precision}", f"hydra.run.dir={run_dir}"]
    assert main(["train", *given, *options, "trainer.max_epochs=1"]) == 0
    assert main(["train", f"resume={run_dir}", "trainer.max_epochs=2"]) == 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["epochs"], summary["state"]) == (2, "finished")
    codec, x = Codec.load(run_dir / "codec", device="cpu", precision="float32"), open_vectors(vectors_path)[2048:]
    assert all(value.dtype == torch.float32 for value in codec.quantizer.state_dict().values())
    found = codec.encode(x)
    x_hat = codec.decode(found) if family != "lists" else codec.decode(found[1], list_ids=found[0])
    assert summary["best_val_mse"] == pytest.approx(((x_hat - x) ** 2).sum(1).mean(), rel=1e-5)
