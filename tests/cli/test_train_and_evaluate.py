"""The commands for real, on small files: what one writes the next reads, and their numbers agree."""

import json
from pathlib import Path

import numpy as np
import pytest

from qinco_lit import Codec

GOLDEN = Path(__file__).parents[1] / "golden"
DATA = ["data=files", "data.num_val=100", "data.database=base.npy", "data.queries=queries.npy"]
MODEL = ["model=qinco2_tiny", "model.num_steps=2", "model.codebook_size=16", "model.num_candidates=4"]


@pytest.fixture
def database(tmp_path: Path) -> np.ndarray:
    generator = np.random.default_rng(0)
    sizes = {"train": 600, "base": 200, "queries": 10}
    files = {name: generator.normal(size=(rows, 8)).astype(np.float32) for name, rows in sizes.items()}
    for name, rows in files.items():
        np.save(tmp_path / f"{name}.npy", rows)
    return files["base"]


def test_train_resume_evaluate(qinco, database, tmp_path):
    options = [*DATA, "data.train=train.npy", *MODEL, "recipe.batch_size=100", "logger=none", "trainer.accelerator=cpu"]
    assert qinco("train", *options, "trainer.max_epochs=1", "hydra.run.dir=run").code == 0
    first = json.loads((tmp_path / "run" / "summary.json").read_text())
    resumed = qinco("train", "resume=run", "trainer.max_epochs=2")
    assert resumed.code == 0, resumed.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (first["epochs"], summary["epochs"]) == (1, 2)
    assert summary["best_val_mse"] <= first["best_val_mse"]

    arguments = ["codec=run/codec", *DATA, "data.train=train.npy", "device=cpu", "hydra.run.dir=results"]
    evaluated = qinco("evaluate", *arguments)
    assert evaluated.code == 0, evaluated.err
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())
    codec = Codec.load(tmp_path / "run" / "codec")
    error = np.square(codec.decode(codec.encode(database)) - database).sum(axis=1).mean()
    assert metrics["methods"]["codec"]["mse_per_step"][-1] == pytest.approx(float(error), rel=1e-4)


def test_import_writes_a_codec_that_loads(qinco, tmp_path):
    assert qinco("import", str(GOLDEN / "qinco2.pt"), "--output", "codec").code == 0
    expected = np.load(GOLDEN / "qinco2.npz")
    codec = Codec.load(tmp_path / "codec")
    assert (codec.dim, codec.num_steps) == (expected["x"].shape[1], expected["codes"].shape[1])
