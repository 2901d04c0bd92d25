"""Training with a frozen coarse codebook first: `coarse=ivf`."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from qinco_lit.cli import main
from qinco_lit.coarse import list_assigner as coarse
from qinco_lit.codec import Codec
from qinco_lit.quantizers.kmeans import nearest_codeword, residual_kmeans
from qinco_lit.training import Recipe
from qinco_lit.training.dead_codewords import target_statistics
from qinco_lit.training.module import QuantizerTraining
from qinco_lit.training.start import initialize
from qinco_lit.vectors import open_codes, open_vectors
from tests.models import random_quantizer
from tests.training.conftest import SMALL, clustered
from tests.training.recipes import RECIPE

NUM_LISTS = 24
UNTRAINED = ["recipe.lr=1e-12", "recipe.weight_decay=0", "recipe.dead_codewords=keep", "trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def centroids_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("centroids") / "centroids.npy"
    np.save(path, clustered(NUM_LISTS, seed=5))
    return path


Train = Callable[..., Path]


@pytest.fixture
def train(small: list[str], centroids_path: Path, tmp_path: Path) -> Train:
    """Train an IVF model in this process; return the run folder."""

    def run(name: str, *options: str, code: int = 0) -> Path:
        given = ["coarse=ivf", f"coarse.centroids={centroids_path}", f"hydra.run.dir={tmp_path / name}"]
        assert main(["train", *small, *given, *options]) == code
        return tmp_path / name

    return run


def _reported(run_dir: Path, name: str = "val/mse") -> list[float]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def _weights(run_dir: Path) -> bytes:
    return (run_dir / "codec" / "weights.safetensors").read_bytes()


def test_it_learns_and_says_what_the_centroids_alone_do(train: Train, vectors_path: Path, centroids_path: Path) -> None:
    untrained = train("untrained", *UNTRAINED)
    run_dir = train("run", "trainer.max_epochs=3")
    errors = _reported(run_dir)
    assert errors[-1] == min(errors) < 0.97 * _reported(untrained)[0]
    x, centroids = open_vectors(vectors_path)[2048:], np.load(centroids_path)
    alone = ((x[:, None] - centroids[None]) ** 2).sum(-1).min(1).mean()
    np.testing.assert_allclose(_reported(run_dir, "val/mse_coarse"), alone, rtol=1e-4)
    codec = Codec.load(run_dir / "codec")
    list_ids, codes = codec.encode(x)
    reconstructions = codec.decode_steps(codes, list_ids=list_ids)
    by_codec = [((x_hat - x) ** 2).sum(1).mean() for x_hat in reconstructions]
    np.testing.assert_allclose(by_codec, [_reported(run_dir, f"val/mse_step_{m}")[-1] for m in (1, 2, 3)], rtol=1e-4)
    np.testing.assert_array_equal(np.argmin(((x[:, None] - centroids[None]) ** 2).sum(-1), axis=1), list_ids)


@pytest.mark.parametrize("embed_dim", ["8", "null"])
def test_the_untrained_model_is_the_residual_kmeans_of_x_minus_its_centroid(
    train: Train, vectors_path: Path, embed_dim: str
) -> None:
    greedy = ["model.beam_size=1", "model.num_candidates=0", f"model.embed_dim={embed_dim}"]
    run_dir = train("run", *UNTRAINED, *greedy)
    quantizer = Codec.load(run_dir / "codec").quantizer
    assert quantizer.coarse_centroids is not None
    doubled = 2 if embed_dim == "null" else 1  # such a network returns 2c, and holds its codebook at half size
    codebooks = [doubled * step.codebook for step in quantizer.parts[0].residual_steps()]

    def left(rows: np.ndarray, tables: list[torch.Tensor]) -> list[float]:
        residual, errors = quantizer.normalize(torch.from_numpy(rows)), []
        for table in tables:
            residual = residual - table[nearest_codeword(residual, table)]
            errors.append(float(residual.square().sum(1).mean() * quantizer.data_std[0] ** 2))
        return errors

    training, validation = open_vectors(vectors_path)[:2048], open_vectors(vectors_path)[2048:]
    expected = left(validation, [quantizer.coarse_centroids, *codebooks])
    reported = [_reported(run_dir, f"val/mse_{name}")[0] for name in ("coarse", "step_1", "step_2", "step_3")]
    np.testing.assert_allclose(reported, expected, rtol=1e-4)

    x = quantizer.normalize(torch.from_numpy(training))
    x = x - quantizer.coarse_centroids[nearest_codeword(x, quantizer.coarse_centroids)]
    own = residual_kmeans(x, 3, 16, iterations=10, generator=torch.Generator().manual_seed(3), split_empty=True)
    other = left(training, [quantizer.coarse_centroids, *own])
    np.testing.assert_allclose(left(training, [quantizer.coarse_centroids, *codebooks]), other, rtol=0.05)


@pytest.mark.parametrize("dead_codewords", ["split", "redraw"])
def test_centroids_stay_what_they_are_and_out_of_checkpoints(
    train: Train, centroids_path: Path, dead_codewords: str
) -> None:
    # of 200 codewords many are dead: what gives them work must not take a list's centroid for one of them
    options = ["model.codebook_size=200", "recipe.kmeans_split_empty=false", "recipe.split_every_batches=0"]
    run_dir = train("run", f"recipe.dead_codewords={dead_codewords}", "trainer.max_epochs=2", *options)
    quantizer = Codec.load(run_dir / "codec").quantizer
    expected = quantizer.normalize(torch.from_numpy(np.load(centroids_path)))
    assert torch.equal(quantizer.coarse_centroids, expected)
    assert quantizer.num_lists == NUM_LISTS
    for name in ("last", "best"):
        checkpoint = torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert not [key for key in checkpoint["state_dict"] if "coarse" in key]
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    statistics = last["codeword_statistics"]
    assert statistics["usage_in_epoch"].shape == (3, 200)
    assert (statistics["usage_in_epoch"].sum(1) == 2048).all()  # every row has one code per step
    assert _reported(run_dir, "train/dead_codewords")[0] > 0


def test_targets_of_the_first_step_start_at_the_centroid() -> None:
    quantizer = random_quantizer(12, num_steps=2, codebook_size=16, num_candidates=4, beam_size=2, num_lists=5)
    assert quantizer.coarse_centroids is not None
    quantizer.coarse_centroids.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn((300, 12), generator=torch.Generator().manual_seed(1))
    lists = quantizer.assign_lists(x)
    codes, centroid = quantizer.encode(x, list_ids=lists), quantizer.centroids_of(lists)
    mean, std = target_statistics(quantizer.parts[0], x, codes, centroid)
    first, _ = quantizer.reconstructions(codes, lists)
    for index, x_hat in enumerate((centroid, first)):
        torch.testing.assert_close(mean[index], (x - x_hat).mean(0).detach())
        torch.testing.assert_close(std[index], (x - x_hat).std(0, correction=0).detach())


def test_centroids_are_no_parameters() -> None:
    quantizer = random_quantizer(12, num_steps=2, codebook_size=16, num_candidates=4, beam_size=2, num_lists=5)
    recipe = Recipe(**RECIPE)
    module = QuantizerTraining(quantizer, recipe, start=partial(initialize, recipe=recipe, seed=0), seed=0)
    trained = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert trained == {id(p) for p in quantizer.parameters()}
    assert id(quantizer.coarse_centroids) not in trained
    assert quantizer.coarse_centroids is not None
    assert not quantizer.coarse_centroids.requires_grad


@pytest.fixture
def stop_in_the_second_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the second epoch."""
    before = QuantizerTraining.on_train_batch_start

    def stop(self: QuantizerTraining, batch: object, batch_idx: int) -> None:
        before(self, batch, batch_idx)
        if self.trainer.global_step == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(QuantizerTraining, "on_train_batch_start", stop)


