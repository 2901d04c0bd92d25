"""Records of JSON, headers of safetensors: read, and found damaged in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(min(length, file.stat().st_size)))
            tensors = {name: value for name, value in header.items() if name != "__metadata__"}
            end = 8 + length + max(value["data_offsets"][1] for value in tensors.values())
            shapes = {name: list(value["shape"]) for name, value in tensors.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{file} is damaged: its header cannot be read") from None
    if end != file.stat().st_size:
        raise ValueError(f"{file} is damaged: {file.stat().st_size:,} bytes, its header says {end:,}")
    return shapes
