"""Every file of sweeps/ says what it is for, and every job of it composes into options that training takes."""

import argparse
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import version

from qinco_lit.cli import JOBS
from qinco_lit.cli.hydra_adapter import opened, parsed
from qinco_lit.cli.jobs import _checked_config
from qinco_lit.cli.sweeps import Sweep
from tests.sweeps.conftest import REPOSITORY, SWEEPS

NAMES = sorted(path.stem for path in SWEEPS.glob("*.yaml"))
ABLATIONS = sorted(path.stem for path in (SWEEPS / "ablation").glob("*.yaml"))


@cache
def _jobs(name: str, *overrides: str) -> list[tuple[list[str], dict[str, Any]]]:
    """The overrides of every job of a sweep, and what they compose to, checked."""
    found = []
    version.setbase("1.3")
    args = argparse.Namespace(config_path=None, config_dir=str(SWEEPS), config_name=name)
    with opened("train", args) as hydra:
        sweep = Sweep(hydra, name, parsed(hydra, list(overrides)))
        assert sweep.is_asked_for
        for job in sweep.jobs():
            config = _checked_config(hydra, name, job)
            JOBS["train"].check(config)
            sweep.check_processes("qinco train", config)
            found.append((job, config))
    return found


def _option(config: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("name", NAMES)
def test_every_job_composes(name):
    jobs = _jobs(name)
    assert len(jobs) > 1
    texts = [str(config) for _, config in jobs]
    assert len(set(texts)) == len(texts), "two jobs are the same training"
    assert all(config["logger"]["mode"] == "offline" for _, config in jobs)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("beam", {"model.beam_size": [1, 2, 4, 8, 16, 32, 64]}),
        ("candidates", {"model.num_candidates": [1, 2, 4, 8, 16, 32]}),
        ("budget", {"model.candidate_budget": [8, 16, 32, 64, 128]}),
        ("code_size", {"model.num_steps": [4, 8, 16], "model.codebook_size": [64, 256, 1024]}),
        ("model_size", {"model.num_blocks": [2, 4, 16], "model.outer_skip": [False, True]}),
        ("seeds", {"seed": [0, 1, 2, 3, 4]}),
    ],
)
def test_what_is_swept(name, values):
    configs = [config for _, config in _jobs(name)]
    for key, expected in values.items():
        assert sorted({_option(config, key) for config in configs}) == expected


def test_overrides_of_the_user_win():
    jobs = _jobs("beam", "data=bigann", "trainer.max_epochs=2", "model.beam_size=3,5", "model=qinco2_m", "seed=7")
    assert [config["model"]["beam_size"] for _, config in jobs] == [3, 5]
    for _, config in jobs:
        assert config["data"]["name"] == "bigann"
        assert (config["trainer"]["max_epochs"], config["seed"], config["model"]["num_blocks"]) == (2, 7, 4)


def test_ablations_change_what_they_name_and_nothing_else():
    configs = {job[0].removeprefix("ablation="): config for job, config in _jobs("ablations")}
    assert sorted(configs) == ABLATIONS
    plain = configs["none"]
    for name in set(configs) - {"none"}:
        config = configs[name]
        text = (SWEEPS / "ablation" / f"{name}.yaml").read_text()
        named = {line.split(":")[0].strip() for line in text.splitlines() if line.startswith("  ")}
        changed = {
            key for group in ("model", "recipe") for key, value in config[group].items() if value != plain[group][key]
        }
        assert changed == named, name
        assert {key: config[key] for key in config if key not in ("model", "recipe")} == {
            key: plain[key] for key in plain if key not in ("model", "recipe")
        }


@pytest.mark.parametrize("path", [*SWEEPS.glob("*.yaml"), *SWEEPS.glob("wandb/*.yaml")], ids=lambda path: path.stem)
def test_headers_say_what_one_must_know(path: Path):
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    for word in ("command", "hardware", "time", "expected"):
        assert re.search(rf"^# {word} +\S", header, re.MULTILINE), f"{path.name} does not say: {word}"
    by_hydra, by_wandb = f"-cd sweeps -cn {path.stem} ", f"wandb sweep --project qinco_lit sweeps/wandb/{path.name}"
    assert (by_hydra if path.parent == SWEEPS else by_wandb) in header
    assert re.search(r"RESULTS\.md|[Nn]ot run here", header), f"{path.name}: where is the expected result from?"


def test_the_docs_list_every_sweep():
    docs = (REPOSITORY / "docs" / "sweeps.md").read_text()
    for name in [*NAMES, *ABLATIONS, *(f"wandb/{path.stem}" for path in SWEEPS.glob("wandb/*.yaml"))]:
        assert f"`{name}`" in docs, name
