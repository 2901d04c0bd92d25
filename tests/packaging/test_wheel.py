"""The wheel carries both packages and the configs, and works from a folder that is not the clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

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


def test_wheel_works_from_any_folder(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    result = subprocess.run(
        [sys.executable, "-c", _USE, str(site)],
        cwd=elsewhere,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
