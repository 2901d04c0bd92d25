"""The wheel carries both packages and the configs, and works from a folder that is not the clone, notebook included."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

_USE = """
import sys
from pathlib import Path
import qinco_lit, datamodules
from qinco_lit.cli import main
site = Path(sys.argv[1])
assert Path(qinco_lit.__file__).is_relative_to(site) and Path(datamodules.__file__).is_relative_to(site)
for path in sorted((site / "qinco_lit" / "conf").glob("*/*.yaml")):
    if path.parent.name not in ("hydra", "specialize", "scale"):
        job = "train" if path.parent.name != "data" else "evaluate"
        try:
            assert main([job, f"{path.parent.name}={path.stem}", "--cfg", "job"]) == 0, path
        except SystemExit as stop:
            assert not stop.code, path
assert qinco_lit.Codec and qinco_lit.open_vectors and "Codec" in dir(qinco_lit)
assert not list(Path.cwd().iterdir())
"""
_NOTEBOOK = """
import json, sys
from pathlib import Path
sys.path.append(sys.argv[2])
from execute import TOUR, execute
import qinco_lit
assert Path(qinco_lit.__file__).is_relative_to(sys.argv[1])
notebook = json.loads(TOUR.read_text())
execute(notebook, {"num_train": 1200, "num_database": 300, "num_queries": 30, "max_epochs": 1})
json.dump(notebook, sys.stdout)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    # a copy, so that the build leaves nothing in the clone and takes nothing from an earlier build
    for name in ("pyproject.toml", "README.md", "LICENSE", "src", "conf", "datamodules"):
        subprocess.run(["cp", "-a", str(ROOT / name), str(source)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(source)], check=True, cwd=folder, capture_output=True)
    [path] = folder.glob("*.whl")
    return path


def test_wheel_holds_the_same_configs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        shipped = {
            name.removeprefix("qinco_lit/conf/") for name in archive.namelist() if name.startswith("qinco_lit/conf/")
        }
        tops = {name.split("/")[0] for name in archive.namelist() if ".dist-info" not in name}
    expected = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert {name for name in shipped if name.endswith(".yaml")} == expected
    assert tops == {"qinco_lit", "datamodules"}


def test_wheel_holds_what_pages_are_made_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert {f"qinco_lit/reports/kit/page.{end}" for end in ("html", "css", "js", "py")} <= set(archive.namelist())


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed."""
    site = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    return site


def _run(code: str, site: Path, *arguments: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code, str(site), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(site)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_wheel_works_from_any_folder(site, tmp_path):
    _run(_USE, site, cwd=tmp_path)


def test_notebook_runs_with_the_wheel_and_its_outputs_are_those_of_its_code(site, tmp_path):
    stored = json.loads((ROOT / "notebooks" / "tour.ipynb").read_text())
    ran = json.loads(_run(_NOTEBOOK, site, str(ROOT / "notebooks"), cwd=tmp_path))
    assert not list(tmp_path.iterdir())
    assert [_shape(cell) for cell in ran["cells"]] == [_shape(cell) for cell in stored["cells"]]


def _shape(cell: dict[str, Any]) -> tuple[Any, ...]:
    """A cell, and what came out of it, but for numbers and what pictures show."""
    outputs = [
        (
            output["output_type"],
            [re.sub(r"[\d.]+", "#", line) for line in output.get("text", [])],
            *output.get("data", {}),
        )
        for output in cell.get("outputs", [])
    ]
    return cell["cell_type"], cell["source"], cell.get("execution_count"), outputs
