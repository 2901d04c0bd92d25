"""What follows from a model's tensors, kept until one of them changes."""

import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor

_Value = TypeVar("_Value")


class Kept(Generic[_Value]):
    """Calls a function of tensors again only when one of them is another tensor than before, or was written to.

    Copies and pickles hold the function alone.
    """

    def __init__(self, function: Callable[..., _Value]) -> None:
        self._function = function
        self._seen: list[tuple[weakref.ref[Tensor], int | None]] = []
        self._value: _Value | None = None

    def __call__(self, *tensors: Tensor) -> _Value:
        """The function's value for these tensors."""
        same = len(self._seen) == len(tensors) and all(
            seen() is tensor and version is not None and version == _version(tensor)
            for (seen, version), tensor in zip(self._seen, tensors, strict=True)
        )
        if not same or self._value is None:
            self._value = self._function(*tensors)
            self._seen = [(weakref.ref(tensor), _version(tensor)) for tensor in tensors]
        return self._value

    def __reduce__(self) -> Any:
        return Kept, (self._function,)


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was written to; tensors of inference mode do not tell."""
    return None if tensor.is_inference() else tensor._version
