"""QINCo-LR: the first layer of the networks is a product of two factors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qinco_lit.cli import main
from qinco_lit.codec import Codec
from qinco_lit.quantizers import QINCo
from qinco_lit.training.start import init_networks, set_codebooks
from qinco_lit.vectors import open_vectors

UNTRAINED = ["recipe.lr=1e-12", "recipe.weight_decay=0", "recipe.dead_codewords=keep", "trainer.max_epochs=1"]
QINCO1 = ["model.num_candidates=0", "model.beam_size=1", "model.embed_dim=null", "model.num_blocks=2"]

Train = Callable[..., Path]


@pytest.fixture
def train(small: list[str], tmp_path: Path) -> Train:
    """Train in this process; return the run folder."""

    def run(name: str, *options: str, code: int = 0) -> Path:
        assert main(["train", *small, f"hydra.run.dir={tmp_path / name}", *options]) == code
        return tmp_path / name

    return run


def _reported(run_dir: Path) -> list[float]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["val/mse"] for row in rows if "val/mse" in row]


def _parameters(run_dir: Path) -> int:
    return int(json.loads((run_dir / "summary.json").read_text())["parameters"])


@pytest.mark.parametrize("recipe", ["tuned", "paper"])
def test_it_trains_and_both_factors_move(train: Train, vectors_path: Path, recipe: str) -> None:
    options = ["model=qinco_lr", *QINCO1, "model.hidden_dim=6", f"recipe={recipe}", "recipe.lr=1e-3"]
    run_dir = train("run", *options, "trainer.max_epochs=3")
    assert _reported(run_dir)[-1] < min(_reported(run_dir)[0], _reported(train("start", *options, *UNTRAINED))[0])
    codec, x = Codec.load(run_dir / "codec", precision="float32"), open_vectors(vectors_path)[2048:]
    assert codec.quantizer.config["concat_rank"] == 6
    by_codec = ((codec.decode(codec.encode(x)) - x) ** 2).sum(1).mean()
    assert by_codec == pytest.approx(min(_reported(run_dir)), rel=1e-3)
    for step in codec.quantizer.parts[0].residual_steps():
        product = step.network.concat_out.weight @ step.network.concat_in.weight
        assert np.linalg.matrix_rank(product.numpy()) == 6
    # two factors of rank 6 for the 12 x 24 matrix and its bias, in each of two steps
    full = _parameters(train("full", *options, "model.concat_rank=null", *UNTRAINED))
    assert full - _parameters(run_dir) == 2 * ((12 * 24 + 12) - 6 * (12 + 24))


@pytest.mark.parametrize("kind", ["paper", "exact"])
@pytest.mark.parametrize("embed_dim", [None, 8])
def test_it_starts_where_the_full_network_does(kind: str, embed_dim: int | None) -> None:
    def start(**options: Any) -> QINCo:
        quantizer = QINCo(12, num_steps=3, codebook_size=16, embed_dim=embed_dim, num_candidates=4, **options)
        init_networks(quantizer, kind, torch.Generator().manual_seed(0))
        codebooks = torch.randn((3, 16, 12), generator=torch.Generator().manual_seed(1))
        generator = torch.Generator().manual_seed(2)
        set_codebooks(quantizer, codebooks, noise=0.0, exact=kind == "exact", generator=generator)
        return quantizer

    codes = torch.randint(16, (50, 3), generator=torch.Generator().manual_seed(3))
    full, low = start(), start(concat_rank=5)
    # W is zero; where projections are drawn (paper), those of the two models are other ones
    for x_hat, other in zip(full.reconstructions(codes, None), low.reconstructions(codes, None), strict=True):
        if embed_dim is None or kind == "exact":
            torch.testing.assert_close(x_hat, other)
    for step in low.residual_steps():
        assert step.network.concat_out is not None
        assert step.network.concat_in is not None
        assert not step.network.concat_out.weight.any()
        assert step.network.concat_in.weight.any()  # or the gradient of the other factor were zero, too


def test_networks_of_qinco2_may_have_one_too(train: Train) -> None:
    options = ["model.concat_rank=3", "trainer.max_epochs=2"]
    run_dir = train("run", *options)
    assert _reported(run_dir)[-1] < _reported(train("start", *options, *UNTRAINED))[0]
    low = Codec.load(run_dir / "codec").quantizer
    assert low.config["concat_rank"] == 3
    assert low.config["preselector"] is True


def test_a_rank_that_is_none_is_refused_in_one_line(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    train("run", "model.concat_rank=0", code=2)
    assert capfd.readouterr().err == "qinco: error: concat_rank=0 must be at least 1\n"
