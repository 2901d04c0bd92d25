"""Named models and recipes: the files that Hydra composes, read without it."""

import re
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, get_type_hints

import torch
import yaml

from qinco_lit.options import check_arguments, plain, unknown
from qinco_lit.quantizers import QINCo, Quantizer, build_quantizer
from qinco_lit.training.recipe import Recipe

_OF_SAME_LEVEL = re.compile(r"\$\{\.(\w+)\}")
_PART_OPTIONS = ("num_parts", "part_dims", "part_steps", "opq")


def preset_names(group: str) -> list[str]:
    """What a group of configs (model, recipe, trainer) offers."""
    files = (resources.files("qinco_lit.conf") / group).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def preset(group: str, name: str) -> dict[str, Any]:
    """The values of a config of a group, with those of the configs that it names in `defaults`.

    Raises:
        ValueError: one line, for a name that the group lacks.
    """
    if name not in preset_names(group):
        raise unknown(group, str(name), preset_names(group))
    text = (resources.files("qinco_lit.conf") / group / f"{name}.yaml").read_text(encoding="utf-8")
    own: dict[str, Any] = yaml.safe_load(text) or {}
    defaults = own.pop("defaults", [])
    values: dict[str, Any] = {}
    for each in defaults if "_self_" in defaults else [*defaults, "_self_"]:
        values |= own if each == "_self_" else preset(group, each)
    return values


def recipe_preset(name: str, model: str) -> dict[str, Any]:
    """The values of a recipe, with what it changes for a model (conf/specialize). Raises ValueError: no such name."""
    values, special = preset("recipe", name), f"{name}_{model}"
    return values | (preset("specialize", special) if special in preset_names("specialize") else {})


def chosen_options(model: str, recipe: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a model and of a recipe: those of the presets, but for the ones that are given.

    Args:
        model, recipe: names of presets.
        options: of the model or of the recipe; no name is in both.

    Returns:
        Arguments of `build_quantizer`, and the fields of `Recipe`.

    Raises:
        ValueError: one line, for a name that neither has, or a value of the wrong type or out of range.
    """
    of_model, of_recipe = preset("model", model), recipe_preset(recipe, model)
    options = {name: plain(value) for name, value in options.items()}
    for name in options:
        if name in _PART_OPTIONS and name not in of_model:
            raise ValueError(f"{name}={options[name]} is for models of parts: give model='pq_qinco' or 'pq_qinco2'")
        if name not in of_model and name not in of_recipe:
            raise unknown("option", name, [*of_model, *of_recipe])
    of_model |= {name: value for name, value in options.items() if name in of_model}
    for name, value in of_model.items():
        if isinstance(value, str) and (found := _OF_SAME_LEVEL.fullmatch(value)):
            of_model[name] = of_model[found[1]]
    of_recipe |= {name: value for name, value in options.items() if name in of_recipe}
    check_model(of_model, group="", shown=repr)
    check_arguments("", Recipe, of_recipe, shown=repr)
    Recipe(**of_recipe)
    return of_model, of_recipe


def check_model(options: Mapping[str, Any], *, group: str = "model", shown: Callable[[Any], str] | None = None) -> None:
    """Refuse options of a model that no vectors allow; whether they suit the data is known when these are open.

    Raises:
        ValueError: one line; `group` comes before the names of options; `shown` is that of `check_arguments`.
    """
    own: dict[str, Any] = {}
    if "num_parts" in options:  # a product, which hands the other options to its parts
        hints = {**get_type_hints(Quantizer.__init__), "num_parts": int}
        own = {name: hints[name] for name in _PART_OPTIONS}
    check_arguments(group, QINCo, options, given=("dim", "has_start"), extra=own, shown=shown)
    dims = options.get("part_dims")
    dim = sum(dims) if dims and None not in dims else options.get("num_parts") or 1
    with torch.device("meta"):
        build_quantizer(dim, **options)
