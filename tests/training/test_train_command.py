"""`qinco train`, whole: what it writes, that it learns, and what stops it."""

import contextlib
import json
import logging
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

from qinco_lit.cli import main
from qinco_lit.codec import Codec
from qinco_lit.training.run_log import JsonLinesLogger
from qinco_lit.vectors import open_vectors, write_vectors
from tests.training.conftest import clustered


def _rows(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(vectors_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.training.conftest import SMALL

    folder = tmp_path_factory.mktemp("trained")
    run_dir = folder / "run"
    extra = [f"data.train={vectors_path}", f"data_dir={folder}", f"hydra.run.dir={run_dir}", "trainer.max_epochs=4"]
    assert main(["train", *SMALL, *extra]) == 0
    return run_dir


def test_run_folder_is_complete(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"codec", "checkpoints", "metrics.jsonl", "summary.json", "config.json", ".hydra"} <= names
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["state"] == "finished"
    assert summary["epochs"] == 4
    assert summary["steps"] == 4 * 16
    assert summary["last_metrics"]["val/mse"] == [row["val/mse"] for row in _rows(trained) if "val/mse" in row][-1]
    assert 0 <= summary["last_metrics"]["train/dead_codewords"] < 48
    assert summary["versions"]["torch"] == torch.__version__
    assert "trainer.max_epochs=4" in summary["overrides"]
    assert json.loads((trained / "config.json").read_text())["model"]["num_steps"] == 3


def test_training_learns(trained: Path) -> None:
    errors = [row["val/mse"] for row in _rows(trained) if "val/mse" in row]
    assert len(errors) == 4
    assert errors[-1] == min(errors) < 0.99 * errors[0]


def test_codec_is_the_best_epoch_and_has_its_error(trained: Path, vectors_path: Path) -> None:
    rows = [row for row in _rows(trained) if "val/mse" in row]
    best = min(rows, key=lambda row: row["val/mse"])
    codec = Codec.load(trained / "codec")
    x = open_vectors(vectors_path)[2048:]
    codes = codec.encode(x)
    errors = [((x_hat - x) ** 2).sum(1).mean() for x_hat in codec.decode_steps(codes)]
    np.testing.assert_allclose(errors, [best[f"val/mse_step_{m}"] for m in (1, 2, 3)], rtol=1e-4)
    assert json.loads((trained / "summary.json").read_text())["best_val_mse"] == pytest.approx(errors[-1], rel=1e-4)
    share = [np.bincount(column, minlength=16) / len(x) for column in codes.T]
    entropy = [-(p[p > 0] * np.log2(p[p > 0])).sum() for p in share]
    np.testing.assert_allclose(entropy, [best[f"val/entropy_bits_step_{m}"] for m in (1, 2, 3)], rtol=1e-5)


def test_checkpoint_loads_without_running_code(trained: Path) -> None:
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["quantizer"]["dim"] == 12


def test_paper_recipe_learns_too(small: list[str], tmp_path: Path) -> None:
    for model in ("qinco2", "qinco1"):
        run_dir = tmp_path / model
        options = [f"model={model}", "recipe=paper", "model.num_blocks=2", f"hydra.run.dir={run_dir}"]
        searched = [o for o in small if "candidates" not in o and "beam" not in o] if model == "qinco1" else small
        widths = [o for o in searched if "embed_dim" not in o] if model == "qinco1" else searched
        assert (
            main(["train", *widths, *options, "recipe.lr=1e-3", "trainer.max_epochs=4", "recipe.warmup_epochs=0.5"])
            == 0
        )
        errors = [row["val/mse"] for row in _rows(run_dir) if "val/mse" in row]
        assert errors[-1] < errors[0]
    # QINCo1 tries all codewords, and gets a pre-selector with which few of them do nearly as well
    codec, x = Codec.load(tmp_path / "qinco1" / "codec"), clustered(500)
    assert codec.quantizer.default_search.num_candidates == 0
    every, some = (((codec.decode(codec.encode(x, num_candidates=a)) - x) ** 2).sum(1).mean() for a in (0, 4))
    assert some < 1.05 * every


def test_nan_in_the_data_stops_with_its_place(
    small: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    x = clustered(1256)
    x[900, 5] = np.nan
    write_vectors(tmp_path / "bad.fvecs", x)
    run_dir = tmp_path / "run"
    options = [
        "recipe.normalization_rows=500",
        "recipe.kmeans_rows=500",
        "trainer.max_epochs=1",
        f"hydra.run.dir={run_dir}",
    ]
    assert main(["train", *small, f"data.train={tmp_path / 'bad.fvecs'}", *options]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "the training vectors hold NaN or infinity: 1 of 128 vectors in epoch 0, batch" in error
    assert json.loads((run_dir / "summary.json").read_text())["state"] == "failed"


def test_divergence_stops_with_advice(small: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["recipe.lr=1e30", "recipe.clip_value=null", "recipe.warmup_epochs=0", "trainer.max_epochs=2"]
    assert main(["train", *small, *options, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    assert "lower recipe.lr" in capfd.readouterr().err.strip().splitlines()[-1]


def test_same_seed_same_weights_other_seed_other_weights(small: list[str], tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_dir = tmp_path / name
        options = [f"seed={seed}", "trainer.max_epochs=1", f"hydra.run.dir={run_dir}"]
        assert main(["train", *small, *options]) == 0
        weights.append((run_dir / "codec" / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_full_disk_keeps_the_checkpoint_before(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    saved = []

    def save(checkpoint: object, file: BinaryIO) -> None:
        if "last" in Path(file.name).name:
            if len(saved) == 2:
                raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 6199424 vs 6199312")
            saved.append(checkpoint)
        original(checkpoint, file)

    original = torch.save
    monkeypatch.setattr("qinco_lit.training.checkpoints.torch.save", save)
    run_dir = tmp_path / "run"
    assert main(["train", *small, "trainer.max_epochs=5", f"hydra.run.dir={run_dir}"]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    last = run_dir / "checkpoints" / "last.ckpt"
    assert error.endswith(f"{last}: the disk is full or failing; the checkpoint before it is kept")
    monkeypatch.undo()
    assert torch.load(last, weights_only=True)["epoch"] == 1  # before the second epoch
    assert [path.name for path in last.parent.glob("*.tmp")] == []
    assert main(["train", f"resume={run_dir}", "trainer.max_epochs=3"]) == 0  # space was made: it goes on


def test_a_full_disk_under_the_reports_ends_a_training_that_can_go_on(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir, full = tmp_path / "run", Path("/dev/full")
    monkeypatch.setattr("qinco_lit.training.job.JsonLinesLogger", lambda _: JsonLinesLogger(full))
    logs = logging.FileHandler(full)
    logging.getLogger().addHandler(logs)
    try:
        assert main(["train", *small, "trainer.max_epochs=2", f"hydra.run.dir={run_dir}"]) == 2
    finally:
        logging.getLogger().removeHandler(logs)
        with contextlib.suppress(OSError):
            logs.close()
    printed = capfd.readouterr().err
    assert printed.splitlines()[-1] == f"qinco: error: [Errno 28] No space left on device: '{full}'"
    assert "Traceback" not in printed
    assert json.loads((run_dir / "summary.json").read_text())["state"] == "failed"
    assert {path.name for path in run_dir.iterdir() if path.name.startswith(".")} == {".hydra"}  # no room is held now
    monkeypatch.undo()
    assert main(["train", f"resume={run_dir}"]) == 0


def test_training_without_an_end_is_refused(
    small: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for epochs in ("0", "-1", "null"):
        assert main(["train", *small, f"trainer.max_epochs={epochs}", f"hydra.run.dir={tmp_path / 'run'}"]) == 2
        assert "give at least 1, the learning rate's schedule needs an end" in capfd.readouterr().err
        assert not (tmp_path / "run").exists()
