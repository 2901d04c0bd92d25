"""Codec folders that earlier versions wrote (tests/golden/codecs): what they hold, give and are written as."""

import json
from pathlib import Path

import numpy as np
import pytest

from qinco_lit.codec import Codec

FOLDERS = Path(__file__).parent.parent / "golden" / "codecs"
NAMES = sorted(path.name for path in FOLDERS.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FOLDERS / "expected.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", NAMES)
def test_they_give_what_they_gave(name: str, expected: dict[str, np.ndarray]) -> None:
    codec = Codec.load(FOLDERS / name, precision="float32")
    found, lists = codec.encode(expected["x"]), {}
    if codec.num_lists is not None:
        lists = {"list_ids": found[0]}
        np.testing.assert_array_equal(lists["list_ids"], expected[f"{name}/list_ids"])
        found = found[1]
    np.testing.assert_array_equal(found, expected[f"{name}/codes"])
    two = codec.encode(expected["x"], num_steps=2, **lists)
    np.testing.assert_array_equal(two if not lists else two[1], expected[f"{name}/two_codes"])
    for codes, x_hat in ((found, "decoded"), (found[:, :2], "first")):
        np.testing.assert_allclose(codec.decode(codes, **lists), expected[f"{name}/{x_hat}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_model_is_the_same_bytes(name: str, tmp_path: Path) -> None:
    """So its SHA-256, which stores of codes and indexes know it by; and earlier versions read what is written today."""
    Codec.load(FOLDERS / name).save(tmp_path / "codec")
    for file in ("config.json", "weights.safetensors"):
        assert (tmp_path / "codec" / file).read_bytes() == (FOLDERS / name / file).read_bytes()


def test_the_kind_of_a_search_follows_from_its_budget() -> None:
    for name in NAMES:
        model = json.loads((FOLDERS / name / "config.json").read_text())["model"]
        assert (model["search"] == "budget") == (model["candidate_budget"] is not None)
        config = Codec.load(FOLDERS / name).quantizer.config
        assert config == {key: value for key, value in model.items() if key != "search"}
