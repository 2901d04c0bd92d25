"""Around the jobs of a sweep: which are refused, what a failed one leaves, and how the same sweep goes on."""

import json

import pytest
from hydra.core.config_store import ConfigStore

from qinco_lit.cli.sweeps import num_devices, several_processes
from qinco_lit.cli.tracking import run_name
from tests.sweeps.conftest import SWEEPS

BEAM = ["train", "-cd", str(SWEEPS), "-cn", "beam"]


def _done(config, run_dir):
    (run_dir / "metrics.jsonl").write_text("{}\n")
    return float(config["model"]["beam_size"])


def _numbers(calls):
    return [(run_dir.name, config["model"]["beam_size"]) for config, run_dir in calls]


def test_a_file_starts_a_sweep_without_m(qinco, job, tmp_path):
    calls = job(_done)
    assert qinco(*BEAM, "model.beam_size=2,4").code == 0
    assert _numbers(calls) == [("0", 2), ("1", 4)]
    (folder,) = (tmp_path / "multirun" / "train").iterdir()
    assert folder.name.startswith("beam_")
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "multirun.yaml"]


def test_one_job_of_a_sweep_file(qinco, job, tmp_path):
    calls = job(_done)
    assert qinco(*BEAM, "hydra.mode=RUN", "model.beam_size=2", "hydra.run.dir=one").code == 0
    assert _numbers(calls) == [("one", 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.beam_size=1,x"], "model.beam_size=x: expected an integer"),
        (["model.beam_siz=1,2"], "unknown option model.beam_siz (did you mean beam_size?)"),
        (["data=bigan"], "unknown choice data=bigan (did you mean bigann?)"),
        (["hydra/launcher=jobli"], "unknown choice hydra/launcher=jobli (did you mean joblib?)"),
        (["trainer.max_epochs=1,0"], "trainer.max_epochs=0: give at least 1"),
    ],
)
def test_every_value_of_a_file_is_checked_before_anything_is_made(refused, job, arguments, message):
    job(_done)
    assert refused(*BEAM, *arguments).startswith(message)


def test_a_sweep_file_that_does_not_compose_says_why(refused, job, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "wrong.yaml").write_text("defaults: [train, override model: qinco9, _self_]\n")
    assert "Could not find 'model/qinco9'" in refused("train", "-cd", "mine", "-cn", "wrong")


@pytest.mark.parametrize("launcher", ["joblib", "ray", "submitit_local", "submitit_slurm"])
def test_a_missing_launcher_is_one_line(refused, monkeypatch, tmp_path, launcher):
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], f"{launcher}.yaml", raising=False)
    extra = {"joblib": "joblib", "ray": "ray-launcher"}.get(launcher, "slurm")
    expected = f"hydra/launcher={launcher} is not installed: pip install 'qinco_lit[{extra}]'"
    assert refused(*BEAM, f"hydra/launcher={launcher}") == expected
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "far.yaml").write_text(
        f"defaults: [train, override hydra/launcher: {launcher}, _self_]\nhydra:\n  mode: MULTIRUN\n"
    )
    assert refused("train", "-cd", "mine", "-cn", "far") == expected


# --- processes of a job's own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launcher", "option"),
    [
        ("basic", "trainer.devices=4"),
        ("basic", "trainer.num_nodes=2"),
        ("joblib", "trainer.devices=[0,1]"),
        ("submitit_local", "trainer.strategy=ddp"),
    ],
)
def test_jobs_with_several_processes_are_refused(refused, job, launcher, option):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher" if launcher == "joblib" else "hydra_plugins")
    if launcher == "submitit_local":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    job(_done)
    devices = {"trainer.devices=4": 4, "trainer.devices=[0,1]": 2}.get(option, 1)
    typed = f"'{option}'" if "[" in option else option
    assert refused(*BEAM, option, f"hydra/launcher={launcher}", "model.beam_size=2,4") == (
        f"{option} in a sweep: the processes that it starts would each run the whole sweep. Either leave it to SLURM "
        f"(hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node={devices}), or run the jobs one by one: "
        f"for beam_size in 2 4; do qinco train -cd {SWEEPS} -cn beam hydra.mode=RUN model.beam_size=$beam_size "
        f"{typed}; done (docs/sweeps.md)"
    )


def test_what_the_refusal_proposes_is_accepted(qinco, refused, job):
    calls = job(_done)
    proposed = [*BEAM, "hydra.mode=RUN", "model.beam_size=2", "trainer.devices=4", "hydra.run.dir=one"]
    assert qinco(*proposed).code == 0
    assert calls[0][0]["trainer"]["devices"] == 4


def test_slurm_starts_the_processes_itself(refused, job):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    slurm = [*BEAM, "hydra/launcher=submitit_slurm", "trainer.devices=8"]
    needs = "in a sweep on SLURM needs hydra.launcher.{}: SLURM starts its processes"
    assert refused(*slurm) == f"trainer.devices=8 {needs.format('tasks_per_node=8')}"
    assert refused(*slurm, "hydra.launcher.tasks_per_node=8", "trainer.num_nodes=2") == (
        f"trainer.num_nodes=2 {needs.format('nodes=2')}"
    )


