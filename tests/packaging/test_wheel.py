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
# one of each group; that all are there, and that they are composed where they lie, is tested apart
for group in ("coarse", "data", "logger", "model", "recipe", "trainer"):
    path = max((site / "qinco_lit" / "conf" / group).glob("*.yaml"))
    try:
        assert main(["train", f"{group}={path.stem}", "--cfg", "job"]) == 0, path
    except SystemExit as stop:
        assert not stop.code, path
assert qinco_lit.Codec and qinco_lit.open_vectors and "Codec" in dir(qinco_lit)
import json
sys.path.append(sys.argv[2])
from execute import TOUR, execute
notebook = json.loads(TOUR.read_text())
execute(notebook, {"num_train": 1200, "num_database": 300, "num_queries": 30, "max_epochs": 1})
assert not list(Path.cwd().iterdir())
print(json.dumps(notebook))
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


def test_wheel_works_from_any_folder_and_runs_the_notebook_with_the_outputs_it_has(site, tmp_path):
    stored = json.loads((ROOT / "notebooks" / "tour.ipynb").read_text())
    result = subprocess.run(
        [sys.executable, "-c", _USE, str(site), str(ROOT / "notebooks")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    ran = json.loads(result.stdout.splitlines()[-1])
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
