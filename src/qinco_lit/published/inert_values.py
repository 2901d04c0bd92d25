"""What the pickle of a checkpoint may hold and may "call", as values and functions of our own."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
}
_NUMPY_SCALARS = {code: np.dtype(f"<{code}") for code in ("f4", "f8", "i4", "i8")}
_MAX_DIMENSIONS = 4


class RefusedPickleError(ValueError):
    """A pickle that asks for something no checkpoint needs, or that is damaged; the text says what, in one line."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to, `module.attribute`: text, never looked up."""

    name: str


@dataclass(eq=False)
class Record:
    """What stands for an instance: the name of its class and its attributes."""

    class_name: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Storage:
    """Numbers kept beside the pickle, under `key`."""

    key: str
    dtype: torch.dtype
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A strided view of a storage; checked to lie inside it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def storage(identity: object) -> Storage:
    """The storage that a persistent id names."""
    match identity:
        case ("storage", Global(name=kind), str(key), str(), int(size)) if kind in STORAGES and size >= 0:
            if key.isascii() and key.isdecimal():
                return Storage(key, STORAGES[kind], size)
    raise RefusedPickleError("it refers to something beside the pickle that is no storage of numbers")


def call(function: object, arguments: object) -> Any:
    """The answer to a call of one of `CALLS` with arguments as `torch.save` writes them."""
    answer = CALLS.get(function.name) if isinstance(function, Global) else None
    value = answer(arguments) if answer is not None else None
    if value is None:
        raise RefusedPickleError(f"it calls {told(function)} with {told(arguments)}")
    return value


def set_state(target: object, state: object) -> None:
    """Give a record its attributes."""
    match target, state:
        case Record(), dict():
            target.attributes = {**target.attributes, **state}
        case dict(), dict():
            pass  # of an ordered dict: the metadata of a state dict
        case np.dtype(), (_, "<", *_):
            pass  # numpy's way to say little-endian, which these types are already
        case _:
            raise RefusedPickleError(f"it sets the state of {told(target)} to {told(state)}")


def _tensor(arguments: object) -> StoredTensor | None:
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict()):
            numbers = [offset, *shape, *strides]
            if len(shape) == len(strides) <= _MAX_DIMENSIONS and all(
                isinstance(number, int) and number >= 0 for number in numbers
            ):
                last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
                count = math.prod(shape)
                # not empty, not beyond its storage, and not larger than it by strides of zero
                if last < storage.size and 1 <= count <= storage.size:
                    return StoredTensor(storage, offset, shape, strides)
    return None


def _parameter(arguments: object) -> StoredTensor | None:
    match arguments:
        case (StoredTensor() as tensor, bool(), dict()):
            return tensor
    return None


def _set_of_names(arguments: object) -> set[str] | None:
    match arguments:
        case (list(items),) if all(isinstance(item, str) for item in items):
            return set(items)
    return None


def _numpy_type(arguments: object) -> "np.dtype[Any] | None":
    match arguments:
        case (str(code), 0, 1):
            return _NUMPY_SCALARS.get(code)
    return None


def _latin1(arguments: object) -> bytes | None:
    match arguments:  # how protocol 2 spells bytes
        case (str(text), "latin1"):
            return text.encode("latin1")
    return None


def _numpy_scalar(arguments: object) -> float | None:
    match arguments:
        case (np.dtype() as dtype, bytes(data)) if len(data) == dtype.itemsize:
            value: float = np.frombuffer(data, dtype)[0].item()
            return value
    return None


def told(value: object) -> str:
    """A value in a few words."""
    if isinstance(value, Global):
        return value.name
    if isinstance(value, tuple):
        parts = ["a tuple" if isinstance(item, tuple) else told(item) for item in value[:3]]
        return f"({', '.join(parts)}{', ...' if len(value) > 3 else ''})"
    return repr(value[:40]) if isinstance(value, str | bytes) else f"a {type(value).__name__}"


CALLS: dict[str, Callable[[object], Any]] = {
    "collections.OrderedDict": lambda arguments: {} if arguments == () else None,
    "builtins.set": _set_of_names,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    # sizes and scales that were numpy scalars
    "numpy.dtype": _numpy_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "_codecs.encode": _latin1,
}
