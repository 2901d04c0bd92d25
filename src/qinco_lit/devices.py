"""Where a computation runs, on how many cores, and what a caller has set for torch, which changes no results.

faiss and torch each have a setting of their own for cores. faiss is imported where it is needed: a codec works without.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def default_torch() -> Iterator[None]:
    """Compute as torch by itself: in float32, on the CPU where no device is named, without autocast, with gradients.

    What a user's program has set is set again afterwards. As a decorator it does so for a function.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())  # Lightning leaves it so
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if (dtype := torch.get_default_dtype()) != torch.float32:  # of all threads
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def inference() -> Iterator[None]:
    """Compute as `default_torch`, but without gradients."""
    with default_torch(), torch.inference_mode():
        yield


def chosen_device(name: str | torch.device) -> torch.device:
    """Return the device of a name: auto (the first GPU, else the CPU), cpu, cuda, cuda:1.

    Raises:
        ValueError: an unknown name, or a GPU that this machine has not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name}; choose from: auto, cpu, cuda, cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices; use device=cpu")
    return device


def num_threads_in_use() -> dict[str, int]:
    """Of torch and of faiss."""
    import faiss

    return {"torch": torch.get_num_threads(), "faiss": int(faiss.omp_get_max_threads())}


@contextmanager
def threads(num_threads: int | None) -> Iterator[None]:
    """Let torch and faiss use this many threads inside the block; None leaves theirs."""
    before = num_threads_in_use()
    if num_threads is None or set(before.values()) == {num_threads}:
        yield
        return
    try:
        _use_threads(num_threads, num_threads)
        yield
    finally:
        _use_threads(before["torch"], before["faiss"])


@contextmanager
def one_faiss_thread() -> Iterator[None]:
    """Let faiss use one thread inside the block where this thread calls it; what it has in others stays."""
    import faiss

    if (before := int(faiss.omp_get_max_threads())) == 1:
        yield
        return
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _use_threads(for_torch: int, for_faiss: int) -> None:
    import faiss

    torch.set_num_threads(for_torch)
    faiss.omp_set_num_threads(for_faiss)
