"""Models and recipes are read from the files that Hydra composes: the same values, whoever reads them."""

from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from qinco_lit.training.presets import chosen_options, preset, preset_names

PAIRS = [(model, recipe) for model in preset_names("model") for recipe in preset_names("recipe")]


def _composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_module("qinco_lit.conf", version_base="1.3"):
        config = compose("train", list(overrides))
    return {name: OmegaConf.to_container(config[name], resolve=True) for name in ("model", "recipe", "trainer")}  # type: ignore[misc]


@pytest.mark.parametrize(("model", "recipe"), PAIRS)
def test_presets_are_what_hydra_composes(model: str, recipe: str) -> None:
    expected = _composed(f"model={model}", f"recipe={recipe}")
    assert chosen_options(model, recipe, {}) == (expected["model"], expected["recipe"])
    assert preset("trainer", "default") == expected["trainer"]


def test_what_follows_another_option_follows_it() -> None:
    expected = _composed("model=qinco_lr", "model.hidden_dim=32")["model"]
    of_model, _ = chosen_options("qinco_lr", "tuned", {"hidden_dim": 32})
    assert of_model == expected
    assert of_model["concat_rank"] == 32


def test_no_option_is_of_both() -> None:
    for model, recipe in PAIRS:
        of_model, of_recipe = chosen_options(model, recipe, {})
        assert of_model.keys().isdisjoint(of_recipe)
