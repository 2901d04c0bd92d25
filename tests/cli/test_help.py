"""Help is useful and quick: it does not import what only the work needs."""

import subprocess
import sys

import pytest

from qinco_lit import __version__
from qinco_lit.cli import JOBS, TOOLS
from qinco_lit.cli.help_text import CONFIG

_WITHOUT_HEAVY_IMPORTS = """
import sys
from qinco_lit.cli import main
for line in sys.stdin.read().splitlines():
    try:
        main(line.split())
    except SystemExit as stop:
        assert not stop.code, line
heavy = {"torch", "pytorch_lightning", "wandb", "faiss", "matplotlib", "h5py", "datamodules"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_configs_and_what_is_known_of_a_run_import_nothing_heavy(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    lines = [
        "",
        "--help",
        "--version",
        "train --help",
        "evaluate --help",
        "centroids --help",
        "encode --help",
        "encode data=bigann --help",
        "decode --help",
        "index --help",
        "search --help",
        "plan --help",
        "plan data=bigann model=qinco2_l --cfg job",
        "reproduce --help",
        "reproduce scale=paper --cfg job",
        "info --help",
        f"info {tmp_path}",
        "import --help",
        "export --help",
        "fit-preselector --help",
        "download --help",
        "compare --help",
        "verify --help",
        "truncate --help",
        "train model=pq_qinco opq=true --cfg job",
        "train --cfg job",
        "train model=x",
    ]
    result = subprocess.run(
        [sys.executable, "-c", _WITHOUT_HEAVY_IMPORTS],
        input="\n".join(lines),
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_overview_has_every_command_once_below_what_it_is_for(qinco, arguments):
    outcome = qinco(*arguments)
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    commands, begin = lines[: lines.index("Begin with:")], lines[lines.index("Begin with:") + 1 :]
    assert sorted(line.split()[0] for line in commands if line.startswith("  ")) == sorted([*JOBS, *TOOLS])
    assert len([line for line in commands if line.endswith(":")]) > 3
    assert all(line.split()[1] in {**JOBS, **TOOLS} for line in begin if line.startswith("  qinco "))


def test_version(qinco):
    assert qinco("--version").out == f"qinco_lit {__version__}\n"


@pytest.mark.parametrize(
    ("job", "parts"),
    [
        (
            "train",
            [
                "data      bigann, ",
                "model     pq_qinco, pq_qinco2, qinco1, qinco2",
                "opq=true is short for model.opq=true",
                "coarse    ivf, none",
                "recipe    paper, tuned",
                "logger    none, wandb",
            ],
        ),
        (
            "train",
            ["resume=RUN_DIR", "trainer.max_epochs", "-m, --multirun", "Examples:", "  num_steps: 8", "QINCO_DEBUG"],
        ),
        ("evaluate", ["data      bigann, ", "codec=DIR", "baselines=[pq,opq,rq,lsq]", "Examples:", "beam_size: null"]),
        (
            "centroids",
            ["data      bigann, ", "num_lists=N", "output=FILE.npy", "Examples:", "max_training_rows: null"],
        ),
        (
            "encode",
            ["data      bigann, ", "codec=DIR", "merge=true", "Examples:", "  devices: auto", "shard_rows: null"],
        ),
        ("decode", ["codes=FILE.h5", "num_steps=M", "Examples:", "stop: null"]),
        (
            "index",
            [
                "data      bigann, ",
                "codes=FILE.h5",
                "parts=P",
                "on_disk=true",
                "of torch and faiss (null: as many as each takes by itself, all cores)",
                "Examples:",
                "num_training: 200000",
            ],
        ),
        (
            "search",
            [
                "data      bigann, ",
                "logger    none, wandb",
                "index=DIR",
                "baselines=[ivf_pq,",
                "no such stage (null: 4, 16, 64, 0)",
                "of torch and faiss (null: as many as each takes by itself, all cores)",
                "nprobe: null",
            ],
        ),
        (
            "reproduce",
            ["scale     paper, small, smoke", "dry_run=true", "launcher=slurm", "Examples:", "launcher: local"],
        ),
        (
            "plan",
            [
                "model     pq_qinco, ",
                "short for model.opq=true",
                "codec=DIR or model=CHOICE",
                "Examples:",
                "seconds: 3.0",
                "max_epochs: 60",
            ],
        ),
    ],
)
def test_job_help_names_choices_defaults_and_examples(qinco, monkeypatch, job, parts):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = qinco(job, "--help")
    assert outcome.code == 0
    said = " ".join(outcome.out.split())  # lines are folded to fit the terminal
    assert not [part for part in parts if " ".join(part.split()) not in said]
    assert max(map(len, outcome.out.split(CONFIG)[0].splitlines())) <= 80
    assert "$" not in outcome.out.replace("${", "")


def test_help_says_on_narrow_terminals_what_it_says_on_wide_ones(qinco, monkeypatch):
    said = []
    for columns in (80, 1000):
        monkeypatch.setenv("COLUMNS", str(columns))
        said.append(qinco("train", "--help").out)
    narrow, wide = said
    assert narrow.replace("\\\n", "").split() == wide.split()  # a command goes on behind a backslash
    assert narrow.split(CONFIG)[1] == wide.split(CONFIG)[1]
    assert "  data.limit_train=N                         train on the first N vectors only\n" in wide


def test_tool_help(qinco):
    for tool, argument in {"import": "--output PATH", "export": "--output FILE", "verify": "PATH"}.items():
        assert argument in qinco(tool, "--help").out
