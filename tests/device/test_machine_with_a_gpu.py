"""What a machine with a GPU means for a job: its default precision, and nothing for a job that runs on the CPU."""

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from qinco_lit.cli import main
from qinco_lit.training.trainer import trains_in_bfloat16
from qinco_lit.vectors import open_codes, write_vectors

SMALL = (
    "model=qinco2_tiny", "model.num_steps=2", "model.codebook_size=16", "model.embed_dim=8", "model.hidden_dim=8",
    "recipe.batch_size=64", "recipe.kmeans_iterations=2", "data=files", "data.train=train.npy", "data.num_val=64",
    "logger=none", "trainer.max_epochs=1", "data_dir=data",
)  # fmt: skip
ROWS = 320


def _touched(*_: object, **__: object) -> NoReturn:
    raise AssertionError("the job has opened a context on the GPU")


@pytest.fixture
def untouchable_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch sees a GPU; memory that is pinned for it opens a context there, as all that is computed on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    monkeypatch.setattr(torch.Tensor, "pin_memory", _touched)
    empty = torch.empty

    def unpinned(*sizes: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return _touched() if pin_memory else empty(*sizes, **options)

    monkeypatch.setattr(torch, "empty", unpinned)


def test_a_job_on_the_cpu_opens_no_context(
    untouchable_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_vectors(Path("train.npy"), np.random.default_rng(0).normal(size=(ROWS, 6)).astype(np.float32))
    assert main(["train", *SMALL, "trainer.accelerator=cpu", "hydra.run.dir=run"]) == 0
    encode = ["encode", "codec=run/codec", "input=train.npy", "output=codes.h5", "trainer.accelerator=cpu"]
    assert main(encode) == 0
    assert len(open_codes(Path("codes.h5"))) == ROWS
    decode = ["decode", "codec=run/codec", "codes=codes.h5", "output=decoded.npy", "device=cpu"]
    assert main(decode) == 0


@pytest.mark.parametrize(
    ("capability", "bfloat16"),
    [((7, 0), False), ((7, 5), False), ((8, 0), True), ((8, 9), True), ((9, 0), True)],
)
def test_a_gpu_without_units_for_bfloat16_trains_in_float32(
    capability: tuple[int, int], bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V100 (7.0) and T4 (7.5) emulate it, which torch counts as support."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert trains_in_bfloat16(on_gpu=True) == bfloat16
    assert not trains_in_bfloat16(on_gpu=False)
