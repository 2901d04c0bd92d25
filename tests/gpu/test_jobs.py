"""Jobs as a user starts them, on a GPU in their default precision; and one on the CPU, which leaves the GPU alone."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from qinco_lit.codec import Codec
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.vectors import open_codes, write_vectors
from qinco_lit.vectors.data_facts import DataSource
from tests.training.conftest import SMALL, clustered

pytestmark = pytest.mark.gpu
EPOCHS, NUM_VAL = 3, 256
ON_GPU = ("trainer.accelerator=gpu", "trainer.devices=1")
# without it the sums of the initial k-means may differ from run to run
SAME = ("trainer.deterministic=true", f"trainer.max_epochs={EPOCHS}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.fvecs, and the run `whole`, which nothing interrupted."""
    folder = tmp_path_factory.mktemp("gpu")
    write_vectors(folder / "train.fvecs", clustered(2048 + NUM_VAL))
    _finish(_train(folder, "hydra.run.dir=whole", *SAME))
    return folder


def _qinco(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "qinco_lit.cli", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _train(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return _qinco(folder, "train", *SMALL, "data.train=train.fvecs", "data_dir=data", *ON_GPU, *arguments)


def _finish(process: "subprocess.Popen[str]", code: int = 0) -> None:
    output = process.communicate(timeout=180)[0]
    assert process.returncode == code, output


def _summary(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "summary.json").read_text()))


def _wait_for_step(process: "subprocess.Popen[str]", run: Path, step: int) -> None:
    file, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while not (file.is_file() and any(f'"step": {number}' in file.read_text() for number in (step, step + 1))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_card_is_recorded(folder: Path) -> None:
    hardware = json.loads((folder / "whole" / "summary.json").read_text())["hardware"]
    assert hardware["gpus"][0] == torch.cuda.get_device_name(0)


@pytest.mark.parametrize(("number", "code", "every_s"), [(signal.SIGKILL, -9, 0.0), (signal.SIGTERM, 130, 600.0)])
def test_interrupted_and_resumed_is_the_codec_of_the_whole_run(
    number: int, code: int, every_s: float, folder: Path
) -> None:
    name = f"interrupted_{int(number)}"
    options = ("trainer.log_every_n_steps=1", f"trainer.checkpoint_every_s={every_s}")
    process = _train(folder, f"hydra.run.dir={name}", *SAME, *options)
    _wait_for_step(process, folder / name, 40)
    process.send_signal(number)
    _finish(process, code)
    assert not (folder / name / "codec").exists(), "the run ended before it was interrupted"
    _finish(_qinco(folder, "train", f"resume={name}"))
    weights = [(folder / run / "codec" / "weights.safetensors").read_bytes() for run in ("whole", name)]
    assert weights[0] == weights[1]


def test_validation_error_is_that_of_the_codec_in_float32(folder: Path, gpu: torch.device) -> None:
    data = VectorDataModule(
        DataSource(name="small", train=folder / "train.fvecs"),
        batch_size=64,
        num_val=NUM_VAL,
        cache_dir=str(folder / "data"),
    )
    data.setup("fit")
    x = torch.from_numpy(np.asarray(data.val_vectors[:NUM_VAL])).to(gpu)
    codec = Codec.load(folder / "whole" / "codec", device=gpu)
    error = (codec.decode(codec.encode(x)) - x).square().sum(1).double().mean()
    assert float(error) == pytest.approx(_summary(folder / "whole")["best_val_mse"], rel=1e-5)


def test_encode_finds_the_codes_of_a_cpu(folder: Path) -> None:
    for name, accelerator in (("gpu", ON_GPU), ("cpu", ("trainer.accelerator=cpu", "precision=float32"))):
        _finish(_qinco(folder, "encode", "codec=whole/codec", "input=train.fvecs", f"output={name}.h5", *accelerator))
    stores = [open_codes(folder / f"{name}.h5")[:] for name in ("gpu", "cpu")]
    assert (stores[0] == stores[1]).mean() >= 0.999


def test_a_job_on_the_cpu_opens_no_context(folder: Path) -> None:
    options = [*SMALL, "data.train=train.fvecs", "data_dir=data", "trainer.accelerator=cpu", "trainer.max_epochs=1"]
    code = (
        "import sys, torch\n"
        "from qinco_lit.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "assert not any(map(torch._C._cuda_hasPrimaryContext, range(torch.cuda.device_count())))\n"
    )
    command = [sys.executable, "-c", code, "train", *options, "hydra.run.dir=on_cpu"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
