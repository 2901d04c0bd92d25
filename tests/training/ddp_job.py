"""Work of the ranks of test_ddp.py: train on two CPU ranks and write down what each rank holds."""

from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from qinco_lit.coarse.assignment import FrozenLists
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.quantizers import build_quantizer
from qinco_lit.training import Recipe
from qinco_lit.training.module import QuantizerTraining
from qinco_lit.training.start import initialize
from qinco_lit.training.trainer import quiet_lightning
from qinco_lit.vectors import open_vectors
from qinco_lit.vectors.data_facts import DataSource
from tests.training.recipes import RECIPE


class WriteState(Callback):
    """Keeps the weights and what they depend on at the start and at the end, per rank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[torch.Tensor] = []

    def _save(self, trainer: Trainer, module: LightningModule, name: str) -> None:
        assert isinstance(module, QuantizerTraining)
        state = {
            "weights": {key: value.clone() for key, value in module.quantizer.state_dict().items()},
            "usage": module.statistics.usage_in_epoch.clone(),
            "replay": module.replay.state_of_all_ranks(1),
            "replay_of_all": module.replay.state_of_all_ranks(trainer.world_size),
            "rows": torch.cat(self.rows) if self.rows else torch.zeros(0),
            "val_mse": trainer.callback_metrics.get("val/mse", torch.zeros(())),
        }
        torch.save(state, self.folder / f"{name}-rank{trainer.global_rank}.pt")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, pl_module, "start")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: torch.Tensor, batch_idx: int
    ) -> None:
        self.rows.append(batch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, pl_module, "end")


def main(vectors: str, folder: str, num_lists: int, num_parts: int) -> None:
    """Train one rank; without lists for 0 of them, a plain model for one part, others behind a rotation."""
    quiet_lightning()
    torch.set_num_threads(1)
    recipe = Recipe(**{**RECIPE, "optimizer": "muon", "replay_after": 3})
    data = VectorDataModule(DataSource(name="small", train=vectors), batch_size=64, num_val=256, cache_dir=folder)
    centroids = open_vectors(vectors)[:num_lists] if num_lists else None
    lists = None if centroids is None else len(centroids)
    config = {"num_steps": 3, "codebook_size": 16, "hidden_dim": 16, "num_candidates": 4, "beam_size": 3}
    product = {"num_parts": num_parts, "num_steps": 3 * num_parts, "opq": True} if num_parts > 1 else {}
    quantizer = build_quantizer(12, **{**config, **product}, num_lists=lists)
    frozen = None if centroids is None else FrozenLists(centroids, None, torch.device("cpu"))
    start = partial(initialize, recipe=recipe, seed=0, lists=frozen)
    module = QuantizerTraining(quantizer, recipe, start=start, seed=0, lists=frozen)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[WriteState(Path(folder))],
    )
    trainer.fit(module, datamodule=data)
