"""Tests that need a GPU: skipped where torch sees none; `make gpu` runs them."""

import pytest
import torch


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device: run `make gpu` on a machine with one")


@pytest.fixture
def gpu() -> torch.device:
    return torch.device("cuda")
