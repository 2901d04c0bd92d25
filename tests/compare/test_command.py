"""`qinco compare` from the command line."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from qinco_lit.reports.compare import plots
from tests.compare.conftest import edit, search_record

TRAIN = [
    "data=files", "data.num_val=100", "data.train=train.npy", "data.database=base.npy", "data.queries=queries.npy",
]  # fmt: skip
MODEL = [
    "model=qinco2_tiny", "model.num_steps=2", "model.codebook_size=16", "model.num_candidates=4",
    "recipe.batch_size=100", "logger=none", "trainer.accelerator=cpu", "trainer.max_epochs=2",
]  # fmt: skip


def test_runs_of_this_very_version(qinco, tmp_path, caplog):
    generator = np.random.default_rng(0)
    for name, rows in {"train": 600, "base": 200, "queries": 10}.items():
        np.save(tmp_path / f"{name}.npy", generator.normal(size=(rows, 8)).astype(np.float32))
    trained = qinco("train", *TRAIN, *MODEL, "hydra.run.dir=runs/train")
    assert trained.code == 0, trained.err
    for beam_size in (1, 3):
        options = ["codec=runs/train/codec", *TRAIN, "device=cpu", f"hydra.run.dir=runs/{beam_size}"]
        evaluated = qinco("evaluate", *options, f"beam_size={beam_size}", "baselines=[rq]")
        assert evaluated.code == 0, evaluated.err
    caplog.clear()
    compared = qinco("compare", "runs", "--output", "out")
    assert (compared.code, caplog.messages) == (0, [])
    header = next(line.split() for line in compared.out.splitlines() if line.startswith("run "))
    assert header[:3] == ["run", "method", "beam_size"]
    rows = [line.split() for line in compared.out.splitlines() if re.match(r"[13] |RQ, ", line)]
    assert sorted(row[:3] for row in rows) == [["1", "QINCo2", "1"], ["3", "QINCo2", "3"], ["RQ,", "1", "bytes"]]
    summary = json.loads((tmp_path / "runs" / "train" / "summary.json").read_text())
    for beam_size in ("1", "3"):
        record = json.loads((tmp_path / "runs" / beam_size / "metrics.json").read_text())
        [row] = [row for row in rows if row[0] == beam_size]
        assert row[3:5] == [f"{each:.4g}" for each in (record["methods"]["codec"]["mse"], summary["best_val_mse"])]
    assert re.search(r"The same in all: data=files, model=qinco2_tiny, coarse=none, .* and \d+ more", compared.out)


def test_everything_is_written(make, qinco, tmp_path):
    make("runs/a", evaluated=True)
    make("runs/b", lr=0.001)
    (tmp_path / "runs" / "search").mkdir()
    (tmp_path / "runs" / "search" / "search.json").write_text(json.dumps(search_record()))
    outcome = qinco("compare", "runs")
    assert outcome.code == 0
    [folder] = (tmp_path / "outputs" / "compare").iterdir()
    assert outcome.out.rstrip("\n").endswith(f"page: outputs/compare/{folder.name}/compare.html")
    plots = (
        "learning_epochs",
        "learning_time",
        "mse_bytes",
        "mse_encode_time",
        "search_recall_at_1",
        "search_recall_at_10",
    )
    drawn = {f"{name}.{suffix}" for name in plots for suffix in ("svg", "png")}
    assert {path.name for path in folder.iterdir()} == drawn | {"compare.csv", "compare.md", "compare.html"}
    assert all((folder / name).stat().st_size > 1000 for name in drawn)
    page, markdown = (folder / "compare.html").read_text(), (folder / "compare.md").read_text()
    for name in plots:
        assert f"]({name}.svg)" in markdown
    assert page.count("<svg") == len(plots)
    assert 'href="../../../runs/a"' in page
    assert page.count("<table") == 2 + 2  # and what is the same in all


def test_each_data_set_has_its_own_plots(make, qinco, tmp_path):
    for name in "ab":
        make(f"runs/{name}")
    edit(tmp_path / "runs" / "b" / "config.json", lambda record: record["choices"].update(data="big/ann"))
    assert qinco("compare", "runs", "--output", "out").code == 0
    curves = {path.name for path in (tmp_path / "out").glob("learning_epochs*.svg")}
    assert curves == {"learning_epochs_photo_sift.svg", "learning_epochs_big_ann.svg"}


def test_filters(make, qinco, refused):
    for name, lr in (("small", 0.001), ("middle", 0.002), ("large", 0.004)):
        make(f"runs/{name}", lr=lr)

    def rows(*filters: str) -> list[str]:
        arguments = [word for each in filters for word in ("--filter", each)]
        outcome = qinco("compare", "runs", "--output", "out", *arguments)
        assert outcome.code == 0, outcome.err
        return sorted(re.findall(r"^(small|middle|large) ", outcome.out, re.MULTILINE))

    assert rows("recipe.lr=0.004") == ["large"]
    assert rows("name=*l*", "recipe.lr=0.00[12]") == ["middle", "small"]
    assert rows("state=finished", "model=qinco2_tiny") == ["large", "middle", "small"]
    assert refused("compare", "runs", "--filter", "lr") == "--filter lr is not of the form KEY=VALUE"
    assert refused("compare", "runs", "--filter", "recipe.lrr=1") == (
        "--filter recipe.lrr=1: no row has the option recipe.lrr (did you mean recipe.lr?)"
    )
    assert refused("compare", "runs", "--filter", "recipe.lr=1") == (
        "--filter recipe.lr=1: no row passes; recipe.lr is one of 0.001, 0.002, 0.004"
    )


def test_mistakes_are_one_line(make, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert refused("compare", "empty") == (
        "nothing to compare in empty: no summary.json, metrics.json or search.json is readable there"
    )
    assert refused("compare", "nowhere", "empty") == (
        "nowhere does not exist: give folders of runs, sweeps, evaluations or searches"
    )
    assert refused("compare", "file") == "file is a file: give the folder it lies in"
    assert "required: PATH" in refused("compare")
    make("run")
    assert refused("compare", "run", "--sort-by", "msee").startswith(
        "unknown metric msee (did you mean mse?); choose from: best_val_mse, bytes_per_vector, "
    )


def test_a_broken_folder_is_told_in_one_line_and_the_rest_is_compared(make, qinco, tmp_path, caplog):
    make("runs/whole")
    (make("runs/half") / "summary.json").write_text('{"state": "fin')
    outcome = qinco("compare", "runs", "--output", "out")
    assert outcome.code == 0
    [warning] = caplog.messages
    assert warning.startswith("left out runs/half: summary.json is no JSON (Unterminated string")
    assert "1 folders or lines left out" in (tmp_path / "out" / "compare.html").read_text()


def test_errors_of_any_size_are_shown(make, qinco, tmp_path, caplog):
    make("runs/whole")
    odd = make("runs/odd")
    lines = [{"step": 1, "epoch": 0, "val/mse": 1e308}, {"step": 2, "epoch": 1, "val/mse": 1e-8}]
    (odd / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    edit(odd / "summary.json", lambda record: record.update(best_val_mse=1e308))
    outcome = qinco("compare", "runs", "--output", "out")
    assert (outcome.code, caplog.messages) == (0, [])
    assert "1e+308" in outcome.out
    assert (tmp_path / "out" / "learning_epochs.svg").exists()


def test_a_plot_that_cannot_be_drawn_is_told_and_the_others_go_on(make, qinco, tmp_path, caplog, monkeypatch):
    make("runs/a", evaluated=True)
    whole = plots.figure_of

    def fails(panel, *rest):
        if panel.name == "learning_time":
            raise ValueError("no such axis")
        return whole(panel, *rest)

    monkeypatch.setattr(plots, "figure_of", fails)
    assert qinco("compare", "runs", "--output", "out").code == 0
    assert caplog.messages == ["left out the plot learning_time: no such axis"]
    assert "left out the plot learning_time" in (tmp_path / "out" / "compare.html").read_text()
    assert {path.stem for path in (tmp_path / "out").glob("*.svg")} == {
        "learning_epochs", "mse_bytes", "mse_encode_time",
    }  # fmt: skip


def test_names_of_any_kind_go_everywhere_as_they_are(make, qinco, tmp_path, caplog):
    evil = "a#b?c=%41", "javascript:alert(1)", "<b>x|y", "e\x1b[31m\ty", "\u4e2d[/red]"
    for name in evil:
        make(f"runs/{name}")
    option = {"odd": "<i>|\n\x1b[0m[/red]"}
    edit(tmp_path / "runs" / evil[0] / "config.json", lambda record: record["recipe"].update(option))
    edit(tmp_path / "runs" / evil[1] / "config.json", lambda record: record["recipe"].update(odd="other"))
    outcome = qinco("compare", "runs", "--output", "runs/out")
    assert (outcome.code, caplog.messages) == (0, [])
    assert "\x1b" not in outcome.out
    page, table = ((tmp_path / "runs" / "out" / f"compare.{suffix}").read_text() for suffix in ("html", "md"))
    assert 'href="../a%23b%3Fc%3D%2541"' in page
    assert 'href="../javascript%3Aalert%281%29"' in page
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "| &lt;b&gt;x\\|y |" in table
    assert "| &lt;i&gt;\\| [0m[/red] |" in table
    assert not {"\x1b", "<"} & set(table)


def test_a_page_above_its_runs_links_to_them(make, qinco, tmp_path):
    make("runs/a:b")
    assert qinco("compare", "runs", "--output", ".").code == 0
    assert 'href="./runs/a%3Ab"' in (tmp_path / "compare.html").read_text()


def test_a_metric_that_no_row_has_is_told(make, qinco, caplog):
    make("run")
    assert qinco("compare", "run", "--sort-by", "queries_per_s", "--output", "out").code == 0
    assert caplog.messages == ["no row has queries_per_s: sorted by MSE and recall"]


def test_a_training_that_has_reported_nothing_yet(make, qinco, tmp_path):
    folder = make("run")
    (folder / "metrics.jsonl").unlink()
    edit(folder / "summary.json", lambda record: [record.pop(name) for name in ("best_val_mse", "epochs", "wall_s")])
    edit(folder / "summary.json", lambda record: record.update(state="running"))
    assert qinco("compare", "run", "--output", "out").code == 0
    assert not list((tmp_path / "out").glob("*.svg"))


def test_what_only_training_needs_is_not_imported(make, tmp_path):
    make("run", evaluated=True)
    code = (
        "import sys; from qinco_lit.cli import main; "
        "assert main(['compare', 'run', '--output', 'out']) == 0; "
        "heavy = {'torch', 'pytorch_lightning', 'faiss', 'h5py', 'hydra', 'omegaconf', 'wandb', 'yaml'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("num_runs", [12])
def test_hundreds_of_lines_are_one_path(make, qinco, tmp_path, num_runs):
    for number in range(num_runs):
        make(f"runs/{number}", seed=number)
    assert qinco("compare", "runs", "--output", "out").code == 0
    svg = (tmp_path / "out" / "learning_epochs.svg").read_text()
    assert svg.count("#a0a0a0") == 1  # the grey ones, all in one
    assert (
        f"In colour the best 8 of {num_runs}, of each number of bytes; the others grey."
        in (tmp_path / "out" / "compare.html").read_text()
    )
