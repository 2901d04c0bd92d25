"""A published `.pt` file as plain values: nothing that its pickle names is imported, built or run.

torch's weights-only reader looks names up in a list of its own; the classes of the QINCo1 release are on it while one
file is read, as `Record`s, stand-ins that only keep their attributes. Any other name ends the reading.
"""

import pickle
import re
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from qinco_lit.codec_folder import load_tensors, tensors
from qinco_lit.quantizers import Quantizer

MODULE = "model_qinco."
_CLASSES = (
    *(MODULE + name for name in ("QINCo", "QINCoLR", "IVFQINCo", "PQ_QINCo", "QINCoStep")),
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.sparse.Embedding",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.Sequential",
)
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first pickle of a file of torch before 1.6
_READING = threading.Lock()  # the list of names is torch's, for all threads


class Record:
    """What stands for an instance of a class of the release: the name of the class, and the attributes."""

    class_name: ClassVar[str]
    attributes: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(name, str) and name.isprintable() for name in state):
            raise pickle.UnpicklingError(f"it gives a {self.class_name} attributes that have no names")
        self.attributes = {**self.attributes, **state}


class _NumpyType:
    """What stands for a numpy dtype of numbers; sizes and scales may be numpy scalars."""

    def __init__(self, code: str, *_: object) -> None:
        self.format = {"f4": "<f", "f8": "<d", "i4": "<i", "i8": "<q"}[code]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError("it holds numbers of a big-endian machine")


def _numpy_scalar(dtype: _NumpyType, data: bytes) -> float:
    value: float = struct.unpack(dtype.format, data)[0]
    return value


_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((type(name.rpartition(".")[2], (Record,), {"class_name": name}), name) for name in _CLASSES),
    (_NumpyType, "numpy.dtype"),
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
]


def read_checkpoint(source: Path) -> Any:
    """Return what a file holds: tensors, plain values, and `Record`s.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no torch file, truncated or damaged; or with a name, a call or an opcode in its pickle that no
            published checkpoint needs, which is told; one line.
    """
    _check_is_archive(source)
    try:
        with _READING, torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what it cannot read, it refuses
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{source} is refused: {_refusal(str(error))}") from error
    except Exception as error:  # damaged bytes make torch's reader fail in any way
        kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
        raise ValueError(f"{source} is no torch checkpoint or is damaged: {kind}{_one_line(str(error))}") from error


def stored_sizes(source: Path) -> set[int]:
    """Return the sizes in bytes of the storages of a file, for `check_stored`."""
    with zipfile.ZipFile(source) as archive:
        return {entry.file_size for entry in archive.infolist() if "/data/" in entry.filename}


def check_stored(source: Path, name: str, tensor: Tensor, sizes: set[int]) -> None:
    """ValueError for a tensor that is not wholly in the file.

    By strides of zero it may have more numbers than are stored; and torch 2.6 takes the size of a storage from the
    pickle, so that its tensors may reach beyond what was read.
    """
    is_plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not is_plain or tensor.nbytes > (size := tensor.untyped_storage().nbytes()) or size not in sizes:
        raise ValueError(f"{source} is damaged: {name} is not what is stored of it")


def _refusal(text: str) -> str:
    """What torch says of a pickle that it does not read, without its advice to read it all the same."""
    name = re.search(r"GLOBAL (\S+)", text)
    if name:
        return f"it refers to {_one_line(name[1])}, which no published checkpoint needs"
    opcode = re.search(r"Unsupported operand (\d+)", text)
    if opcode:
        return f"it uses the pickle opcode {int(opcode[1]):#x}, which no published checkpoint needs"
    return _one_line(text.rpartition("WeightsUnpickler error:")[2])


def _one_line(text: str) -> str:
    line = next(iter(text.strip().splitlines()), "")
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in line[:200])


def _check_is_archive(source: Path) -> None:
    """One line for what is no file that `torch.save` wrote, and for a wrong checksum, at which torch does not look."""
    if not source.is_file():
        raise FileNotFoundError(f"no checkpoint at {source}")
    if not zipfile.is_zipfile(source):
        with source.open("rb") as stream:
            start = stream.read(len(_LEGACY_MAGIC))
        if start == _LEGACY_MAGIC:
            raise ValueError(f"{source} is in the format of torch before 1.6, which no published checkpoint has")
        raise ValueError(f"{source} is no torch checkpoint or is truncated")
    try:
        with zipfile.ZipFile(source) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            bad = None if packed else archive.testzip()
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{source} is no torch checkpoint or is damaged: {error}") from error
    if packed:
        raise ValueError(f"{source} is no torch checkpoint: {packed[0]} is compressed")
    if bad is not None:
        raise ValueError(f"{source} is damaged: the checksum of {bad!r} in it is wrong")


# --- what it holds against the model that it is for ------------------------------------------------------------------


def check_sizes(source: Path | str, declared: Mapping[str, object], found: Mapping[str, int]) -> None:
    """ValueError for a size that is declared (None counts as not) and is not that of the tensors.

    `source` is the file, with a part of it where there is one.
    """
    for name, size in found.items():
        said = declared.get(name)
        if said is not None and said != size:
            raise ValueError(f"{source}: its parameters say {name}={said!r}, its tensors {name}={size}")


def fill(quantizer: Quantizer, state: Mapping[str, Tensor], names: Mapping[str, str], source: Path) -> None:
    """Load a model's weights.

    Args:
        quantizer: the model to fill.
        state: tensors by published name, any floating dtype; they become float32.
        names: published name -> that of `codec_folder.tensors`, for all of the model.
        source: the file, for errors.

    Raises:
        ValueError: a tensor missing, unknown, of the wrong shape, or with NaN or infinity in it.
    """
    unknown = [name for name in state if name not in names]
    missing = [name for name in names if name not in state]
    if unknown or missing:
        raise ValueError(f"{source} does not fit its parameters: missing {missing[:3]}, unknown {unknown[:3]}")
    own = tensors(quantizer)
    for theirs, ours in names.items():
        if state[theirs].shape != own[ours].shape:
            found, asked = tuple(state[theirs].shape), tuple(own[ours].shape)
            raise ValueError(f"{source}: {theirs} has shape {found}, the model needs {asked}")
        check_finite(source, theirs, state[theirs])
    load_tensors(quantizer, {ours: state[theirs].float() for theirs, ours in names.items()})
    for scale in quantizer.data_std.tolist():
        if not scale > 0:
            raise ValueError(f"{source}: vectors cannot be divided by {scale}")


def check_finite(source: Path, name: str, tensor: Tensor) -> None:
    """ValueError for a tensor that is not of floating-point numbers, all finite in float32."""
    if not tensor.is_floating_point():
        raise ValueError(f"{source}: {name} holds {tensor.dtype}, not floating-point numbers")
    if not bool(torch.isfinite(tensor.float()).all()):
        raise ValueError(f"{source}: {name} holds NaN or infinity")
