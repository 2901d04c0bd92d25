"""What README and docs show works when pasted: commands and Python of the pages that one follows are run on small data.

Of other pages, whose commands would take hours or need what is not here, each command line is composed with all that it
says, as far as `--cfg job` goes, and tools parse theirs. A block that neither can be done with says why, in a comment
before it: `<!-- not run: reason -->`. Where a block of text follows, it is what comes out, but for numbers.
"""

import argparse
import contextlib
import io
import os
import re
import shutil
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qinco_lit as ql
from qinco_lit import cli
from tests.artefacts import SMALL, clustered, make_run
from tests.docs.sandbox import Block, arguments, blocks, command_lines, fill, needs_data, small

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("README.md", "start.md", "embeddings.md", "search.md", "codes.md", "commands.md", "python.md", "onnx.md")
# programs whose lines are looked at, but not run: they would install, or take minutes
_LOOKED_AT = ("make", "pip", "python3", "git", "source")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_run(folder)
    return folder / "run"


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ql, "train", partial(_train, ql.train), raising=False)
    monkeypatch.setattr(
        ql,
        "explore",
        partial(ql.explore, nprobe=[2], num_additive=[20], num_pairwise=[0], repeats=1, latency_queries=2),
        raising=False,
    )
    return tmp_path


def _train(train: Any, x: Any, **options: Any) -> Any:
    if options.get("num_lists") is not None:
        options["num_lists"] = 4
    options.pop("model", None)
    return train(x, **options | SMALL | {"model": "qinco2_tiny", "max_epochs": 1, "progress": False, "lr": 1e-3})


def _said(words: list[str]) -> str:
    """What a command line of qinco prints; it must end well."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = cli.main(words)
        except SystemExit as stop:
            code = stop.code
    assert not code, f"qinco {' '.join(words)}: {err.getvalue()}"
    return out.getvalue()


def _look_at(words: list[str]) -> None:
    """A line of a program that is not run: what of this project it names is there."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets, words
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"\[([\w,-]+)\]", " ".join(words)) if "pip" in words else ():
        assert set(named.split(",")) <= set(extras), words
    assert words[0] in _LOOKED_AT, f"{words}: say why it is not run"


def _compose(words: list[str]) -> None:
    """A command line of qinco, as far as nothing is read or written."""
    job, *rest = words
    if job in cli.JOBS:
        where = ["-cd", str(ROOT / "sweeps")] if "-cd" in rest else []
        rest = [word for number, word in enumerate(rest) if word not in ("-m", "-cd") and rest[number - 1] != "-cd"]
        rest = [word if "[" in word else re.sub(r"(=[^,]*),.*", r"\1", word) for word in rest]  # the first of a sweep
        _said([job, *where, *rest, "--cfg", "job"])
    elif words != [job] or job != "download":
        parser = argparse.ArgumentParser(exit_on_error=False)
        cli.TOOLS[job].add_arguments(parser)
        parser.parse_args(rest)


def _masked(text: str) -> list[str]:
    return [" ".join(re.sub(r"[0-9a-f]{12}|\d[\d.,]*", "#", line).split()) for line in text.strip().splitlines()]


def _bash(block: Block, *, run: bool) -> None:
    said = ""
    for words in command_lines(block.text):
        command = arguments(words)
        if command is None:
            _look_at(words)
        elif run and not needs_data(command):
            said = _said(small(command))
        else:
            _compose(command)
    if run and block.output is not None:
        shown = _masked(block.output)
        printed = [
            line.split()[0] + " …" if f"{line.split()[0]} …" in shown else line
            for line in _masked(said)
            if line.split()[0] != "command"
        ]
        assert printed == shown


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in RUN], ids=lambda page: page.name)
def test_commands_of_the_pages_are_composed(page, sandbox):
    for block in blocks(page):
        if block.reason is None and block.kind == "bash":
            _bash(block, run=False)


@pytest.mark.parametrize("name", RUN)
def test_what_one_follows_is_run(name, sandbox, run_dir, capsys):
    page = next(page for page in PAGES if page.name == name)
    names = {**_names(), "codec": ql.Codec.load(run_dir / "codec")}
    if "RUN_DIR" in page.read_text():
        shutil.copytree(run_dir, sandbox / "RUN_DIR")
    (sandbox / "DIR").symlink_to(run_dir / "codec")
    done = [block for block in blocks(page) if block.reason is None]
    assert done
    names["codes"] = names["codec"].encode(names["x"])
    for block in done:
        if block.kind == "bash":
            _bash(block, run=True)
        else:
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in RUN], ids=lambda page: page.name)
def test_python_of_the_other_pages_runs(page, sandbox, run_dir):
    names = {**_names(), "codec": ql.Codec.load(run_dir / "codec")}
    for block in blocks(page):
        if block.reason is None and block.kind == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)


def _names() -> dict[str, Any]:
    """What texts take for given."""
    x = clustered(300, seed=1)
    return {"ql": ql, "np": np, "os": os, "x": x, "x_train": clustered(500), "queries": clustered(8, seed=2),
            "new_vectors": x[:5] + 0.1, "new_ids": np.arange(5000, 5005), "a": 0, "b": 100}  # fmt: skip