@pytest.mark.parametrize(
    ("trainer", "number"),
    [
        ({"devices": 1}, 1),
        ({"devices": "2"}, 2),
        ({"devices": "0,1,3"}, 3),
        ({"devices": [0, 1]}, 2),
        ({"devices": [3]}, 1),
        ({"devices": "auto", "accelerator": "cpu"}, 1),
        ({"devices": -1, "accelerator": "cpu"}, 1),
        ({"devices": "auto", "accelerator": "auto"}, 5),
        ({"devices": "-1", "accelerator": "gpu"}, 5),
    ],
)
def test_devices_are_counted_as_lightning_counts_them(monkeypatch, trainer, number):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    assert num_devices(trainer) == number
    assert (several_processes(trainer) is None) == (number == 1)


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_failed_job_leaves_its_reason_and_the_others_go_on(qinco, job, tmp_path):
    def run(config, run_dir):
        if config["model"]["beam_size"] == 4:
            raise ValueError("the loss\nis NaN")
        if config["model"]["beam_size"] == 8:
            raise RuntimeError("a bug")
        return _done(config, run_dir)

    calls = job(run)
    outcome = qinco(*BEAM, "model.beam_size=2,4,8,16", "hydra.sweep.dir=sweep")
    assert [run_dir.name for _, run_dir in calls] == ["0", "1", "2", "3"]
    assert (tmp_path / "sweep" / "1" / "failed.txt").read_text() == "the loss. is NaN\n"
    log = tmp_path / "sweep" / "2" / "train.log"
    bug = f"RuntimeError: a bug (the traceback is in {log})"
    assert (tmp_path / "sweep" / "2" / "failed.txt").read_text() == f"{bug}\n"
    assert "Traceback" in log.read_text()
    assert not (tmp_path / "sweep" / "3" / "failed.txt").exists()
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1] == (
        f"qinco: error: 2 of 4 jobs failed (1: the loss. is NaN; 2: {bug}); the same command with "
        "hydra.sweep.dir=sweep tries them again"
    )
    assert outcome.err.count("the loss. is NaN") == 2  # when it happened, and at the end
    again = job(_done)
    assert qinco(*BEAM, "model.beam_size=2,4,8,16", "hydra.sweep.dir=sweep").code == 0
    assert len(again) == 4
    assert not list((tmp_path / "sweep").glob("*/failed.txt"))


def test_a_mistake_of_all_jobs_ends_the_sweep_at_the_first(refused, qinco, job, tmp_path):
    def run(config, run_dir):
        raise FileNotFoundError("train.npy is missing")

    calls = job(run)
    outcome = qinco(*BEAM, "model.beam_size=2,4")
    assert (outcome.code, len(calls)) == (2, 1)
    assert outcome.err.splitlines()[-1] == "qinco: error: train.npy is missing"
    assert not list(tmp_path.iterdir())


def test_an_interrupted_sweep_says_how_it_goes_on(qinco, job):
    def run(config, run_dir):
        raise KeyboardInterrupt

    calls = job(run)
    outcome = qinco(*BEAM, "model.beam_size=2,4", "hydra.sweep.dir=sweep")
    assert (outcome.code, len(calls)) == (130, 1)
    assert "the rest of the sweep: the same command with hydra.sweep.dir=sweep\n" in outcome.err


# --- the same sweep again --------------------------------------------------------------------------------------------


def test_another_sweep_in_the_same_folder_is_refused(qinco, refused, job, tmp_path):
    job(_done)
    assert qinco(*BEAM, "model.beam_size=2,4", "hydra.sweep.dir=sweep", "seed=1").code == 0
    expected = "sweep/1 is the run of model.beam_size=4, not of model.beam_size=8: choose another hydra.sweep.dir"
    assert refused(*BEAM, "model.beam_size=2,8", "hydra.sweep.dir=sweep", "seed=1") == expected
    expected = "sweep/0 is the run of seed=1, not of fewer options: choose another hydra.sweep.dir"
    assert refused(*BEAM, "model.beam_size=2,4", "hydra.sweep.dir=sweep") == expected
    more = job(_done)
    assert qinco(*BEAM, "model.beam_size=2,4,8", "hydra.sweep.dir=sweep", "seed=1").code == 0
    assert _numbers(more) == [("0", 2), ("1", 4), ("2", 8)]


def test_finished_jobs_are_left_alone_and_others_resumed(qinco, monkeypatch, tmp_path):
    """The work of `train` is replaced below the command, whose folders it finds."""
    calls = []

    def train(*, run_dir, resume, overrides, **_):
        calls.append((run_dir.name, resume, bool(overrides)))
        return 1.0

    monkeypatch.setattr("qinco_lit.training.job.train_in_folder", train)
    command = [*BEAM, "model.beam_size=1,2,4", "data=files", "data.train=train.npy", "hydra.sweep.dir=sweep"]
    monkeypatch.setattr("qinco_lit.data.data_module.data_module", lambda *_, **__: None)
    assert qinco(*command).code == 0
    assert calls == [("0", False, True), ("1", False, True), ("2", False, True)]
    (tmp_path / "sweep" / "0" / "summary.json").write_text(json.dumps({"state": "finished", "best_val_mse": 3.5}))
    (tmp_path / "sweep" / "1" / "summary.json").write_text(json.dumps({"state": "interrupted"}))
    (tmp_path / "sweep" / "1" / "checkpoints").mkdir()
    (tmp_path / "sweep" / "1" / "checkpoints" / "last.ckpt").touch()
    calls.clear()
    outcome = qinco(*command)
    assert outcome.code == 0
    assert calls == [("1", True, False), ("2", False, True)]
    assert f"{tmp_path / 'sweep' / '0'} is finished: validation MSE 3.5" in outcome.err


