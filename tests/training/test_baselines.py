"""RQ and PQ of few training vectors, as what a training must beat: never is its codec worse than they are."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qinco_lit as ql
from qinco_lit.cli import main
from qinco_lit.coarse.assignment import FrozenLists
from qinco_lit.evaluation.baselines import Baseline
from qinco_lit.quantizers import build_quantizer
from qinco_lit.training.baselines import baselines_of, with_baselines
from qinco_lit.training.module import QuantizerTraining
from qinco_lit.training.recipe import Recipe
from qinco_lit.training.start import initialize
from tests.training.conftest import clustered
from tests.training.recipes import RECIPE

CPU = torch.device("cpu")
DIM, STEPS, ROWS = 12, 2, 300
X, OTHERS = clustered(ROWS), clustered(100, seed=1)
TUNED = Recipe(**{**RECIPE, "baselines_below_rows": 10_000})
_NETWORKS = {"hidden_dim": 16, "num_blocks": 1, "num_steps": STEPS, "codebook_size": 256}
_WIDE = {"num_candidates": 16, "beam_size": 32, "candidate_budget": 64}
_QINCO1 = {"outer_skip": False, "num_candidates": 0, "beam_size": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "QINCo2": {"embed_dim": 8, **_WIDE},
    "QINCo2 without projections": {"embed_dim": DIM, **_WIDE},
    "QINCo1": _QINCO1,
    "QINCo-LR": {**_QINCO1, "concat_rank": 4},
    "lists": {"embed_dim": 8, **_WIDE, "num_lists": 8},
    "parts": {"embed_dim": 8, **_WIDE, "num_parts": 2, "part_dims": [7, 5]},
}


def _mse(x_hat: np.ndarray, x: np.ndarray) -> float:
    return float(((x_hat - x) ** 2).sum(1, dtype=np.float64).mean())


def _baseline_error(method: str, x: np.ndarray, others: np.ndarray, num_steps: int) -> float:
    """As an evaluation measures it: RQ encodes with a beam of 32."""
    baseline = Baseline.train(method, x, num_steps)
    return _mse(baseline.decode(baseline.encode(others)), others)


@pytest.mark.parametrize("method", ["rq", "pq"])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_their_codebooks_an_untrained_model_is_the_baseline(family: str, method: str) -> None:
    quantizer, lists, of_each = build_quantizer(DIM, **_NETWORKS, **FAMILIES[family]), None, [slice(DIM)]
    x, others = X, OTHERS
    if family == "lists":
        centroids = clustered(8, seed=5)
        lists = FrozenLists(centroids, None, CPU)
        x, others = (rows - centroids[_nearest(rows, centroids)] for rows in (X, OTHERS))
    elif family == "parts":
        of_each = [slice(0, 7), slice(7, 12)]
    assert baselines_of(quantizer, TUNED, ROWS) == ("rq", "pq")
    start = partial(initialize, recipe=TUNED, seed=0, lists=lists, show_progress=False)
    start, as_baselines = with_baselines(start, [method], lists=lists, show_progress=False)
    start(quantizer, X, CPU)
    begun = {name: value.clone() for name, value in quantizer.state_dict().items()}
    as_baselines[method](quantizer, X, CPU)
    normalised = quantizer.normalize(torch.from_numpy(OTHERS))
    list_ids = None if lists is None else quantizer.assign_lists(normalised)
    codes = quantizer.encode(normalised, list_ids=list_ids)
    *_, x_hat = quantizer.reconstructions(codes, list_ids)
    with torch.no_grad():
        found = _mse(quantizer.denormalize(x_hat).numpy(), OTHERS)
    expected = sum(_baseline_error(method, x[:, own], others[:, own], STEPS // len(of_each)) for own in of_each)
    assert found == pytest.approx(expected, rel=1e-4)
    start(quantizer, X, CPU)
    assert all(torch.equal(value, begun[name]) for name, value in quantizer.state_dict().items())


def _nearest(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return ((x[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)


def test_no_baseline_of_many_vectors_nor_where_a_model_cannot_be_one() -> None:
    def found(recipe: Recipe = TUNED, rows: int = ROWS, **model: Any) -> tuple[str, ...]:
        return baselines_of(build_quantizer(DIM, **{**_NETWORKS, "embed_dim": 8, **_WIDE, **model}), recipe, rows)

    assert found() == ("rq", "pq")
    assert found(rows=10_000) == ()
    assert found(rows=200) == ()  # fewer than codewords
    assert found(codebook_size=200) == ()  # no whole number of bits
    assert found(outer_skip=False) == ()  # its projections lose a part of the codeword
    assert found(Recipe(**{**RECIPE, "network_init": "paper", "baselines_below_rows": 10_000})) == ()
    assert found(Recipe(**RECIPE)) == ()


def _alone(rows: int, seed: int = 0) -> np.ndarray:
    """Dimensions that say nothing of each other: what one sub-vector is, the others do not tell."""
    return np.random.default_rng(seed).uniform(size=(rows, DIM)).astype(np.float32)


# what is the best model of: networks learn 300 vectors by heart; with 16 codewords there are enough of them
CASES: dict[str | None, tuple[Callable[..., np.ndarray], dict[str, Any]]] = {
    "rq": (clustered, {}),
    "pq": (_alone, {}),
    None: (clustered, {"codebook_size": 16, "lr": 1e-3}),
}


def _train(run_dir: Path, case: str | None, **given: Any) -> ql.Codec:
    vectors, options = CASES[case]
    options = {"num_steps": STEPS, "embed_dim": 8, "hidden_dim": 16, "batch_size": 64, "max_epochs": 3} | options
    x, val = vectors(ROWS), vectors(200, seed=1)
    return ql.train(x, val=val, run_dir=run_dir, progress=False, **{**options, **given})


def _summary(run_dir: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def _validations(run_dir: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in row if name != "time_s"} for row in rows if "val/mse" in row]


@pytest.mark.parametrize("case", CASES)
def test_a_codec_of_few_vectors_is_never_worse_than_rq_and_pq(
    case: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    codec = _train(tmp_path, case)
    summary, (of_baselines, *of_epochs) = _summary(tmp_path), _validations(tmp_path)
    assert summary["baseline"] == case
    assert [row["epoch"] for row in of_epochs] == [0, 1, 2]
    errors = [row["val/mse"] for row in of_epochs]
    baselines = {method: of_baselines[f"val/mse_{method}"] for method in ("rq", "pq")}
    assert of_baselines["val/mse"] == min(baselines.values())
    assert summary["best_val_mse"] == summary["best_metrics"]["val/mse"] == min([*errors, *baselines.values()])
    assert case is None or summary["best_val_mse"] == baselines[case] < min(errors)
    assert summary["best_epoch"] == (-1 if case else int(np.argmin(errors)))
    vectors = CASES[case][0]
    if case is not None:  # baselines of an evaluation have 256 codewords
        others = vectors(2000, seed=2)
        found = [_baseline_error(method, vectors(ROWS), others, STEPS) for method in ("rq", "pq")]
        ours = _mse(codec.decode(codec.encode(others, beam_size=32, candidate_budget=64)), others)
        assert ours <= min(found) * (1 + 1e-4)
    told = [line for line in caplog.messages if "no epoch was below" in line]
    assert len(told) == (case is not None)
    assert main(["info", str(tmp_path)]) == 0
    whose = f"({case.upper()} of the training vectors; no epoch of 3 is below)" if case else " of 3)"
    assert whose in capsys.readouterr().out


@pytest.mark.parametrize("case", ["rq", None])
def test_resumed_equals_uninterrupted(case: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while baselines are trained: they are trained again; later: what they were is in the checkpoint."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    _train(whole, case)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    before = QuantizerTraining.on_train_batch_start

    def stop_at_step(self: QuantizerTraining, batch: Any, batch_idx: int) -> None:
        before(self, batch, batch_idx)
        if self.trainer.global_step == 7:  # in the second epoch
            stop()

    for owner, name, instead in (
        ("qinco_lit.training.checkpoints.BestModel", "on_validation_end", stop),
        ("qinco_lit.training.module.QuantizerTraining", "on_train_batch_start", stop_at_step),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(f"{owner}.{name}", instead)
            with pytest.raises(KeyboardInterrupt):
                _train(stopped, case)
        assert not (stopped / "codec").exists()
    assert (stopped / "checkpoints" / "last.ckpt").is_file()
    with monkeypatch.context() as patched:
        patched.setattr("qinco_lit.training.faiss_start.baseline_codebooks", None)
        _train(stopped, case)
    for name in ("codec/weights.safetensors", "checkpoints/best.ckpt"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    assert _validations(stopped) == _validations(whole)
    for name in ("baseline", "best_val_mse", "best_epoch", "last_metrics"):
        assert _summary(stopped)[name] == _summary(whole)[name], name


@pytest.mark.parametrize(("errors", "epochs"), [([9.0, 8.0, 7.0, 6.0], 4), ([9.0, 8.0, 8.5, 8.5], 3)])
def test_a_training_goes_on_while_it_gains_over_itself(
    errors: list[float], epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_all = iter([5.0, 5.5, *errors])  # RQ, PQ, epochs
    monkeypatch.setattr("qinco_lit.training.module.named_figures", lambda *_: {"val/mse": next(of_all)})
    _train(tmp_path, None, max_epochs=4, patience_epochs=1)
    assert [row["val/mse"] for row in _validations(tmp_path)] == [5.0, *errors[:epochs]]
    assert _summary(tmp_path)["baseline"] == "rq"


def test_the_paper_has_none_and_neither_has_a_training_without_validation(tmp_path: Path) -> None:
    _train(tmp_path / "paper", None, recipe="paper", lr=1e-3)
    assert _summary(tmp_path / "paper")["baseline"] is None
    assert [row["epoch"] for row in _validations(tmp_path / "paper")] == [0, 1, 2]
    np.save(tmp_path / "x.npy", CASES[None][0](ROWS))
    given = [f"data.train={tmp_path / 'x.npy'}", "data.num_val=10", f"data_dir={tmp_path}", "recipe.batch_size=64"]
    model = ["model=qinco2_tiny", f"model.num_steps={STEPS}", "model.embed_dim=8", "model.hidden_dim=16"]
    run = ["logger=none", "+trainer.limit_val_batches=0", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'none'}"]
    assert main(["train", "data=files", *given, *model, *run]) == 0
    assert _validations(tmp_path / "none") == []
    assert (tmp_path / "none" / "codec").is_dir()
