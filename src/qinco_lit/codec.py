"""A trained quantizer as arrays in, arrays out; saved as `config.json` + `weights.safetensors`, no pickle."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qinco_lit.quantizers import QINCo

_FORMAT = "qinco_lit codec"
_VERSION = 1
_INPUT_DTYPES = (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DEFAULT_BLOCK_BYTES = 64 << 20  # float32 copies of the input live for one block at a time


@runtime_checkable
class ArrayLike(Protocol):
    """Rows to slice: a numpy array, a torch tensor, or vectors mapped from a file."""

    @property
    def shape(self) -> Sequence[int]:
        """(rows, columns)."""

    def __getitem__(self, rows: slice, /) -> Any:
        """A contiguous range of rows."""


_Codec = TypeVar("_Codec", bound="Codec")


class Codec:
    """Vectors (n, dim) to codes (n, num_steps) and back, in bounded memory.

    numpy in gives numpy out, torch in gives torch out (on the codec's device). Codes are uint8, uint16 when
    codebook_size > 256.

    Args:
        quantizer: a trained model; the codec takes it over and freezes it.
        workspace_bytes: bound on intermediate results of a call; None chooses what runs fast on the device.
    """

    def __init__(self, quantizer: QINCo, *, workspace_bytes: int | None = None) -> None:
        if workspace_bytes is not None and workspace_bytes < 1:
            raise ValueError(f"workspace_bytes={workspace_bytes} must be positive")
        self.quantizer = quantizer.eval().requires_grad_(False)
        self.workspace_bytes = workspace_bytes
        self._tables = quantizer.tables()

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.quantizer.dim

    @property
    def num_steps(self) -> int:
        """Codes per vector."""
        return self.quantizer.num_steps

    @property
    def codebook_size(self) -> int:
        """Values a code can take."""
        return self.quantizer.codebook_size

    @property
    def bits_per_vector(self) -> int:
        """Bits of a packed code: num_steps x ceil(log2 codebook_size)."""
        return self.num_steps * (self.codebook_size - 1).bit_length()

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """uint8, or uint16 for codebooks of more than 256 codewords."""
        return np.dtype(np.uint8 if self.codebook_size <= 256 else np.uint16)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.quantizer.data_mean.device

    def to(self: _Codec, device: str | torch.device) -> _Codec:
        """Move the weights; returns the codec itself."""
        self.quantizer.to(device)
        self._tables = self.quantizer.tables()
        return self

    @torch.inference_mode()
    def encode(
        self,
        x: ArrayLike,
        *,
        beam_size: int | None = None,
        num_candidates: int | None = None,
        candidate_budget: int | None = None,
    ) -> Any:
        """Codes (n, num_steps) of raw vectors.

        Args:
            x: (n, dim), float32 or uint8 (float16, float64 and int8 are converted), array or mapped file.
            beam_size: hypotheses kept between steps; None takes the model's.
            num_candidates: codewords pre-selected per hypothesis, 0 for all; None takes the model's.
            candidate_budget: instead, the pairs of hypothesis and codeword tried per step over the whole beam.

        Raises:
            ValueError: wrong dimension or dtype, NaN or infinity in a row, a search the model cannot do.
        """
        if len(x.shape) != 2 or x.shape[1] != self.dim:
            raise ValueError(f"vectors of shape {tuple(x.shape)} do not fit this codec: expected (n, {self.dim})")
        search = self.quantizer.search_for(
            beam_size=beam_size, num_candidates=num_candidates, candidate_budget=candidate_budget
        )
        as_torch = isinstance(x, Tensor)
        out = torch.empty(
            (x.shape[0], self.num_steps), dtype=torch.uint8 if self.codebook_size <= 256 else torch.uint16
        )
        out = out.to(self.device) if as_torch else out
        for start, stop in self._blocks(x.shape[0]):
            codes = self.quantizer.encode(
                self._normalized(x[start:stop], start),
                search,
                workspace_bytes=self.workspace_bytes,
                tables=self._tables,
            )
            out[start:stop] = codes.to(out.dtype).to(out.device)
        return out if as_torch else out.numpy()

    def decode(self, codes: ArrayLike) -> Any:
        """Reconstructions (n, dim) float32 in raw space of codes (n, m), for any 1 <= m <= num_steps.

        Raises:
            ValueError: codes that are no integers, have the wrong number of columns, or are out of range.
        """
        *_, last = self._decoded(codes)
        return last

    def decode_steps(self, codes: ArrayLike) -> Iterator[Any]:
        """Reconstructions (n, dim) in raw space after 1, 2, ..., m codes, in one pass over the steps."""
        return self._decoded(codes)

    @torch.inference_mode()
    def _decoded(self, codes: ArrayLike) -> Iterator[Any]:
        shape = tuple(codes.shape)
        if len(shape) != 2 or not 1 <= shape[1] <= self.num_steps:
            raise ValueError(f"codes of shape {shape} do not fit this codec: expected (n, 1 to {self.num_steps})")
        as_torch = isinstance(codes, Tensor)
        blocks = list(self._blocks(shape[0]))
        # all rows are checked first, so that nothing is decoded from bad codes
        checked = [self._checked_codes(codes[start:stop], start) for start, stop in blocks]
        x_hat: list[Tensor | None] = [None] * len(blocks)
        for index in range(shape[1]):
            table = None if index == 0 else self._tables[index - 1]
            out = torch.empty((shape[0], self.dim), device=self.device if as_torch else None)
            for block, (start, stop) in enumerate(blocks):
                new = self.quantizer.advance(index, checked[block][:, index].long(), x_hat[block], table)
                x_hat[block] = new
                out[start:stop] = self.quantizer.denormalize(new).to(out.device)
            yield out if as_torch else out.numpy()

    def _blocks(self, num_rows: int) -> Iterator[tuple[int, int]]:
        budget = min(self.workspace_bytes or _DEFAULT_BLOCK_BYTES, _DEFAULT_BLOCK_BYTES)
        widths = 4 * self.dim + 3 * self.quantizer.embed_dim + 2 * self.quantizer.hidden_dim
        rows = max(1, budget // (4 * widths))
        return ((start, min(start + rows, num_rows)) for start in range(0, num_rows, rows))

    def _normalized(self, rows: Any, first_row: int) -> Tensor:
        tensor = rows if isinstance(rows, Tensor) else _as_tensor(rows)
        if tensor.dtype not in _INPUT_DTYPES:
            raise ValueError(f"vectors of dtype {tensor.dtype} are not supported: give float32 or uint8")
        x = tensor.to(self.device).float()
        finite = torch.isfinite(x).all(dim=1)
        if not bool(finite.all()):
            row = first_row + int((~finite).nonzero()[0])
            raise ValueError(f"vector {row} holds NaN or infinity (after conversion to float32)")
        return self.quantizer.normalize(x)

    def _checked_codes(self, codes: Any, first_row: int) -> Tensor:
        tensor = codes if isinstance(codes, Tensor) else _as_tensor(codes)
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(f"codes of dtype {tensor.dtype} are refused: expected {self.code_dtype}")
        checked = tensor.to(self.device).to(torch.int32 if tensor.dtype != torch.int64 else torch.int64)
        bad = (checked < 0) | (checked >= self.codebook_size)
        if bool(bad.any()):
            row, column = (int(i) for i in bad.nonzero()[0])
            raise ValueError(
                f"code {int(checked[row, column])} at row {first_row + row}, step {column} is out of range: "
                f"codebook_size is {self.codebook_size}"
            )
        return checked

    def save(self, directory: str | Path) -> None:
        """Write `config.json` and `weights.safetensors`; the directory appears complete or not at all.

        Raises:
            ValueError: the directory exists and is no codec (it is never overwritten).
        """
        target = Path(directory)
        if target.exists() and not (target / "config.json").is_file() and (target.is_file() or any(target.iterdir())):
            raise ValueError(f"{target} exists and is no codec: name another directory")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            temporary.chmod(0o755)
            weights = temporary / "weights.safetensors"
            save_file({name: value.cpu().contiguous() for name, value in self.quantizer.state_dict().items()}, weights)
            config = {
                "format": _FORMAT,
                "version": _VERSION,
                "dim": self.dim,
                "model": self.quantizer.config,
                "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            }
            (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            for path in (weights, temporary / "config.json", temporary):
                _fsync(path)
            _replace_directory(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    @classmethod
    def load(
        cls: type[_Codec],
        directory: str | Path,
        *,
        device: str | torch.device = "cpu",
        workspace_bytes: int | None = None,
    ) -> _Codec:
        """Read a codec directory.

        Raises:
            FileNotFoundError: no codec there.
            ValueError: an unknown format, or weights that do not belong to the config or are damaged.
        """
        source = Path(directory)
        for name in ("config.json", "weights.safetensors"):
            if not (source / name).is_file():
                raise FileNotFoundError(f"no codec in {source}: {name} is missing (train or `qinco import` writes one)")
        try:
            config = json.loads((source / "config.json").read_text())
            if config["format"] != _FORMAT or config["version"] != _VERSION:
                raise ValueError(f"format {config['format']!r} version {config['version']!r}")
            quantizer = QINCo(config["dim"], **config["model"])
            expected_hash = config["weights_sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{source / 'config.json'} is no codec this version reads: {error}") from error
        weights = source / "weights.safetensors"
        if hashlib.sha256(weights.read_bytes()).hexdigest() != expected_hash:
            raise ValueError(
                f"{weights} is damaged or belongs to another codec: its SHA-256 is not that of config.json"
            )
        try:
            quantizer.load_state_dict(load_file(weights))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{weights} does not fit its config.json: {str(error).splitlines()[0]}") from error
        return cls(quantizer, workspace_bytes=workspace_bytes).to(device)


def _as_tensor(rows: Any) -> Tensor:
    array = np.asarray(rows)
    if array.dtype.kind not in "uif" or array.dtype.hasobject:
        raise ValueError(
            f"arrays of dtype {array.dtype} are not supported: give float32 or uint8 (codes: uint8 or uint16)"
        )
    # a copy where torch would warn (read-only maps) or fail (foreign byte order, negative strides)
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace_directory(new: Path, target: Path) -> None:
    """Rename over an existing directory: the old one steps aside first and goes only when the new one stands."""
    if not target.exists():
        new.rename(target)
        return
    aside = target.with_name(f".{target.name}.old-{os.getpid()}")
    target.rename(aside)
    new.rename(target)
    shutil.rmtree(aside)
