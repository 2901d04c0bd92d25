"""`qinco_lit.train`: the same bits as `qinco train`, on disk what was asked for, and nothing else changed."""

import logging
import os
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qinco_lit as ql
from qinco_lit.cli import main
from qinco_lit.training import checkpoints
from qinco_lit.training.module import QuantizerTraining
from tests.training.conftest import clustered, quick_rotation

__all__ = ["quick_rotation"]

OPTIONS: dict[str, Any] = {
    "num_steps": 3, "codebook_size": 16, "embed_dim": 8, "hidden_dim": 16, "batch_size": 64, "split_every_batches": 5,
    "max_epochs": 2,
}  # fmt: skip
X = clustered(1024 + 113)
NUM_VAL = len(X) // 10


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the process is empty, and so is that of temporary files."""
    for name in ("cwd", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


def _train(x: Any = X, **options: Any) -> ql.Codec:
    return ql.train(x, **{**OPTIONS, "progress": False, **options})


def _weights(codec: ql.Codec) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in codec.quantizer.state_dict().items()}


def _same(one: ql.Codec, other: ql.Codec) -> bool:
    first, second = _weights(one), _weights(other)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def _command(folder: Path, x: np.ndarray, *options: str) -> Path:
    """`qinco train` with the same options; its codec folder."""
    np.save(folder / "x.npy", x)
    recipe = ("batch_size", "split_every_batches")
    values = {name: value for name, value in OPTIONS.items() if name != "max_epochs"}
    typed = [f"{'recipe' if name in recipe else 'model'}.{name}={value}" for name, value in values.items()]
    run = [f"data_dir={folder / 'data'}", f"hydra.run.dir={folder / 'run'}", "logger=none"]
    data = ["data=files", f"data.train={folder / 'x.npy'}", f"data.num_val={len(x) // 10}"]
    assert main(["train", "model=qinco2_tiny", *data, *typed, "trainer.max_epochs=2", *run, *options]) == 0
    return folder / "run" / "codec"


@pytest.mark.usefixtures("quick_rotation")
@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ([], {}),
        (["recipe=paper", "recipe.warmup_epochs=0.5", "seed=3"], {"recipe": "paper", "warmup_epochs": 0.5, "seed": 3}),
        (
            ["coarse=ivf", "coarse.num_lists=12", "trainer.precision=bf16-mixed"],
            {"num_lists": 12, "precision": "bf16-mixed"},
        ),
        (
            ["model=pq_qinco2", "model.num_steps=4", "opq=true", "model.codebook_size=16"],
            {"model": "pq_qinco2", "num_steps": 4, "opq": True},
        ),
    ],
    ids=["plain", "paper", "lists", "parts"],
)
def test_the_same_bits_as_the_command(typed: list[str], options: dict[str, Any], tmp_path: Path) -> None:
    codec, folder = _train(**options), _command(tmp_path, X, *typed)
    codec.save(tmp_path / "codec")
    for name in ("weights.safetensors", "config.json"):
        assert (tmp_path / "codec" / name).read_bytes() == (folder / name).read_bytes()


def test_an_array_a_file_and_a_tensor_are_the_same_and_nothing_is_left(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    expected = _train()
    assert expected.folder is None
    assert _same(expected, _train(str(tmp_path / "x.npy")))
    assert _same(expected, _train(ql.open_vectors(tmp_path / "x.npy")))
    assert _same(expected, _train(torch.from_numpy(X)))
    assert _same(expected, _train(X[:-NUM_VAL], val=X[-NUM_VAL:]))
    assert not _same(expected, _train(seed=1))
    assert [list((tmp_path / name).iterdir()) for name in ("cwd", "tmp")] == [[], []]


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.float64])
def test_other_types_are_trained_on_as_they_are_stored(dtype: Any, tmp_path: Path) -> None:
    x = np.clip(X, 0, 255).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    codec = _train(x, max_epochs=1)
    assert _same(codec, _train(str(tmp_path / "x.npy"), max_epochs=1))
    assert codec.decode(codec.encode(x)).shape == x.shape


def test_a_run_folder_is_gone_on_with_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _train(run_dir=tmp_path / "whole", num_lists=12)
    step, calls = QuantizerTraining.training_step, []

    def killed(self: QuantizerTraining, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 21:  # in the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(QuantizerTraining, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            _train(run_dir=tmp_path / "run", num_lists=12)
    assert not (tmp_path / "run" / "codec").exists()
    before = (tmp_path / "run" / "coarse" / "centroids.npy").stat().st_mtime_ns
    assert _same(whole, _train(run_dir=tmp_path / "run", num_lists=12))
    assert (tmp_path / "run" / "coarse" / "centroids.npy").stat().st_mtime_ns == before
    for name in ("codec/weights.safetensors", "codec/config.json", "checkpoints/best.ckpt", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    files = {"checkpoints", "codec", "metrics.jsonl", "summary.json", "config.json", "coarse"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files
    assert _same(whole, _train()) is False


def test_a_finished_folder_gives_its_codec_for_the_same_options_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = _train(run_dir="run", max_epochs=1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("qinco_lit.training.train.train_in_folder", None)  # is not called
    run_dir = tmp_path / "cwd" / "run"
    assert _same(codec, _train(run_dir=run_dir, max_epochs=1, devices=1))
    other = r"^{}/cwd/run holds a training with {}: give the same options and vectors, or another run_dir$"
    changes: list[tuple[dict[str, Any], str]] = [
        ({"num_steps": 2}, "model.num_steps=3, not 2"),
        ({"max_epochs": 3}, "trainer.max_epochs=1, not 3"),
        ({"lr": 0.5}, "recipe.lr=0.004, not 0.5"),
        ({"x": X[::-1]}, "data.sample_sha256=.*"),
        ({"num_lists": 4}, "coarse.num_lists=None, not 4"),
    ]
    for change, message in changes:
        with pytest.raises(ValueError, match=other.format(tmp_path, message)):
            _train(**{"run_dir": run_dir, "max_epochs": 1, **change})


def test_a_folder_of_the_command_is_refused(tmp_path: Path) -> None:
    run_dir = _command(tmp_path, X).parent
    with pytest.raises(ValueError, match=r"holds a training of `qinco train`: go on with it by resume="):
        _train(run_dir=run_dir)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebok_size": 8}, "unknown option codebok_size (did you mean codebook_size?); choose from: "),
        ({"model": "qinco3"}, "unknown model qinco3 (did you mean qinco2?); choose from: "),
        ({"recipe": "tune"}, "unknown recipe tune (did you mean tuned?); choose from: paper, tuned"),
        ({"codebook_size": "many"}, "codebook_size='many': expected an integer"),
        ({"opq": True}, "opq=True is for models of parts: give model='pq_qinco' or 'pq_qinco2'"),
        ({"lr": -1.0}, "recipe.lr=-1.0 must be positive"),
        ({"max_epochs": 0}, "max_epochs=0: give at least 1"),
        ({"precision": "16-true"}, "trainer.precision=16-true: weights are kept in float32, give one of 32-true, "),
        ({"seed": -1}, "seed=-1: give 0 to 4294967295"),
        ({"num_lists": 0}, "num_lists=0: give at least 1"),
        ({"num_lists": 2000}, "x: 1024 vectors to train on, 1137 less those for validation, num_lists=2000 needs 2000"),
        ({"codebook_size": 2048}, "x: 1024 vectors to train on, 1137 less those for validation, codebook_size=2048 "),
        ({"batch_size": 2048}, "x: 1024 vectors to train on, 1137 less those for validation, batch_size=2048 needs"),
        ({"x": X[:3], "val": X[:1]}, "x: 3 vectors to train on, codebook_size=16 needs 16: give more vectors, or"),
        ({"x": X[0]}, "x has shape (12,): give vectors (n, dim)"),
        ({"x": "gone.npy"}, "gone.npy: no such file"),
        ({"val": X[:, :5]}, "val (an array) has dimension 5, x (an array) has 12: give files of one data set"),
        ({"devices": 2}, "devices=2: give run_dir=FOLDER, where the processes of several devices meet"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        _train(**options)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert [list((tmp_path / name).iterdir()) for name in ("cwd", "tmp")] == [[], []]


@pytest.mark.parametrize(("name", "row"), [("x", 1), ("x", 70_000), ("val", 9)])
def test_a_row_with_nan_is_named(name: str, row: int) -> None:
    arrays = {"x": np.zeros((70_001, 2), np.float32), "val": np.zeros((10, 2), np.float32)}
    arrays[name][row, 1] = np.nan
    with pytest.raises(ValueError, match=rf"^{name}: vector {row} holds NaN or infinity \(as float32\): leave it out$"):
        _train(**arrays)


def test_the_process_is_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    def state() -> list[Any]:
        loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.fabric", "faiss.loader", "")]
        own = [(logger.level, list(logger.handlers)) for logger in loggers]
        torch_own = [torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), torch.is_grad_enabled()]
        signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
        rng = [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()]  # type: ignore[index]
        return [own, torch_own, signals, rng, list(warnings.filters), dict(os.environ), Path.cwd()]

    torch.use_deterministic_algorithms(True)
    try:
        before = state()
        _train(max_epochs=1)
        assert state() == before
    finally:
        torch.use_deterministic_algorithms(False)
    assert capfd.readouterr() == ("", "")


def test_an_interrupted_call_gives_the_signals_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before, step = (
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        QuantizerTraining.training_step,
    )

    def interrupted(self: QuantizerTraining, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(QuantizerTraining, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _train()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert list((tmp_path / "tmp").iterdir()) == []


def test_it_trains_in_a_thread() -> None:
    found: list[ql.Codec] = []
    thread = threading.Thread(target=lambda: found.append(_train()))
    thread.start()
    thread.join()
    assert _same(found[0], _train())


def test_a_second_interrupt_does_not_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook that would be the kernel."""
    write = checkpoints.write_checkpoint

    def again(*arguments: Any) -> None:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # the first one has come
            os.kill(os.getpid(), signal.SIGINT)
        write(*arguments)

    step = QuantizerTraining.training_step

    def first(self: QuantizerTraining, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(checkpoints, "write_checkpoint", again)
    monkeypatch.setattr(QuantizerTraining, "training_step", first)
    with pytest.raises(KeyboardInterrupt):
        _train()