def _began(config, run_dir):
    """What a training leaves that has begun."""
    (run_dir / "config.json").write_text(json.dumps(config | {"choices": {"model": "qinco2_tiny"}}))
    return _done(config, run_dir)


MINE = ["train", "-cd", "mine", "-cn", "mine", "model.beam_size=2,4", "hydra.sweep.dir=sweep"]


def _write_sweep(tmp_path, body):
    (tmp_path / "mine").mkdir(exist_ok=True)
    (tmp_path / "mine" / "mine.yaml").write_text(f"defaults: [train, _self_]\nhydra: {{mode: MULTIRUN}}\n{body}\n")


def test_a_sweep_whose_file_has_changed_is_refused(qinco, refused, job, tmp_path):
    job(_began)
    _write_sweep(tmp_path, "trainer: {max_epochs: 1}")
    assert qinco(*MINE).code == 0
    before = (tmp_path / "sweep" / "0" / ".hydra" / "config.yaml").read_bytes()
    _write_sweep(tmp_path, "trainer: {max_epochs: 2}")
    assert refused(*MINE) == (
        "sweep/0 is the run of trainer.max_epochs=1, not of trainer.max_epochs=2: choose another hydra.sweep.dir"
    )
    _write_sweep(tmp_path, "trainer: {max_epochs: 1, limit_val_batches: 3}")
    assert refused(*MINE) == (
        "sweep/0 is the run of no trainer.limit_val_batches, not of trainer.limit_val_batches=3: "
        "choose another hydra.sweep.dir"
    )
    assert (tmp_path / "sweep" / "0" / ".hydra" / "config.yaml").read_bytes() == before


def test_a_sweep_goes_on_with_another_logger_and_data_elsewhere(qinco, job, tmp_path, monkeypatch):
    job(_began)
    monkeypatch.setenv("QINCO_DATA", "here")
    _write_sweep(tmp_path, "logger: {mode: disabled}")
    assert qinco(*MINE).code == 0
    monkeypatch.setenv("QINCO_DATA", "there $1")
    _write_sweep(tmp_path, "logger: {mode: offline}")
    more = job(_began)
    assert qinco(*MINE).code == 0
    assert [config["data_dir"] for config, _ in more] == ["there $1"] * 2


def test_a_job_that_went_on_with_options_of_its_own(qinco, refused, job, tmp_path):
    job(_began)
    assert qinco(*BEAM, "model.beam_size=2,4", "hydra.sweep.dir=sweep").code == 0
    run_dir = tmp_path / "sweep" / "1"
    config = json.loads((run_dir / "config.json").read_text())
    config["trainer"]["max_epochs"] = 7
    (run_dir / "config.json").write_text(json.dumps(config))
    summary = {"state": "interrupted", "resume_overrides": ["trainer.max_epochs=7"], "best_val_mse": 1.0}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    command = [*BEAM, "model.beam_size=2,4", "hydra.sweep.dir=sweep"]
    assert refused(*command) == (
        "job 1 was gone on with trainer.max_epochs=7: finish it with qinco train resume=sweep/1, "
        "then give this command again"
    )
    (run_dir / "summary.json").write_text(json.dumps(summary | {"state": "finished"}))
    assert qinco(*command).code == 0
    (run_dir / "config.json").write_text("{")
    assert refused(*command).startswith("sweep/1/config.json is damaged: ")


# --- names of runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], None),
        (["logger=wandb", "hydra.run.dir=x", "data_dir=/data", "resume=x"], None),
        (["model.beam_size=4", "model=qinco2_tiny", "seed=3"], "beam_size=4 qinco2_tiny seed=3"),
        (["ablation=no_beam", "+trainer.fast_dev_run=true", "logger.group=g"], "no_beam fast_dev_run=true"),
        (["codec=outputs/train/photo_sift/qinco2/2026/codec"], "qinco2/2026"),
    ],
)
def test_names_tell_runs_apart_by_what_was_typed(overrides, name):
    assert run_name(overrides) == name


def test_only_the_first_process_of_a_job_writes(monkeypatch):
    from qinco_lit.cli.sweeps import is_first_process

    for variable in ("LOCAL_RANK", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(variable, raising=False)
    assert is_first_process()
    for variable in ("LOCAL_RANK", "RANK", "SLURM_PROCID"):
        monkeypatch.setenv(variable, "1")
        assert not is_first_process()
        monkeypatch.setenv(variable, "0")
    assert is_first_process()
