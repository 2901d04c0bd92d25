"""The family in small on any device, and its training without pl.Trainer."""

from types import SimpleNamespace
from typing import Any

import torch
from pytorch_lightning.plugins.precision import Precision
from torch import Tensor

from qinco_lit.quantizers import Quantizer, build_quantizer
from qinco_lit.training.module import QuantizerTraining
from qinco_lit.training.recipe import Recipe
from tests.models import random_quantizer
from tests.quantizers.products import random_product
from tests.training.recipes import RECIPE

DIM, ROWS = 12, 40
# enough pairs that `screened` scores them twice, and in the budget of wide codes few enough for groups of columns
_SIZES: dict[str, Any] = {"num_steps": 3, "codebook_size": 32, "hidden_dim": 10, "num_blocks": 2}
_QINCO1: dict[str, Any] = {**_SIZES, "num_candidates": 0, "beam_size": 1, "outer_skip": False}
_QINCO2: dict[str, Any] = {**_SIZES, "embed_dim": 8, "num_candidates": 8, "beam_size": 4}
_BUDGET: dict[str, Any] = {**_QINCO2, "candidate_budget": 80}
_PLAIN: dict[str, dict[str, Any]] = {
    "qinco1": _QINCO1,
    "qinco1_low_rank": {**_QINCO1, "embed_dim": 8, "concat_rank": 3},
    "qinco1_with_preselector": {**_QINCO1, "preselector": True},
    "qinco2": _QINCO2,
    "qinco2_budget": _BUDGET,
    "qinco2_wide_codes": {**_BUDGET, "codebook_size": 320},
    "pq_qinco1": {**_QINCO1, "num_parts": 2, "num_steps": 4, "order": "parts"},
    "pq_qinco2": {**_QINCO2, "num_parts": 2, "part_dims": [8, 4], "part_steps": [2, 1]},
    "opq_qinco2_budget": {**_BUDGET, "num_parts": 2, "num_steps": 4, "opq": True},
}
FAMILY = _PLAIN | {f"ivf_{name}": {**config, "num_lists": 5} for name, config in _PLAIN.items()}


def quantizer_of(name: str) -> Quantizer:
    """Of the family, untrained, on the CPU."""
    return build_quantizer(DIM, **FAMILY[name])


# of recipes, by what they do with dead codewords
OPTIONS: dict[str, dict[str, Any]] = {
    "split": {"dead_codewords": "split", "optimizer": "muon", "replay_after": 1},
    "redraw": {"dead_codewords": "redraw"},
}


def random_member(name: str) -> Quantizer:
    """Of the family with weights that matter, on the CPU."""
    config = FAMILY[name]
    if "num_parts" in config:
        return random_product(DIM, **config)
    quantizer = random_quantizer(DIM, **config)
    if quantizer.num_lists is not None:
        quantizer.set_centroids(3 * torch.randn((quantizer.num_lists, DIM), generator=torch.Generator().manual_seed(0)))
    return quantizer


def module_on(device: torch.device, quantizer: Quantizer, **recipe: Any) -> QuantizerTraining:
    """The real module behind a trainer that only says where and when: within the first epoch, after its start."""
    module = QuantizerTraining(quantizer, Recipe(**{**RECIPE, **recipe}), start=lambda *_: None, seed=0)
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device=device),
        precision_plugin=Precision(),
        world_size=1,
        global_step=1,
        current_epoch=0,
        max_epochs=3,
        max_steps=-1,
        accumulate_grad_batches=1,
        num_training_batches=10,
        gradient_clip_val=None,
        gradient_clip_algorithm=None,
        ckpt_path=None,
        sanity_checking=False,
        loggers=[],
    )
    module.to(device)
    module.trainer = trainer
    module.setup("validate")  # the state goes to the device
    chosen = module.configure_optimizers()
    trainer.optimizers = [chosen["optimizer"] if isinstance(chosen, dict) else chosen]
    return module


def training_batch(module: QuantizerTraining, batch: Tensor, batch_idx: int) -> Tensor:
    """What Lightning's loop does with a batch; returns the loss."""
    optimizer = module.trainer.optimizers[0]
    module.on_train_batch_start(batch, batch_idx)
    optimizer.zero_grad()
    loss = module.training_step(batch, batch_idx)
    loss.backward()  # type: ignore[no-untyped-call]
    module.configure_gradient_clipping(optimizer)
    optimizer.step()
    return loss
