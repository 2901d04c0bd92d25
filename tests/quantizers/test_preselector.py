"""Pre-selectors fitted to a model that was trained without any."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from qinco_lit import cli
from qinco_lit.codec import Codec
from qinco_lit.quantizers import Quantizer
from tests import reference

Make = Callable[..., Quantizer]
CONFIG = {"num_steps": 3, "codebook_size": 16, "hidden_dim": 12, "num_blocks": 2, "outer_skip": False}


@pytest.fixture
def codec(make_quantizer: Make) -> Codec:
    return Codec(make_quantizer(8, **CONFIG, num_candidates=0, beam_size=1))


@pytest.fixture
def x() -> np.ndarray:
    return 2 * np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)


def test_it_is_the_mean_of_what_a_codeword_adds(codec: Codec, x: np.ndarray) -> None:
    codes = codec.encode(x)
    codec.fit_preselector(x)
    for index, step in enumerate(codec.quantizer.parts[0].residual_steps()):
        assert step.preselector is not None
        contexts = [reference.decode(codec.quantizer.parts[0], row[: index + 1].tolist()) for row in codes]
        codebook = step.codebook.double().numpy()
        mean = [np.mean([reference.f(step, codeword, x_hat) for x_hat in contexts], axis=0) for codeword in codebook]
        np.testing.assert_allclose(step.preselector.numpy(), mean, rtol=1e-4, atol=1e-5)


def test_few_candidates_come_close_to_all(codec: Codec, x: np.ndarray) -> None:
    codec.fit_preselector(x)

    def mse(**search: int) -> float:
        return float(((codec.decode(codec.encode(x, **search)) - x) ** 2).sum(1).mean())

    errors = [mse(num_candidates=number) for number in (1, 4, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < errors[2] + 0.33 * (errors[0] - errors[2])
    assert mse(candidate_budget=16, beam_size=4) < mse()


def test_the_codecs_own_search_and_networks_stay(codec: Codec, x: np.ndarray, tmp_path: Path) -> None:
    before, x_hat = codec.encode(x), codec.decode(codec.encode(x))
    codec.fit_preselector(x)
    codec.save(tmp_path / "codec")
    loaded = Codec.load(tmp_path / "codec")
    np.testing.assert_array_equal(loaded.encode(x), before)
    np.testing.assert_array_equal(loaded.decode(before), x_hat)
    np.testing.assert_array_equal(loaded.encode(x, num_candidates=4), codec.encode(x, num_candidates=4))


def test_the_tool_fits_the_first_rows(codec: Codec, x: np.ndarray, tmp_path: Path) -> None:
    codec.save(tmp_path / "plain")
    np.save(tmp_path / "x.npy", x)
    tool = ["fit-preselector", str(tmp_path / "plain"), "--vectors", str(tmp_path / "x.npy")]
    assert cli.main([*tool, "--rows", "40", "--output", str(tmp_path / "fitted")]) == 0
    codec.fit_preselector(x[:40])
    fitted = Codec.load(tmp_path / "fitted").quantizer.parts[0].residual_steps()
    for ours, theirs in zip(codec.quantizer.parts[0].residual_steps(), fitted, strict=True):
        torch.testing.assert_close(ours.preselector, theirs.preselector)


@pytest.mark.parametrize(
    ("vectors", "rows", "message"),
    [
        (np.zeros((4, 9), np.float32), "4", "vectors of shape (4, 9) do not fit this codec: expected (n, 8)"),
        (np.full((4, 8), np.nan, np.float32), "4", "vector 0 holds NaN or infinity"),
        (np.zeros((4, 8), np.float32), "0", "--rows 0: give at least 1"),
    ],
)
def test_bad_vectors_cost_one_line(
    codec: Codec, vectors: np.ndarray, rows: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec.save(tmp_path / "plain")
    np.save(tmp_path / "x.npy", vectors)
    tool = ["fit-preselector", str(tmp_path / "plain"), "--vectors", str(tmp_path / "x.npy"), "--rows", rows]
    assert cli.main([*tool, "--output", str(tmp_path / "fitted")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "fitted").exists()
