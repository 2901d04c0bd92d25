"""`evaluate num_steps=`, `rate=`, `dedicated=`: what does not go together, and the options as they are typed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.codec import Codec
from tests.cli.conftest import Qinco, qinco, refused
from tests.evaluate.conftest import DIM, SMALL, ready_data, saved_codec
from tests.models import random_quantizer

Run = Callable[..., dict[str, Any]]
__all__ = ["qinco", "refused"]  # the command in this process, in an empty folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, r"^num_steps=0: \S*codec has 3 codes; give 1 to 3$"),
        ({"num_steps": 4}, r"^num_steps=4: \S*codec has 3 codes; give 1 to 3$"),
        ({"rate": [2, 4]}, r"^rate=\[2, 4\]: \S*codec has 3 codes; give numbers from 1 to 3, or rate=all$"),
        ({"rate": []}, r"^rate=\[\]: \S*codec has 3 codes; give numbers from 1 to 3, or rate=all$"),
        ({"rate": "all", "num_steps": 2}, r"^num_steps=2 measures one rate, rate=all several: give one of them$"),
        ({"rate": [1], "num_steps": 2}, r"^num_steps=2 measures one rate, rate=\[1\] several: give one of them$"),
        ({"dedicated": ["a"]}, r"^dedicated=\['a'\] is compared at each rate: add rate=all$"),
    ],
)
def test_impossible_rates_are_one_line_and_leave_no_folder(
    run: Run, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(**options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "rate", "message"),
    [
        ({"num_steps": 4}, "all", r"^dedicated=\S*/bad has 4 codes, measured are 1, 2, 3: leave it out$"),
        ({"num_steps": 2}, [1, 3], r"^dedicated=\S*/bad has 2 codes, measured are 1, 3: leave it out$"),
        ({"num_steps": 2, "codebook_size": 8}, "all", r"/bad has codebook_size=8, the codec 16: their rates do not co"),
        ({"num_steps": 2, "num_lists": 4}, "all", r"/bad has num_lists=4, the codec None: their rates do not compare$"),
        ({"num_steps": 2, "dim": 4}, "all", r"/bad has dim=4, the codec 6: their rates do not compare$"),
    ],
)
def test_dedicated_models_that_do_not_fit_are_named(
    run: Run, tmp_path: Path, options: dict[str, Any], rate: Any, message: str
) -> None:
    options = dict(options)
    Codec(random_quantizer(options.pop("dim", DIM), **SMALL | options)).save(tmp_path / "bad")
    with pytest.raises(ValueError, match=message):
        run(rate=rate, dedicated=[tmp_path / "bad"])
    assert not (tmp_path / "out").exists()


def test_two_dedicated_models_of_one_rate_are_named(run: Run, tmp_path: Path) -> None:
    paths = [saved_codec(tmp_path / name, 2, seed) for seed, name in enumerate(("a", "b"))]
    with pytest.raises(ValueError, match=r"^dedicated=\S*/a and \S*/b both have 2 codes: give one of them$"):
        run(rate="all", dedicated=paths)


def test_a_truncated_codec_is_no_dedicated_model(run: Run, codec_dir: Path, tmp_path: Path) -> None:
    Codec.load(codec_dir).truncated(2).save(tmp_path / "cut")
    message = r"^dedicated=\S*/cut was cut from a longer codec: give one that was trained for 2 codes$"
    with pytest.raises(ValueError, match=message):
        run(rate="all", dedicated=[tmp_path / "cut"])


def test_a_dedicated_model_that_cannot_search_so_is_named(run: Run, tmp_path: Path) -> None:
    saved_codec(tmp_path / "one", 2, num_candidates=0, beam_size=1)
    with pytest.raises(ValueError, match=r"^\S*/one: this model has no pre-selector: [^\n]*$"):
        run(rate="all", dedicated=[tmp_path / "one"], candidate_budget=8)
    with pytest.raises(FileNotFoundError, match=r"nowhere"):
        run(rate="all", dedicated=[tmp_path / "nowhere"])


def test_the_command_line_takes_rates(codec_dir: Path, tmp_path: Path, qinco: Qinco) -> None:
    saved_codec(tmp_path / "two" / "codec", 2, 1)
    data, words = ready_data(), ["evaluate", f"codec={codec_dir}", "data=files"]
    for name, rows in {"train": data.train_vectors, "database": data.database, "queries": data.queries}.items():
        np.save(tmp_path / f"{name}.npy", rows)
        words.append(f"data.{name}={tmp_path / name}.npy")
    outcome = qinco(*words, "data.num_val=100", "rate=[1,2]", "dedicated=[two]", "hydra.run.dir=out")
    assert outcome.code == 0, outcome
    points = json.loads((tmp_path / "out" / "metrics.json").read_text())["rates"]["points"]
    assert [point["num_steps"] for point in points] == [1, 2]
    assert [point["dedicated"] is None for point in points] == [True, False]
    outcome = qinco(*words, "data.num_val=100", "rate=[1,4]", "hydra.run.dir=none")
    message = f"qinco: error: rate=[1, 4]: {codec_dir} has 3 codes; give numbers from 1 to 3, or rate=all\n"
    assert (outcome.code, outcome.err) == (2, message)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("rate=4", "all or a list in brackets, each an integer or null"),
        ("rate=some", "all or a list in brackets, each an integer or null"),
        ("dedicated=there", "a list in brackets, each text or a path"),
        ("num_steps=few", "an integer or null"),
    ],
)
def test_options_of_another_type_are_refused_at_once(refused: Callable[..., str], option: str, expected: str) -> None:
    assert refused("evaluate", "codec=DIR", option) == f"{option}: expected {expected}"