@pytest.fixture
def interrupted(train: Train, stop_in_the_second_epoch: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    run_dir = train("stopped", "trainer.max_epochs=2", "recipe.dead_codewords=redraw", code=130)
    monkeypatch.undo()
    return run_dir


def test_other_centroids_cannot_be_resumed_with(
    interrupted: Path, centroids_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "other.npy", np.load(centroids_path)[::-1])
    assert main(["train", f"resume={interrupted}", f"coarse.centroids={tmp_path / 'other.npy'}"]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.endswith("coarse.centroids: the file is not the one that the run was started with: restore it")


@pytest.fixture
def through_an_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Lists are assigned through HNSW from the sixth on; the number of rows of each call is noted."""
    calls: list[int] = []
    search = coarse.ListAssigner._through_graph

    def noted(self: coarse.ListAssigner, rows: np.ndarray) -> np.ndarray:
        calls.append(len(rows))
        return search(self, rows)

    monkeypatch.setattr(coarse, "EXACT_LISTS", 5)
    monkeypatch.setattr(coarse.ListAssigner, "_through_graph", noted)
    return calls


def test_lists_through_an_index_train_the_same_model(
    train: Train, through_an_index: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed = train("indexed", "trainer.max_epochs=1")
    # the sample is measured, and looked up; the rows of the k-means; then batches of training and of validation
    assert through_an_index == [2048, 2048, 2048] + [128] * (16 + 2)
    monkeypatch.undo()
    assert _weights(indexed) == _weights(train("brute", "trainer.max_epochs=1"))


def test_nan_is_named_by_its_place_through_an_index_too(
    train: Train, through_an_index: list[int], vectors_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    x = open_vectors(vectors_path)[:]
    x[900, 5] = np.nan
    np.save(tmp_path / "bad.npy", x)
    rows = ["recipe.normalization_rows=500", "recipe.kmeans_rows=500", "trainer.max_epochs=1"]
    train("run", f"data.train={tmp_path / 'bad.npy'}", *rows, code=2)
    assert "the training vectors hold NaN or infinity: 1 of 128 vectors in epoch 0" in capfd.readouterr().err


def test_qinco1_trains_with_its_own_recipe(small: list[str], train: Train) -> None:
    own = ["model=qinco1", "recipe=paper", "model.num_blocks=2", "model.embed_dim=null", "model.num_candidates=0"]
    run_dir = train("run", *own, "model.beam_size=1", "recipe.lr=1e-3", "trainer.max_epochs=2")
    errors = _reported(run_dir)
    assert errors[-1] < errors[0] < _reported(run_dir, "val/mse_coarse")[0]
    codec, x = Codec.load(run_dir / "codec"), clustered(300)
    every, some = (codec.encode(x, num_candidates=a) for a in (0, 4))  # it got a pre-selector
    np.testing.assert_array_equal(every[0], some[0])


def test_from_training_to_vectors(
    train: Train, through_an_index: list[int], vectors_path: Path, tmp_path: Path
) -> None:
    codec_dir = train("run", "trainer.max_epochs=1") / "codec"
    codec, x = Codec.load(codec_dir, precision="float32"), open_vectors(vectors_path)[:]
    codes_path, decoded = tmp_path / "codes.h5", tmp_path / "x.npy"
    del through_an_index[:]
    given = [f"codec={codec_dir}", f"input={vectors_path}", f"output={codes_path}", "trainer.accelerator=cpu"]
    assert main(["encode", *given, "shard_rows=1000", "precision=float32"]) == 0
    assert through_an_index == [2048, 2048, 1000, 1000, 304]  # the sample, and three shards
    store = open_codes(codes_path)
    list_ids, codes = codec.encode(x)
    np.testing.assert_array_equal(store.list_ids(), list_ids)
    np.testing.assert_array_equal(store[:], codes)
    np.testing.assert_array_equal(codec.encode(x, list_ids=store.list_ids())[1], codes)
    assert main(["decode", f"codec={codec_dir}", f"codes={codes_path}", f"output={decoded}", "device=cpu"]) == 0
    x_hat = open_vectors(decoded)[:]
    np.testing.assert_allclose(x_hat, codec.decode(codes, list_ids=list_ids), rtol=1e-5, atol=1e-4)
    alone = codec.coarse_centroids
    assert alone is not None
    assert ((x_hat - x) ** 2).sum(1).mean() < 0.5 * ((alone[list_ids] - x) ** 2).sum(1).mean()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: None, "centroids.npy: no such file"),
        (lambda p: np.save(p, np.zeros((4, 7), np.float32)), "has dimension 7, the training vectors have 12: give"),
        (lambda p: np.save(p, np.zeros((4, 12), np.uint8)), "holds uint8: centroids are floating-point numbers"),
        (lambda p: np.save(p, np.full((4, 12), np.nan, np.float32)), "row 0 holds NaN or infinity"),
        (lambda p: (np.save(p, np.zeros((4, 12), np.float32)), os.truncate(p, 200)), "centroids.npy: truncated, "),
        (lambda p: np.save(p, np.zeros(12, np.float32)), "centroids.npy: "),
    ],
)
def test_bad_centroids_are_one_line_and_leave_nothing(
    tmp_path: Path, vectors_path: Path, capfd: pytest.CaptureFixture[str], write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "centroids.npy"
    write(path)
    options = [f"data.train={vectors_path}", f"data_dir={tmp_path / 'data'}", f"hydra.run.dir={tmp_path / 'run'}"]
    capfd.readouterr()
    assert main(["train", *SMALL, *options, "coarse=ivf", f"coarse.centroids={path}"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1, error
    assert message in error
    assert not (tmp_path / "run").exists()


def test_lists_are_found_first_as_qinco_centroids_finds_them(small: list[str], tmp_path: Path) -> None:
    given = ["coarse=ivf", "coarse.num_lists=24", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'run'}"]
    assert main(["train", *small, *given]) == 0
    data = [option for option in small if option.startswith("data")]
    assert main(["centroids", *data, "num_lists=24", f"output={tmp_path / 'c.npy'}"]) == 0
    assert (tmp_path / "run" / "coarse" / "centroids.npy").read_bytes() == (tmp_path / "c.npy").read_bytes()
    changed = [option.replace("24", "12") for option in given]
    assert main(["train", *small, *changed]) == 2
    assert main(["train", *small, *changed, "overwrite=true"]) == 0
    assert (
        len(np.load(tmp_path / "run" / "coarse" / "centroids.npy"))
        == Codec.load(tmp_path / "run" / "codec").num_lists
        == 12
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [],
            "coarse=ivf needs either coarse.num_lists=N, whose centroids are found first, or coarse.centroids=",
        ),
        (["coarse.num_lists=3", "coarse.centroids=c.npy"], "coarse=ivf needs either coarse.num_lists=N, whose"),
        (["coarse.num_lists=0"], "coarse.num_lists=0: give at least 1"),
        (["coarse.num_lists=many"], "coarse.num_lists=many: expected an integer or null"),
        (["coarse.num_lists=3000"], "num_lists=3000: "),
    ],
)
def test_which_lists_must_be_said(
    options: list[str], message: str, small: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *small, "coarse=ivf", *options, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"qinco: error: {message}")
    assert not (tmp_path / "run").exists()
