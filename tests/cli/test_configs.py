"""Every shipped config composes through the command line, and the list of options changes only on purpose."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from qinco_lit.quantizers.quantizer import build_quantizer

CONF = Path(__file__).parents[2] / "conf"
GROUPS = {
    "train": ["data", "model", "coarse", "recipe", "trainer", "logger"],
    "evaluate": ["data", "logger"],
    "centroids": ["data"],
    "encode": ["data"],
    "decode": [],
    "index": ["data"],
    "search": ["data", "logger"],
    "plan": ["data", "model", "recipe"],
    "reproduce": ["scale"],
}


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


CASES = [(job, group, choice) for job, groups in GROUPS.items() for group in groups for choice in _choices(group)]


_composed: dict[tuple[str, ...], dict[str, Any]] = {}


def _config(qinco: Any, job: str, *overrides: str) -> dict[str, Any]:
    key = (job, *overrides)
    if key not in _composed:
        _composed[key] = _compose(qinco, job, *overrides)
    return _composed[key]


def _compose(qinco: Any, job: str, *overrides: str) -> dict[str, Any]:
    outcome = qinco(job, *overrides, "--cfg", "job", "--resolve")
    assert outcome.code == 0, outcome.err
    values = OmegaConf.to_container(OmegaConf.create(outcome.out))
    assert isinstance(values, dict)
    return values  # type: ignore[return-value]


def _names(values: dict[str, Any], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for key, value in values.items():
        names |= _names(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return names


@pytest.mark.parametrize(("job", "group", "choice"), CASES)
def test_every_choice_composes(qinco, job, group, choice):
    config = _config(qinco, job, f"{group}={choice}")
    assert (config[group] is None) == (choice == "none")


@pytest.mark.parametrize("job", GROUPS)
def test_frozen_options(qinco, job):
    names = _names(_config(qinco, job))
    for group in GROUPS[job]:
        for choice in _choices(group):
            names |= _names(_config(qinco, job, f"{group}={choice}"))
    golden = Path(__file__).with_name(f"options_{job}.txt")
    assert "\n".join(sorted(names)) + "\n" == golden.read_text(), (
        f"the options of `qinco {job}` changed: a new one needs a reader, a test, docs, and its name in {golden.name}"
    )


def test_models_hold_architecture_and_search_only(qinco):
    import inspect

    from qinco_lit.quantizers import QINCo, Quantizer

    known = set(inspect.signature(QINCo).parameters) - {"dim", "has_start"}
    of_parts = known | {"num_parts"} | set(inspect.signature(Quantizer).parameters)
    for choice in _choices("model"):
        model = _config(qinco, "train", f"model={choice}")["model"]
        assert set(model) <= (of_parts if choice.startswith("pq_") else known), choice
        assert ("num_parts" in model) == choice.startswith("pq_")


def test_the_small_networks_take_the_share_of_the_work_that_is_documented(qinco):
    """docs/choosing.md: two fifths of QINCo2-S's multiplications to decode, half to encode by the same search."""
    small, whole = (
        build_quantizer(128, **_config(qinco, "train", f"model={name}")["model"])
        for name in ("qinco2_xs", "qinco2_tiny")
    )
    assert small.default_search == whole.default_search
    decoding = small.decode_multiplications() / whole.decode_multiplications()
    encoding = small.encode_multiplications(small.default_search) / whole.encode_multiplications(whole.default_search)
    assert decoding == pytest.approx(0.4, abs=0.05)
    assert encoding == pytest.approx(0.5, abs=0.05)


# whose recipe a model takes: the one that its networks were published or measured with
RECIPE_OF = {"qinco_lr": "qinco1", "pq_qinco": "qinco1", "pq_qinco2": "qinco2_s", "qinco2": "qinco2_s"}


def test_a_recipe_may_be_specialised_for_a_model(qinco):
    specialised = sorted(path.stem for path in (CONF / "specialize").glob("*.yaml"))
    assert "paper_qinco1" in specialised
    plain = _config(qinco, "train", "recipe=paper", "model=qinco2")["recipe"]
    for model in _choices("model"):
        recipe = _config(qinco, "train", "recipe=paper", f"model={model}")["recipe"]
        assert (recipe != plain) == (f"paper_{model}" in specialised), model
    assert _config(qinco, "train", "recipe=paper", "model=qinco1", "recipe.lr=0.5")["recipe"]["lr"] == 0.5


@pytest.mark.parametrize("recipe", ["paper", "tuned"])
@pytest.mark.parametrize("model", RECIPE_OF)
@pytest.mark.parametrize("job", ["train", "plan"])
def test_members_of_the_family_share_a_recipe(qinco, job, model, recipe):
    own, other = (_config(qinco, job, f"recipe={recipe}", f"model={name}") for name in (model, RECIPE_OF[model]))
    assert own["recipe"] == other["recipe"]


@pytest.mark.parametrize("job", ["train", "plan"])
def test_opq_is_short_for_the_models_option(qinco, job):
    long = _config(qinco, job, "model=pq_qinco2", "model.opq=true")
    assert long["model"]["opq"] is True
    assert _config(qinco, job, "model=pq_qinco2", "opq=true") == long
    assert _config(qinco, job, "opq=false", "model=pq_qinco2") == _config(qinco, job, "model=pq_qinco2")


def test_the_rank_of_qinco_lr_follows_its_networks(qinco):
    model = _config(qinco, "train", "model=qinco_lr", "model.hidden_dim=96")["model"]
    assert model["concat_rank"] == 96
    assert {**model, "concat_rank": None} == _config(qinco, "train", "model=qinco1", "model.hidden_dim=96")["model"]
    assert _config(qinco, "train", "model=qinco2_m", "model.concat_rank=64")["model"]["concat_rank"] == 64
