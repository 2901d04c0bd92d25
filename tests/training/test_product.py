"""PQ-QINCo: parts that are trained side by side become what each would alone; a rotation that helps them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from qinco_lit.cli import main
from qinco_lit.coarse.assignment import FrozenLists
from qinco_lit.codec import Codec
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.quantizers import Quantizer, build_quantizer
from qinco_lit.training import Recipe
from qinco_lit.training.module import QuantizerTraining
from qinco_lit.training.start import initialize
from qinco_lit.training.trainer import quiet_lightning
from qinco_lit.vectors import open_vectors, write_vectors
from qinco_lit.vectors.data_facts import DataSource
from tests.training.conftest import clustered
from tests.training.recipes import RECIPE

# paper_qinco1 but for its sizes: what QINCo1's recipe says that the tuned one does not
QINCO1 = {
    "normalization": "minmax", "initial_codebooks": "faiss_rq", "network_init": "linear", "optimizer": "adam",
    "weight_decay": 0.0, "clip_value": None, "schedule": "plateau", "dead_codewords": "keep", "split_every_batches": 0,
}  # fmt: skip
REDRAW = {"dead_codewords": "redraw", "kmeans_split_empty": False, "network_init": "paper", "codebook_noise": 0.1}
PART = {"codebook_size": 32, "embed_dim": 8, "hidden_dim": 8, "num_blocks": 1, "num_candidates": 4, "beam_size": 3}
DIMS, STEPS = [8, 4], [3, 2]


def _fit(quantizer: Quantizer, x: np.ndarray, folder: Path, recipe: Recipe, seed: int, lists: Any = None) -> Trainer:
    """Train on the first 1024 vectors, in the same order for every seed; the last 256 are for validation."""
    quiet_lightning()
    folder.mkdir()
    write_vectors(folder / "x.npy", x)
    data = VectorDataModule(
        DataSource(name="x", train=folder / "x.npy"), batch_size=64, num_val=256, cache_dir=str(folder), seed=0
    )
    start = partial(initialize, recipe=recipe, seed=seed, lists=lists)
    module = QuantizerTraining(quantizer, recipe, start=start, seed=seed, lists=lists)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data)
    return trainer


@pytest.mark.parametrize(
    ("changes", "num_lists"),
    [({}, None), ({}, 7), (REDRAW, 7), (QINCO1, None)],
    ids=["tuned", "tuned with lists", "redraw with lists", "qinco1"],
)
def test_parts_become_what_each_would_alone(tmp_path: Path, changes: dict[str, Any], num_lists: int | None) -> None:
    x, centroids = clustered(1280), clustered(7, seed=5)
    recipe = Recipe(**{**RECIPE, **changes, "kmeans_rows": 1024, "search_precision": "float32"})
    both = build_quantizer(12, num_parts=2, part_dims=DIMS, num_steps=5, part_steps=STEPS, num_lists=num_lists, **PART)
    ids = np.arange(7)[:, None] == np.argmin(((x[:, None] - centroids[None]) ** 2).sum(-1), axis=1)
    lists = _lists_of(x, ids.argmax(0))
    frozen = None if num_lists is None else FrozenLists(centroids, lists, torch.device("cpu"))
    together = _fit(both, x, tmp_path / "both", recipe, seed=3, lists=frozen)
    errors = 0.0
    for number, dims in enumerate(both.part_slices):
        alone = build_quantizer(DIMS[number], num_steps=STEPS[number], num_lists=num_lists, **PART)
        own = np.ascontiguousarray(x[:, dims])
        if num_lists is not None:
            some = np.ascontiguousarray(centroids[:, dims])
            frozen = FrozenLists(some, _lists_of(own, ids.argmax(0)), torch.device("cpu"))
        trainer = _fit(alone, own, tmp_path / str(number), recipe, seed=3 + number, lists=frozen)
        errors += float(trainer.callback_metrics["val/mse"])
        expected = alone.parts[0].state_dict()
        assert expected.keys() == both.parts[number].state_dict().keys()
        for name, value in both.parts[number].state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)
        for name in ("data_mean", "data_std"):
            torch.testing.assert_close(getattr(both, name)[dims], getattr(alone, name), rtol=1e-6, atol=0, msg=name)
    assert float(together.callback_metrics["val/mse"]) == pytest.approx(errors, rel=1e-4)


def _lists_of(x: np.ndarray, ids: np.ndarray) -> Callable[[torch.Tensor], torch.Tensor]:
    """Looks the list of each row up: parts are given the lists of whole vectors."""
    known = {row.tobytes(): int(number) for row, number in zip(x, ids, strict=True)}
    return lambda rows: torch.tensor([known[row.tobytes()] for row in rows.numpy()])


Train = Callable[..., Path]


@pytest.fixture
def train(small: list[str], tmp_path: Path) -> Train:
    """Train in this process; return the run folder."""

    def run(name: str, *options: str, code: int = 0) -> Path:
        given = [*small, "model=pq_qinco2", "model.num_steps=4", "model.num_parts=2", "model.candidate_budget=8"]
        assert main(["train", *given, f"hydra.run.dir={tmp_path / name}", *options]) == code
        return tmp_path / name

    return run


def _reported(run_dir: Path, name: str = "val/mse") -> list[float]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


@pytest.fixture(scope="module")
def centroids_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("centroids") / "centroids.npy"
    np.save(path, clustered(24, seed=5))
    return path


@pytest.mark.parametrize("opq", ["true", "false"])
@pytest.mark.parametrize("model", ["pq_qinco2", "pq_qinco"])
def test_what_is_reported_is_the_error_of_the_codec(train: Train, vectors_path: Path, model: str, opq: str) -> None:
    options = ["model.num_candidates=0", "model.beam_size=1", "model.embed_dim=null"] if model == "pq_qinco" else []
    budget = "~model.candidate_budget" if model == "pq_qinco" else "model.candidate_budget=8"
    run_dir = train("run", f"model={model}", *options, budget, f"opq={opq}", "trainer.max_epochs=2")
    errors = _reported(run_dir)
    assert errors[-1] < errors[0]
    codec, x = Codec.load(run_dir / "codec", precision="float32"), open_vectors(vectors_path)[2048:]
    by_codec = [((x_hat - x) ** 2).sum(1).mean() for x_hat in codec.decode_steps(codec.encode(x))]
    assert by_codec == sorted(by_codec, reverse=True)  # columns take turns: every prefix is useful
    np.testing.assert_allclose(by_codec, [_reported(run_dir, f"val/mse_step_{m}")[-1] for m in (1, 2, 3, 4)], rtol=1e-3)
    assert len({*json.loads((run_dir / "config.json").read_text())["model"]} & {"num_parts", "part_dims", "opq"}) == 3
    if model == "pq_qinco":  # it got pre-selectors, one for each part
        np.testing.assert_array_equal(codec.encode(x, num_candidates=16), codec.encode(x))


@pytest.mark.usefixtures("quick_rotation")
def test_a_rotation_helps_where_parts_are_correlated(train: Train, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    narrow = rng.standard_normal((2304, 12)) * np.geomspace(1, 0.01, 12)
    write_vectors(tmp_path / "x.npy", (narrow @ rng.standard_normal((12, 12))).astype(np.float32))
    errors = {}
    for opq in ("false", "true"):
        run_dir = train(opq, f"data.train={tmp_path / 'x.npy'}", f"opq={opq}", "trainer.max_epochs=1")
        errors[opq] = _reported(run_dir)[-1]
    quantizer = Codec.load(tmp_path / "true" / "codec").quantizer
    assert quantizer.rotation is not None
    torch.testing.assert_close(quantizer.rotation @ quantizer.rotation.T, torch.eye(12), rtol=0, atol=1e-6)
    assert errors["true"] < 0.8 * errors["false"]


def test_the_largest_seed_trains(train: Train) -> None:
    run_dir = train("run", f"seed={(1 << 32) - 1}", "recipe.dead_codewords=redraw", "trainer.max_epochs=2")
    assert len(_reported(run_dir)) == 2


def test_a_part_without_any_difference_is_named(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = clustered(2304)
    x[:, :6] = 0
    write_vectors(tmp_path / "x.npy", x)
    train("run", f"data.train={tmp_path / 'x.npy'}", code=2)
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "dimensions 0 to 5 (part 0) are the same in all of the first" in line
    assert line.endswith("training vectors: give other model.part_dims, or opq=true")


def test_another_model_than_the_checkpoints_is_refused(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = train("run", "trainer.max_epochs=1")
    last = run_dir / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["quantizer"]["concat_rank"]  # as of before there was that option
    torch.save(checkpoint, last)
    capsys.readouterr()
    assert main(["train", f"resume={run_dir}", "trainer.max_epochs=2", "model.concat_rank=4"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cannot resume: the checkpoint's model has concat_rank=None, this run's concat_rank=4" in error
    assert main(["train", f"resume={run_dir}", "trainer.max_epochs=2"]) == 0


def test_what_would_be_another_run_is_not_resumed(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    run_dir = train("run", "trainer.max_epochs=1")
    for option, there in {"opq=true": "opq=False, this run's opq=True", "model.part_dims=[4,8]": "part_dims="}.items():
        assert main(["train", f"resume={run_dir}", option, "trainer.max_epochs=2"]) == 2
        assert f"cannot resume: the checkpoint's model has {there}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.num_parts=5", "model.num_steps=5"], "dim=12 is no multiple of num_parts=5: say part_dims=[...]"),
        (["model.num_parts=3"], "num_steps=4 is no multiple of num_parts=3: say part_steps=[...]"),
        (["model.part_dims=[8,8]"], "part_dims=[8, 8]: give num_parts=2 numbers from 1 that add up to dim=12"),
        (["model.part_steps=[4,0]"], "part_steps=[4, 0]: give num_parts=2 numbers from 1 that add up to num_steps=4"),
    ],
)
def test_sizes_that_do_not_add_up_are_refused_in_one_line(
    train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    train("run", *options, code=2)
    assert capfd.readouterr().err == f"qinco: error: {message}\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("quick_rotation")
def test_a_sweep_over_rotations(small: list[str], tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    options = ["model=pq_qinco2", "model.num_steps=2", "trainer.max_epochs=1", f"hydra.sweep.dir={sweep}"]
    assert main(["train", "-m", *small, *options, "opq=false,true", "model.candidate_budget=8"]) == 0
    for job, opq in enumerate((False, True)):
        assert Codec.load(sweep / str(job) / "codec").quantizer.config["opq"] is opq
        assert json.loads((sweep / str(job) / "summary.json").read_text())["state"] == "finished"
