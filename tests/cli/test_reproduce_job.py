"""`qinco reproduce` from the command line; every command of the shipped scales is one that `qinco` takes."""

import argparse
import re
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qinco_lit.cli.hydra_adapter import opened
from qinco_lit.cli.jobs import _checked_config
from qinco_lit.cli.table import JOBS
from qinco_lit.reproducing.scale import SECTIONS, read_scale
from qinco_lit.reproducing.tasks import Task, expand

CONF = Path(__file__).parents[2] / "conf"
STUB = Path(__file__).parents[1] / "reproduce" / "stub_qinco.py"
SCALES = ["paper", "small", "smoke"]


def _tasks(scale: str) -> list[Task]:
    values = OmegaConf.to_container(OmegaConf.load(CONF / "scale" / f"{scale}.yaml"))
    return expand(read_scale(values))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", SCALES)
def test_every_command_would_be_accepted(scale, tmp_path, monkeypatch):
    here, out = tmp_path / "here", tmp_path / "OUT"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("qinco_lit.codec_folder.check_is_codec", lambda _: None)  # of a task before
    different = {}
    for task in _tasks(scale):  # those that differ in folders, data set or rate only count once
        words = [word for word in task.words(str(out)) if not re.search("^data=|^model.num_steps=|OUT/", word)]
        different.setdefault(tuple(words), task)
    for kind in {task.kind for task in different.values()}:
        with opened(kind, argparse.Namespace(config_path=None, config_dir=None)) as hydra:
            for task in different.values():
                if task.kind == kind:
                    for output in (word.partition("=")[2] for word in task.words(str(out)) if "output=" in word):
                        Path(output).parent.mkdir(parents=True, exist_ok=True)  # as the engine does
                    JOBS[kind].check(_checked_config(hydra, kind, task.words(str(out))[1:]))
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("scale", SCALES)
def test_every_section_is_covered(scale):
    assert {section for task in _tasks(scale) for section in task.sections} == set(SECTIONS)


def test_the_paper_scale_covers_the_tables():
    evaluated = {(t.dataset, t.method, t.num_bytes) for t in _tasks("paper") if "main" in t.sections and t.needs}
    assert evaluated == {
        (dataset, method, num_bytes)
        for dataset in ("bigann1m", "deep1m", "contriever1m", "fb_ssnpp1m")
        for method in ("QINCo1", "QINCo2-S", "QINCo2-M", "QINCo2-L")
        for num_bytes in (8, 16)
    }
    with_baselines = [task.name for task in _tasks("paper") if "baselines=[opq,rq,lsq]" in task.command]
    assert len(with_baselines) == 4 * 2
    twelve = {task.dataset for task in _tasks("paper") if "model.num_blocks=12" in task.command}
    assert twelve == {"contriever1m"}


def test_missing_data_is_listed_with_what_brings_it(qinco, tmp_path):
    outcome = qinco("reproduce", "scale=paper", "only=[main,bigann1m,QINCo1,8B]", "dry_run=true")
    assert outcome.code == 0
    assert outcome.err == (
        "data set bigann1m is missing: `qinco download bigann --small` brings bigann_learn_10M10k.bvecs,"
        " bigann1M.bvecs, bigann_query.bvecs, gnd/idx_1M.ivecs: 1.5 GB and 1 of unknown size\n"
    )
    first = "# missing data, about 10 h 50 min: bigann1m/QINCo1-8B-s0/train [main]\n#   qinco train data=bigann "
    assert first in outcome.out
    assert "2 missing data, 145 skipped\n" in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_are_not_missed(qinco, tmp_path):
    folder = tmp_path / "sets" / "bigann"
    for name in ("bigann_learn_10M10k.bvecs", "bigann1M.bvecs", "gnd/idx_1M.ivecs"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    words = ["reproduce", "scale=paper", "only=[main,bigann1m,QINCo1,8B]", "dry_run=true", "data_dir=sets"]
    assert qinco(*words).err == (
        "data set bigann1m is missing: `qinco download bigann --small` brings bigann_query.bvecs: 0.0 GB\n"
    )
    (folder / "bigann_query.bvecs").touch()
    outcome = qinco(*words)
    assert outcome.err == ""
    assert outcome.out.startswith("export QINCO_DATA=sets\n#")
    assert "\nqinco train data=bigann model=qinco1 recipe=paper " in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scale=x"], "unknown choice scale=x; choose from: paper, small, smoke"),
        (["launcher=pbs"], "unknown choice launcher=pbs; choose from: local, slurm"),
        (["only=[mian]"], "unknown word in only= mian (did you mean main?); choose from: "),
        (["only=main"], "only=main: expected a list in brackets, each text"),
        (["slurm.gpus=many"], "slurm.gpus=many: expected an integer or null"),
        (["scale.seeds=[x]"], "scale.seeds=['x']: expected a list in brackets, each an integer"),
    ],
)
def test_mistakes_cost_one_line(refused, words, message):
    assert refused("reproduce", *words).startswith(message)


def test_a_scale_of_ones_own_runs_and_reports(qinco, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "stub.log"))
    monkeypatch.setattr("qinco_lit.reproducing.reproduce.QINCO", (sys.executable, str(STUB)))
    (tmp_path / "mine" / "scale").mkdir(parents=True)
    (tmp_path / "mine" / "scale" / "mine.yaml").write_text(
        "hardware: a stub\nseeds: [0, 1]\n"
        "datasets: {photos: {options: [data=photo_sift]}}\n"
        "methods: {T: {name: Tiny, train: [model=qinco2_tiny], train_s: 1}}\n"
        "main: {datasets: [photos], methods: [T], num_bytes: [8], baselines: [rq]}\n"
    )
    words = ["reproduce", "-cd", "mine", "scale=mine", "only=[8B]"]
    outcome = qinco(*words)
    assert outcome.code == 0, outcome.err
    output = tmp_path / "outputs" / "reproduce-iclr" / "mine"
    assert "[3 of 4 done, about 10 s left] running photos/T-8B-s1/evaluate, about 10 s" in outcome.err
    assert outcome.err.endswith("4 tasks: 4 done\nreport: outputs/reproduce-iclr/mine/report.html\n")
    assert {path.name for path in output.iterdir()} == {
        "photos", "plots", "report.html", "report.md", "results.json",
    }  # fmt: skip
    assert "RQ" in (output / "report.md").read_text()
    calls = len((tmp_path / "stub.log").read_text().splitlines())
    assert qinco(*words).code == 0
    assert len((tmp_path / "stub.log").read_text().splitlines()) == calls == 4
    monkeypatch.setenv("STUB_FAILS", "T-8B-s2")
    assert qinco(*words, "scale.seeds=[0,2]").code == 1
