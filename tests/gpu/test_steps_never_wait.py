"""What tests/device says with a stand-in, said by CUDA itself: a step of training or validation waits for nothing."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.device.steps import DIM, FAMILY, OPTIONS, ROWS, module_on, random_member, training_batch

pytestmark = pytest.mark.gpu


@contextmanager
def _no_waits() -> Iterator[None]:
    try:
        with warnings.catch_warnings():  # that the mode is a prototype
            warnings.simplefilter("ignore", UserWarning)
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dead_codewords", OPTIONS)
@pytest.mark.parametrize("autocast", [False, True], ids=["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", FAMILY)
def test_training_and_validation(name: str, autocast: bool, dead_codewords: str, gpu: torch.device) -> None:
    module = module_on(gpu, random_member(name), **OPTIONS[dead_codewords])
    batch = torch.randn((ROWS, DIM), device=gpu)

    def steps() -> torch.Tensor:
        with torch.autocast(gpu.type, torch.bfloat16, enabled=autocast):
            loss = training_batch(module, batch, 1)
        module.on_validation_epoch_start()
        module.validation_step(batch, 0)
        return loss

    steps()  # libraries are loaded, the optimizer makes its state
    with _no_waits():
        loss = steps()
    assert loss.device.type == gpu.type
    assert bool(torch.isfinite(loss))
