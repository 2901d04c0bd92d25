"""Data of one's own: files, and targets of configs that are functions or data modules."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule

from datamodules.files import open_files
from qinco_lit.data.data_module import VectorDataModule, data_module
from qinco_lit.vectors import write_vectors
from qinco_lit.vectors.data_facts import DataSource

TRAIN = np.random.default_rng(5).integers(0, 256, (1000, 16)).astype(np.uint8)


def test_own_files(tmp_path: Path):
    np.save(tmp_path / "mine.npy", TRAIN.astype(np.float32))
    data = VectorDataModule(open_files(train=str(tmp_path / "mine.npy")), num_val=50)
    data.setup()
    assert (data.name, data.dim, len(data.train_vectors), len(data.database)) == ("files", 16, 950, 50)
    assert next(iter(data.val_dataloader())).dtype == torch.float32


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {},
            "data=files needs a training file: give data.train=FILE (and data.database=FILE data.queries=FILE)",
        ),
        (
            {"train": "t.npy", "ground_truth": "g.npy", "queries": "q.npy"},
            "data.ground_truth=g.npy needs the files it belongs to: give data.database=FILE too",
        ),
        (
            {"train": "t.npy", "ground_truth": "g.npy", "database": "d.npy"},
            "data.ground_truth=g.npy needs the files it belongs to: give data.queries=FILE too",
        ),
    ],
)
def test_own_files_mistakes(files: dict[str, str], message: str):
    with pytest.raises(ValueError) as error:
        open_files(**files)  # type: ignore[arg-type]
    assert str(error.value) == message


class OwnDataModule(LightningDataModule):
    """A user's own, which takes all of its options itself."""

    def __init__(self, *, batch_size: int, seed: int, mine: str) -> None:
        super().__init__()
        self.given = (batch_size, seed, mine)


def own_module(*, batch_size: int, mine: str) -> OwnDataModule:
    return OwnDataModule(batch_size=batch_size, seed=7, mine=mine)


def own_files(*, train: str, metric: str) -> DataSource:
    return DataSource(name=metric, train=train)


def test_each_gets_the_options_that_it_has(tmp_path: Path):
    here = f"{__name__}."
    own = data_module({"_target_": f"{here}OwnDataModule", "mine": "x"}, batch_size=3, seed=1)
    assert own.given == (3, 1, "x")
    own = data_module({"_target_": f"{here}own_module", "mine": "x"}, batch_size=3, seed=1)
    assert own.given == (3, 7, "x")
    write_vectors(tmp_path / "train.bvecs", TRAIN)
    options = {"train": str(tmp_path / "train.bvecs"), "metric": "ip", "num_val": 40, "limit_train": 50}
    data = data_module({"_target_": f"{here}own_files", **options}, batch_size=3, seed=1)
    assert isinstance(data, VectorDataModule)
    data.setup()
    assert (data.name, data.metric, data.batch_size, data.seed) == ("ip", "ip", 3, 1)
    assert (len(data.train_vectors), len(data.val_vectors)) == (50, 40)
