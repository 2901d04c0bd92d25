"""A stand-in for a GPU: tensors of the `meta` device, where everything fails that would make the host wait for one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
# what reads values of a GPU to know the size or the kind of its result
_WAITING = frozenset(
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "nonzero_static", "masked_select"),
        *("bincount", "histc", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"),
    )
)
_INDEXING = frozenset(("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"))


class WaitError(AssertionError):
    """On a GPU the host would wait here."""


class NoWaits(TorchDispatchMode):
    """Refuses operations on meta tensors that read their values, or that a tensor of the CPU takes part in."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        places = {tensor.device.type for tensor in (*given, *made)}
        name = func._schema.name
        if {"cpu", "meta"} <= places:
            raise WaitError(f"{name}: {[(str(tensor.device), tuple(tensor.shape)) for tensor in (*given, *made)]}")
        if "meta" in places and name in _WAITING:
            raise WaitError(name)
        if "meta" in places and name in _INDEXING and any(mask.dtype == torch.bool for mask in _indices(args)):
            raise WaitError(f"{name} by a mask")
        return result


def _indices(args: tuple[Any, ...]) -> list[Tensor]:
    return [index for index in args[1] if isinstance(index, Tensor)]


class NoCopies(TorchFunctionMode):
    """Refuses meta tensors whose values come from the host, which waits until they are copied; list indices, too."""

    _MAKING = frozenset((torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor))
    _INDEXING = frozenset((Tensor.__getitem__, Tensor.__setitem__))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in self._INDEXING and args[0].device == META and not isinstance(args[1], Tensor):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(each, list) for each in index):
                raise WaitError(f"a list as an index: {index}")
        if func in self._MAKING and result.device == META:
            raise WaitError(f"{func.__name__}: values of the host")
        return result


class _NoAutocast:
    """`torch.autocast` without effect: the meta device has none."""

    def __init__(self, device_type: str, *_: Any, **__: Any) -> None:
        assert device_type == "meta"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@contextmanager
def on_meta(*, mixed: bool) -> Iterator[None]:
    """Run on meta tensors without waiting; `mixed` takes the paths of bf16-mixed and 16-mixed, nothing is rounded."""
    with pytest.MonkeyPatch.context() as patch, NoCopies(), NoWaits():
        patch.setattr(torch, "autocast", _NoAutocast)
        patch.setattr(torch, "is_autocast_enabled", lambda _=None: mixed)
        yield
