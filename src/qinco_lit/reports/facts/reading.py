"""Records of JSON, headers of safetensors: read, and found damaged in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

Lines = list[tuple[str, str]]  # facts: a name and a text each


def read(file: Path) -> dict[str, Any]:
    """A file of JSON that holds a table of values. Raises ValueError, one line, for anything else."""
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} is damaged: it holds no table of values")
    return values


def checked(file: Path, read: Callable[[], tuple[str, Lines]]) -> tuple[str, Lines]:
    """What `read` makes of the records of `file`; values that they lack are told in one line."""
    try:
        return read()
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not what this version writes: {error!r}") from None


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Shapes of a safetensors file by its header, without reading the tensors or torch."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: the folder is not complete")
    try:
        with safe_open(file, framework="numpy") as tensors:  # which compares the header with the file's size
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
