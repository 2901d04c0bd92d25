"""A value that Hydra cannot read: the line shows how to type it, and what it shows is read as it was meant."""

import shlex
from pathlib import Path

import pytest

from qinco_lit import cli

VALUES = [
    "a=b.npy", "a,b.npy", "é.npy", "a#b", "a(b", "a)b", "it's", 'a"b', "[a", "a{b", "a;b", "a&b|c<d>e", "a!b*c?",
    "a=${x}", "a=\\", '=\\"', "a=b'c\"d e",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_what_the_line_shows_is_read_as_it_was_meant(qinco, refused, monkeypatch, value):
    given: list[str] = []
    job = cli.Job("", lambda config: None, lambda config, run_dir: given.append(config["data"]["train"]))
    monkeypatch.setitem(cli.JOBS, "train", job)
    line = refused("train", "data=files", f"data.train={value}")
    shown = line[line.rindex("data.train=") :]
    assert line.startswith(f"data.train={value} c")
    [word] = shlex.split(shown)
    assert qinco("train", "data=files", word).code == 0
    assert given == [value]


def test_of_several_values_each_reading_is_shown(refused):
    assert refused("train", "model.num_steps=8,16") == (
        "model.num_steps=8,16 could be several values: for a sweep over them add --multirun, for a list give "
        "'model.num_steps=[8,16]', for one text model.num_steps='\"8,16\"'"
    )


def test_the_home_folder_is_meant_by_a_tilde(refused, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    line = refused("train", "data=files", "data.train=~/x.npy")
    assert line.endswith("quote the value, data.train='\"/home/me/x.npy\"'")


def test_a_run_folder_of_any_name_can_be_resumed(qinco, monkeypatch, tmp_path: Path):
    folders: list[Path] = []
    job = cli.Job("", lambda config: None, lambda config, run_dir: folders.append(run_dir))
    monkeypatch.setitem(cli.JOBS, "train", job)
    name = 'a "run" of one = é\\'
    (tmp_path / name / ".hydra").mkdir(parents=True)
    (tmp_path / name / ".hydra" / "config.yaml").write_text("resume: null")
    monkeypatch.chdir(tmp_path / name)
    assert qinco("train", "resume=.").err == ""
    assert folders == [tmp_path / name]
