"""A checkpoint taken at any step of a real Trainer resumes with exactly the batches that would have followed."""

import logging
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from qinco_lit.data import loader as loader_module
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.vectors import write_vectors
from qinco_lit.vectors.data_facts import DataSource

NUM_BATCHES, NUM_EPOCHS = 12, 3

pytestmark = [
    # Lightning's own use of torch, and its advice on worker processes and logging intervals.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),
]


class Recorder(pl.LightningModule):
    """Remembers the rows it saw."""

    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.fail_at = fail_at
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.global_step == self.fail_at:
            raise RuntimeError("interrupted")
        self.seen.append(batch[:, 0].tolist())
        return self.weight * batch.float().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("rows", float(len(batch)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class SaveOnException(Callback):
    """Writes a checkpoint wherever the training was cut."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "exception.ckpt")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """105 rows to train on, 12 batches of 8 an epoch: a pass ends inside the second epoch; windows of 4 batches."""
    monkeypatch.setattr(loader_module, "WINDOW_BYTES", 8 * 4 * 4 * 2)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    path = tmp_path / "train.fvecs"
    write_vectors(path, np.repeat(np.arange(115, dtype=np.float32)[:, None], 2, axis=1))

    def make(**changes: int) -> VectorDataModule:
        options = {"batch_size": 8, "epoch_size": 100} | changes
        return VectorDataModule(DataSource(name="t", train=path), num_val=10, **options)

    return make


def _fit(
    data: VectorDataModule, folder: Path, resume: Path | None = None, module: Recorder | None = None, **options: object
) -> list[list[int]]:
    """Train with a checkpoint after every step, at every epoch end and after validation; return the rows seen."""
    module = module or Recorder()
    callbacks = [
        ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1),
        ModelCheckpoint(folder, filename="epoch{epoch}", save_on_train_epoch_end=True, save_top_k=-1),
        SaveOnException(),
        ModelCheckpoint(folder, filename="val{epoch}", save_on_train_epoch_end=False, save_top_k=-1, monitor="rows"),
    ]
    trainer = pl.Trainer(
        **({"max_epochs": NUM_EPOCHS, "default_root_dir": folder, "accelerator": "cpu", "logger": False} | options),
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data, ckpt_path=None if resume is None else str(resume))
    return module.seen


@pytest.fixture
def whole(data, tmp_path: Path):
    """The rows of an uninterrupted run, and the folder of its checkpoints."""
    return _fit(data(), tmp_path / "whole"), tmp_path / "whole"


def test_a_trainer_sees_the_stream(whole, data):
    module = data()
    module.setup()
    order = module.train_dataloader().order
    assert whole[0] == [
        order.batch_rows(*divmod(step, NUM_BATCHES)).tolist() for step in range(NUM_EPOCHS * NUM_BATCHES)
    ]


def test_resume_after_any_step(whole, data, tmp_path: Path):
    seen, folder = whole
    # Mid-epoch, mid-window, the last but one and the last step of an epoch, and the same in the second epoch.
    for step in (1, 5, 8, 11, 12, 13, 20, 23, 24, 25, 35):
        resumed = _fit(data(), tmp_path / f"from{step}", folder / f"step={step}.ckpt")
        assert resumed == seen[step:], f"after step {step}"


@pytest.mark.parametrize("name", ["epochepoch=0", "valepoch=0", "epochepoch=1", "valepoch=1"])
def test_resume_after_an_epoch(whole, data, tmp_path: Path, name: str):
    seen, folder = whole
    resumed = _fit(data(), tmp_path / "resumed", folder / f"{name}.ckpt")
    assert resumed == seen[NUM_BATCHES * (int(name[-1]) + 1) :]


@pytest.mark.parametrize("step", [5, 12, 23])
def test_resume_after_an_interrupted_step(whole, data, tmp_path: Path, step: int):
    """The batch of a step that was cut short comes again."""
    with pytest.raises(RuntimeError, match="interrupted"):
        _fit(data(), tmp_path / "cut", module=Recorder(fail_at=step))
    assert _fit(data(), tmp_path / "resumed", tmp_path / "cut" / "exception.ckpt") == whole[0][step:]


def test_resume_twice(whole, data, tmp_path: Path):
    seen, folder = whole
    _fit(data(), tmp_path / "once", folder / "step=5.ckpt", max_steps=17, max_epochs=-1)
    assert _fit(data(), tmp_path / "twice", tmp_path / "once" / "step=17.ckpt") == seen[17:]


def test_resume_to_train_longer(whole, data, tmp_path: Path):
    seen, folder = whole
    longer = _fit(data(), tmp_path / "longer", max_epochs=4)
    assert longer[: len(seen)] == seen
    assert _fit(data(), tmp_path / "more", folder / "step=36.ckpt", max_epochs=4) == longer[36:]


def test_resume_with_another_batch_size_is_refused(whole, data, tmp_path: Path):
    with pytest.raises(
        ValueError, match="cannot resume: the checkpoint was made with batch_size=8, this run has batch_size=4"
    ):
        _fit(data(batch_size=4), tmp_path / "other", whole[1] / "step=5.ckpt")


def test_limited_batches_walk_on(data, tmp_path: Path):
    """Epochs cut short by the trainer lose nothing: the next one continues in the stream."""
    seen = _fit(data(), tmp_path / "limited", limit_train_batches=5)
    module = data()
    module.setup()
    order = module.train_dataloader().order
    assert seen == [order.batch_rows(*divmod(step, NUM_BATCHES)).tolist() for step in range(3 * 5)]
