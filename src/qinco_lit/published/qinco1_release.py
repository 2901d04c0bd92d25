"""The QINCo1 release's pickled models, read as data (docs/checkpoints.md, *QINCo1 release*)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from qinco_lit.published.checkpoint_file import (
    MODULE,
    Record,
    check_finite,
    check_stored,
    read_checkpoint,
    stored_sizes,
)

PART_PREFIX = "sub_quantizer_"
OPQ_MATRIX = "opq_matrix"
_FAMILIES = ("QINCo", "QINCoLR", "IVFQINCo", "PQ_QINCo")
_SIZES = ("d", "K", "L", "M", "h", "K_IVF", "db_scale")
_MAX_DEPTH = 8  # of modules in modules; the release has 4


@dataclass(frozen=True)
class Qinco1Model:
    """A model of the release, without code.

    Attributes:
        family: `QINCo`, `QINCoLR`, `IVFQINCo` or `PQ_QINCo`.
        sizes: those of d, K, L, M, h, K_IVF, db_scale that it has, as stored.
        state: its tensors by state-dict name, float32 and finite, those of `parts` included.
        parts: sub-quantizers in order (PQ_QINCo; empty for the others).
    """

    family: str
    sizes: dict[str, float]
    state: dict[str, Tensor]
    parts: tuple["Qinco1Model", ...]


def read_qinco1_release(path: str | Path) -> Qinco1Model:
    """Read a file of the release; nothing in it is run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no torch file, truncated or damaged; a pickle that refers to, builds or calls anything that no
            model of the release needs, which is named; NaN or infinity in a tensor.
    """
    source = Path(path)
    return described(read_checkpoint(source), source)


def described(root: object, source: Path) -> Qinco1Model:
    """The model of what `read_checkpoint` found in a file. Raises ValueError as `read_qinco1_release`."""
    if not isinstance(root, Record) or not _is_model(root):
        kind = root.class_name if isinstance(root, Record) else type(root).__name__
        raise ValueError(f"{source} is neither tensors in a dict nor a model of the QINCo1 release: it holds a {kind}")
    return _Reader(source).model(root)


# --- from records to a description ----------------------------------------------------------------------------------


def _is_model(record: Record) -> bool:
    return record.class_name.removeprefix(MODULE) in _FAMILIES


class _Reader:
    def __init__(self, source: Path) -> None:
        self._source, self._stored_sizes = source, stored_sizes(source)
        self._seen: set[int] = set()

    def model(self, record: Record) -> Qinco1Model:
        return self._described(record, self._state(record, _MAX_DEPTH))

    def _described(self, record: Record, state: dict[str, Tensor]) -> Qinco1Model:
        kept = record.attributes.get(OPQ_MATRIX)
        if kept is not None:  # a plain attribute, not a parameter: it must not be passed over
            state[OPQ_MATRIX] = self._tensor(OPQ_MATRIX, kept)
        family, parts = record.class_name.removeprefix(MODULE), self._parts(record)
        described = []
        for prefix, module in parts.items():
            below = {name: tensor for name, tensor in state.items() if name.startswith(f"{prefix}.")}
            below = {name.removeprefix(f"{prefix}."): tensor for name, tensor in below.items()}
            described.append(self._described(module, below))
        return Qinco1Model(family, self._sizes(record), state, tuple(described))

    def _parts(self, record: Record) -> dict[str, Record]:
        """Models in a model, by name, in order; as many as the model lists, none missing in between."""
        found = {name: module for name, module in self._modules(record).items() if _is_model(module)}
        listed = record.attributes.get("sub_quantizers", [])
        number = max(len(found), len(listed) if isinstance(listed, list) else 0)
        names = [f"{PART_PREFIX}{index}" for index in range(number)]
        missing, unknown = [name for name in names if name not in found], [name for name in found if name not in names]
        if missing or unknown:
            raise ValueError(
                f"{self._source}: its {record.class_name} has {number} parts: missing {missing[:3]}, "
                f"unknown {unknown[:3]}"
            )
        return {name: found[name] for name in names}

    def _sizes(self, record: Record) -> dict[str, float]:
        sizes: dict[str, float] = {}
        for name in _SIZES:
            value: Any = record.attributes.get(name)
            if isinstance(value, Tensor) and value.shape == ():
                value = self._tensor(name, value).item()
            if isinstance(value, int | float):
                sizes[name] = value
            elif value is not None:
                raise ValueError(
                    f"{self._source}: {name} of its {record.class_name} is a {type(value).__name__}, not a number"
                )
        return sizes

    def _state(self, record: Record, depth: int) -> dict[str, Tensor]:
        # a module inside itself, or shared a thousandfold, would not end
        if depth == 0 or id(record) in self._seen:
            raise ValueError(f"{self._source}: its modules are shared or nested deeper than {_MAX_DEPTH}")
        self._seen.add(id(record))
        state = {}
        for kind in ("_parameters", "_buffers"):
            stored = record.attributes.get(kind, {})
            if not isinstance(stored, dict):
                raise ValueError(f"{self._source}: {kind} of its {record.class_name} is a {type(stored).__name__}")
            for name, value in stored.items():
                if value is not None:
                    state[str(name)] = self._tensor(str(name), value)
        for prefix, module in self._modules(record).items():
            below = self._state(module, depth - 1)
            state |= {f"{prefix}.{name}": tensor for name, tensor in below.items()}
        return state

    def _tensor(self, name: str, value: object) -> Tensor:
        if not isinstance(value, Tensor):
            raise ValueError(f"{self._source}: {name} is a {type(value).__name__}, not a tensor")
        value = value.detach()
        check_stored(self._source, name, value, self._stored_sizes)
        check_finite(self._source, name, value)
        return value.float()

    def _modules(self, record: Record) -> dict[str, Record]:
        modules = record.attributes.get("_modules", {})
        if not isinstance(modules, dict) or not all(isinstance(module, Record) for module in modules.values()):
            raise ValueError(f"{self._source}: the modules of its {record.class_name} are no modules")
        return modules
