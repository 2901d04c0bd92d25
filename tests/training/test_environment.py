"""What summaries say of the process: the command, and which source it ran."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from qinco_lit.cli import main
from qinco_lit.environment import environment, git_revision

ROOT = Path(__file__).parents[2]
PACKAGE = "src/qinco_lit"


def _git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _commit(root: Path, *files: str) -> str:
    """Make a repository of files, commit them, return the revision."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("")
    _git(root, "init", "-q")
    _git(root, "add", "-f", ".")
    _git(root, "commit", "-q", "-m", "files")
    return _git(root, "rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_of_a_checkout_its_revision(tmp_path: Path) -> None:
    revision = _commit(tmp_path, f"{PACKAGE}/__init__.py", "docs/page.md")
    package = tmp_path / PACKAGE
    assert git_revision(package) == revision
    (tmp_path / "docs" / "page.md").write_text("not run")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "file").write_text("not run")
    assert git_revision(package) == revision
    (package / "new.py").write_text("")
    assert git_revision(package) == f"{revision}+"
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "new")
    (package / "__init__.py").write_text("changed")
    assert git_revision(package) == f"{_git(tmp_path, 'rev-parse', 'HEAD')}+"


def test_an_environment_inside_a_users_repository_is_not_that(tmp_path: Path) -> None:
    _commit(tmp_path, "analysis.py")
    package = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages" / "qinco_lit"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    assert git_revision(package) is None


def test_an_environment_that_lies_where_our_source_would_is_not_either(tmp_path: Path) -> None:
    _commit(tmp_path, "src/analysis.py")
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").write_text("")  # not tracked
    assert git_revision(tmp_path / PACKAGE) is None


def test_nor_a_copy_that_a_user_has_committed(tmp_path: Path) -> None:
    _commit(tmp_path, "analysis.py", f"third_party/qinco/{PACKAGE}/__init__.py")
    assert git_revision(tmp_path / "third_party" / "qinco" / PACKAGE) is None


def test_without_git_or_a_repository_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PACKAGE).mkdir(parents=True)
    assert git_revision(tmp_path / PACKAGE) is None
    _commit(tmp_path, f"{PACKAGE}/__init__.py")
    monkeypatch.setenv("PATH", "")
    assert git_revision(tmp_path / PACKAGE) is None


def test_a_hook_of_another_repository_does_not_mislead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = _commit(tmp_path / "ours", f"{PACKAGE}/__init__.py")
    _commit(tmp_path / "theirs", f"{PACKAGE}/__init__.py", "more")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "theirs" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "theirs"))
    assert git_revision(tmp_path / "ours" / PACKAGE) == revision


def test_what_decides_about_numbers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_CBWR", raising=False)
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        facts = environment()
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
        torch.use_deterministic_algorithms(False)
    assert facts["hardware"]["torch_threads"] == 1
    assert facts["hardware"]["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert facts["arithmetic"]["float32_matmul_precision"] == "medium"
    assert facts["arithmetic"]["deterministic"] is True
    assert facts["arithmetic"]["variables"]["OMP_NUM_THREADS"] == "3"
    assert "MKL_CBWR" not in facts["arithmetic"]["variables"]
    assert facts["versions"]["torch"] == torch.__version__
    assert json.loads(json.dumps(facts)) == facts


def test_the_command_is_what_was_typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QINCO_COMMAND", "")
    monkeypatch.setattr("sys.argv", ["my script.py", "--fast"])
    assert environment()["command"] == "'my script.py' --fast"  # the packages used without the command line
    assert main(["train", "data_dir=my data", "--cfg", "job"]) == 0
    assert environment()["command"] == "qinco train 'data_dir=my data' --cfg job"
