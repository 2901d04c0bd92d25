"""Files for `wandb sweep`: what an agent would run composes, for every value that it may be given."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import version

from qinco_lit.cli import JOBS
from qinco_lit.cli.hydra_adapter import opened, parsed
from qinco_lit.cli.jobs import _checked_config
from qinco_lit.cli.sweeps import Sweep
from qinco_lit.training.wandb_run import flatten
from tests.sweeps.conftest import REPOSITORY, SWEEPS

FILES = sorted((SWEEPS / "wandb").glob("*.yaml"))
METHODS = {"grid", "random", "bayes"}


def _read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())  # as W&B reads it
    assert isinstance(content, dict)
    return content


def _values(parameter: dict[str, Any]) -> list[Any]:
    """What a parameter may be: all of the values, or the two ends of a distribution."""
    if "value" in parameter:
        return [parameter["value"]]
    return parameter["values"] if "values" in parameter else [parameter["min"], parameter["max"]]


def _samples(parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Choices such that every value of every parameter is in one."""
    first = {name: _values(parameter)[0] for name, parameter in parameters.items()}
    yield first
    for name, parameter in parameters.items():
        for value in _values(parameter)[1:]:
            yield {**first, name: value}


def _command(sweep: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """What an agent runs, by its own code."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    if not hasattr(utils, "create_sweep_command_args") or not hasattr(utils, "create_sweep_command"):
        pytest.skip("this wandb formats the arguments of sweeps elsewhere")
    args = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    macros = {**args, "program": [sweep["program"]], "env": ["/usr/bin/env"], "interpreter": ["python"]}
    words = utils.create_sweep_command(list(sweep["command"]))
    replaced = [macros[w[2:-1]] if w.startswith("${") and w.endswith("}") else [w] for w in words]
    return [word for part in replaced for word in part]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_an_agent_runs_composes(path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "run2")
    version.setbase("1.3")
    sweep = _read(path)
    for chosen in _samples(sweep["parameters"]):
        env, python, program, *arguments = _command(sweep, chosen)
        assert (env, python, program) == ("/usr/bin/env", "python", "train.py")
        options = argparse.Namespace(config_path=None, config_dir=None, config_name=None)
        if "-cd" in arguments:
            assert (arguments[0], arguments[2]) == ("-cd", "-cn")
            options.config_dir, options.config_name = str(REPOSITORY / arguments[1]), arguments[3]
            del arguments[:4]
        with opened("train", options) as hydra:
            name = options.config_name or "train"
            config = _checked_config(hydra, name, arguments)
            settings = Sweep(hydra, name, parsed(hydra, arguments))
        JOBS["train"].check(config)
        assert not settings.is_asked_for
        assert str(settings.settings.run.dir) == "multirun/wandb/sweep1/run2"
        assert config["logger"]["mode"] == "online"  # agents need the server anyway
        flat = flatten(config)
        for key, value in chosen.items():
            if key not in ("model", "ablation"):
                assert (flat[key], type(flat[key])) == (value, type(value))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_say_what_wandb_needs(path):
    sweep = _read(path)
    assert (REPOSITORY / sweep["program"]).is_file()
    assert sweep["metric"] == {"name": "val/mse", "goal": "minimize"}
    assert sweep["method"] in METHODS
    assert "${args_no_hyphens}" in sweep["command"]
    for parameter in sweep["parameters"].values():
        assert not any(isinstance(value, str) and "e-" in value for value in _values(parameter)), "1e-3 is text in YAML"
        assert not any(value is None or isinstance(value, dict | list) for value in _values(parameter))
        if sweep["method"] == "grid":
            assert "value" in parameter or "values" in parameter
    if "early_terminate" in sweep:
        assert sweep["early_terminate"]["type"] == "hyperband"
        assert sweep["early_terminate"]["min_iter"] < sweep["parameters"]["trainer.max_epochs"]["value"]


def test_there_is_a_grid_and_a_bayesian_search_with_early_termination():
    sweeps = [_read(path) for path in FILES]
    assert any(sweep["method"] == "grid" for sweep in sweeps)
    assert any(sweep["method"] == "bayes" and "early_terminate" in sweep for sweep in sweeps)
