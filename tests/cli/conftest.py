"""`qinco`: run a command line in this process, in an empty folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from qinco_lit import cli


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Qinco = Callable[..., Outcome]


@pytest.fixture
def qinco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Qinco:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QINCO_DEBUG", raising=False)

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        try:
            code = cli.main(list(arguments))
        except SystemExit as stop:  # Hydra ends --help and bugs this way
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def refused(qinco: Qinco, tmp_path: Path) -> Callable[..., str]:
    """Run a command line that must be refused; return its one line. Nothing may be left in the folder."""

    def run(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        outcome = qinco(*arguments)
        assert outcome.code == 2, outcome
        assert outcome.out == ""
        assert outcome.err.count("\n") == 1, outcome.err
        assert outcome.err.startswith("qinco: error: ")
        assert sorted(tmp_path.rglob("*")) == before
        return outcome.err.removeprefix("qinco: error: ").rstrip("\n")

    return run
