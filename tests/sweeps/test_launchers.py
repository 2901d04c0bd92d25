"""Two trainings for real by launchers that start processes: one ends, one fails, and both say so."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweeps.conftest import REPOSITORY, SWEEPS, TINY
from tests.training.wandb_files import read_runs

DIVERGES = ["recipe.lr=1e-3,1e30", "recipe.clip_value=null", "recipe.warmup_epochs=0"]
# Commands of SLURM as far as submitit asks them: an array of two jobs, started in the background.
SLURM = {
    "sbatch": """#!/bin/bash
for task in 0 1; do
  env SLURM_JOB_ID=77 SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$task SLURM_NTASKS=1 SLURM_NTASKS_PER_NODE=1 \\
    SLURM_NNODES=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_JOB_NODELIST=localhost \\
    SLURM_JOB_NAME=train bash "${@: -1}" >/dev/null 2>&1 </dev/null &
done
echo "Submitted batch job 77"
""",
    "srun": """#!/bin/bash
while [[ "$1" == --* ]]; do [[ "$1" == --output || "$1" == --error ]] && shift; shift; done
exec "$@"
""",
    "sacct": """#!/bin/bash
echo "JobID|State|NodeList"
for task in 0 1; do
  state=RUNNING; test -f sweep/.submitit/77_$task/77_${task}_0_result.pkl && state=COMPLETED
  echo "77_$task|$state|localhost"
done
""",
    "scontrol": "#!/bin/bash\necho localhost\n",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name, script in SLURM.items():
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


@pytest.fixture
def ray_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.mark.usefixtures("vectors", "slurm")
@pytest.mark.parametrize(
    ("launcher", "plugin"),
    [
        ("joblib", "hydra_joblib_launcher"),
        ("ray", "hydra_ray_launcher"),
        ("submitit_slurm", "hydra_submitit_launcher"),
    ],
)
def test_two_jobs_at_once(
    launcher: str, plugin: str, tmp_path: Path, ray_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(f"hydra_plugins.{plugin}")
    tracked = launcher == "joblib"
    if tracked:
        monkeypatch.setenv("WANDB_MODE", "offline")
    sweep = ["-cd", str(SWEEPS), "-cn", "learning_rate", f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep"]
    tracker = [] if tracked else ["logger=none"]
    command = [sys.executable, str(REPOSITORY / "train.py"), *sweep, *TINY, *DIVERGES, *tracker]
    if launcher == "ray":  # whose sockets need a short name, and whose tokens and statistics a home
        for name, value in {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}.items():
            monkeypatch.setenv(name, value)
        start = "+hydra.launcher.ray.init"
        command += [f"{start}.include_dashboard=false", f"{start}.num_cpus=2", f"{start}._temp_dir={ray_folder}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    finished, failed = (json.loads((tmp_path / "sweep" / job / "summary.json").read_text()) for job in "01")
    assert (finished["state"], failed["state"]) == ("finished", "failed")
    assert failed["reason"].startswith("the loss became NaN or infinite in epoch 0, batch 1: lower recipe.lr")
    assert (tmp_path / "sweep" / "1" / "failed.txt").read_text() == f"{failed['reason']}\n"
    assert (tmp_path / "sweep" / "0" / "codec" / "weights.safetensors").is_file()
    # the last line of this process; Ray may print after it what its workers have said
    said = [line for line in done.stderr.splitlines() if line.startswith("qinco: error: ")]
    assert said == [
        f"qinco: error: 1 of 2 jobs failed (1: {failed['reason']}); the same command with hydra.sweep.dir=sweep tries "
        "them again"
    ]
    assert "Traceback" not in done.stderr
    if tracked:
        runs = [run for job in "01" for run in read_runs(tmp_path / "sweep" / job)]
        assert [run["exit_code"] for run in runs] == [0, 1]
        assert [run["id"] for run in runs] == [finished["wandb_id"], failed["wandb_id"]]
        assert [run["name"].split()[0] for run in runs] == ["lr=0.001", "lr=1e+30"]
