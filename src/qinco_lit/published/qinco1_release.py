"""The QINCo1 release's pickled models, read as data (algorithm: *Published checkpoints*)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qinco_lit.published.inert_pickle import read_inert
from qinco_lit.published.inert_values import Record, RefusedPickleError, StoredTensor
from qinco_lit.published.torch_archive import TorchArchive
from qinco_lit.published.weights import check_finite, check_sizes, fill
from qinco_lit.quantizers import QINCo

_MODULE = "model_qinco."
_CLASSES = {
    *(_MODULE + name for name in ("QINCo", "QINCoLR", "IVFQINCo", "PQ_QINCo", "QINCoStep")),
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.sparse.Embedding",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.Sequential",
}
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
    with TorchArchive(source) as archive:
        try:
            root = read_inert(archive.pickle(), _CLASSES)
        except RefusedPickleError as error:
            raise ValueError(f"{source} is refused: {error}") from error
        if not isinstance(root, Record) or not _is_model(root):
            kind = root.class_name if isinstance(root, Record) else type(root).__name__
            raise ValueError(
                f"{source} is neither tensors in a dict nor a model of the QINCo1 release: it holds a {kind}"
            )
        return _Reader(archive, source).model(root)


def build_qinco1(model: Qinco1Model, source: Path) -> QINCo:
    """The quantizer of a model of the release.

    Raises:
        ValueError: a family that this version has no model for, or tensors that do not fit.
    """
    return _FAMILIES[model.family](model, source)


def _plain(model: Qinco1Model, source: Path) -> QINCo:
    return _single(model, source, ivf=False)


def _ivf(model: Qinco1Model, source: Path) -> QINCo:
    return _single(model, source, ivf=True)


def _single(model: Qinco1Model, source: Path, *, ivf: bool) -> QINCo:
    """QINCo1; with `ivf`, `codebook0` holds the coarse centroids, and steps are numbered from 0 instead of 1."""
    state, sizes = model.state, model.sizes
    first = 0 if ivf else 1
    table, codebook = (state.get(name, torch.empty(0)) for name in ("codebook0.weight", f"step{first}.codebook.weight"))
    codebook = codebook if ivf else table
    blocks = sum(name.startswith(f"step{first}.residual_block") and name.endswith(".0.weight") for name in state)
    found = {"M": first + sum(name.endswith(".codebook.weight") for name in state)}
    found |= {"K": codebook.shape[0], "d": codebook.shape[1]} if codebook.ndim == 2 else {}
    found |= {"K_IVF": table.shape[0]} if ivf else {}
    found |= {"L": blocks, "h": state[f"step{first}.residual_block0.0.weight"].shape[0]} if blocks else {}
    check_sizes(source, sizes, found)
    try:
        quantizer = QINCo(
            found["d"],
            num_steps=found["M"],
            codebook_size=found["K"],
            embed_dim=None,
            hidden_dim=found.get("h", int(sizes.get("h", 1))),  # without a network, what the file says
            num_blocks=found.get("L", int(sizes.get("L", 1))),
            outer_skip=False,
            num_candidates=0,
            beam_size=1,
            num_lists=found.get("K_IVF"),
        )
        scale = torch.tensor(float(sizes["db_scale"]))
    except (KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"{source}: its attributes {sizes} describe no QINCo model ({error!s})") from error
    state = {**state, "data_mean": torch.zeros(found["d"]), "db_scale": scale}
    fill(quantizer, state, {"data_mean": "data_mean", "db_scale": "data_std", **_names(quantizer)}, source)
    return quantizer


def _waits_for(needed: str) -> Callable[[Qinco1Model, Path], QINCo]:
    def refuse(model: Qinco1Model, source: Path) -> QINCo:
        sizes = ", ".join(f"{name}={size:g}" for name, size in model.sizes.items())
        of_parts = f" of {len(model.parts)} parts" if model.parts else ""
        raise ValueError(
            f"{source} holds a {model.family}{of_parts} ({sizes}) of the QINCo1 release: it waits for {needed}"
        )

    return refuse


# a family is read when its function builds a quantizer
_FAMILIES: dict[str, Callable[[Qinco1Model, Path], QINCo]] = {
    "QINCo": _plain,
    "QINCoLR": _waits_for("networks with a low-rank first layer, which this version lacks"),
    "IVFQINCo": _ivf,
    "PQ_QINCo": _waits_for("product quantizers of QINCo parts, which this version lacks"),
}


def _names(quantizer: QINCo) -> dict[str, str]:
    ivf = quantizer.num_lists is not None
    names = {"codebook0.weight": "coarse_centroids" if ivf else "first_codebook"}
    for index, step in enumerate(quantizer.residual_steps()):
        theirs, ours = f"step{index if ivf else index + 1}", f"steps.{index}"
        names[f"{theirs}.codebook.weight"] = f"{ours}.codebook"
        for part in ("weight", "bias"):
            names[f"{theirs}.MLPconcat.{part}"] = f"{ours}.network.concat.{part}"
        for block in range(len(step.network.up)):
            for number, part in ((0, "up"), (2, "down")):
                names[f"{theirs}.residual_block{block}.{number}.weight"] = f"{ours}.network.{part}.{block}.weight"
    return names


# --- from records to a description ----------------------------------------------------------------------------------


def _is_model(record: Record) -> bool:
    return record.class_name.removeprefix(_MODULE) in _FAMILIES


class _Reader:
    def __init__(self, archive: TorchArchive, source: Path) -> None:
        self._archive, self._source = archive, source
        self._seen: set[int] = set()

    def model(self, record: Record) -> Qinco1Model:
        return self._described(record, self._state(record, _MAX_DEPTH))

    def _described(self, record: Record, state: dict[str, Tensor]) -> Qinco1Model:
        parts = []
        for prefix, module in self._modules(record).items():
            if _is_model(module):
                below = {name: tensor for name, tensor in state.items() if name.startswith(f"{prefix}.")}
                below = {name.removeprefix(f"{prefix}."): tensor for name, tensor in below.items()}
                parts.append(self._described(module, below))
        return Qinco1Model(record.class_name.removeprefix(_MODULE), self._sizes(record), state, tuple(parts))

    def _sizes(self, record: Record) -> dict[str, float]:
        sizes: dict[str, float] = {}
        for name in _SIZES:
            value: Any = record.attributes.get(name)
            if isinstance(value, StoredTensor) and value.shape == ():
                value = self._archive.tensor(value).item()
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
        if not isinstance(value, StoredTensor):
            raise ValueError(f"{self._source}: {name} is a {type(value).__name__}, not a tensor")
        tensor = self._archive.tensor(value)
        check_finite(self._source, name, tensor)
        return tensor.float()

    def _modules(self, record: Record) -> dict[str, Record]:
        modules = record.attributes.get("_modules", {})
        if not isinstance(modules, dict) or not all(isinstance(module, Record) for module in modules.values()):
            raise ValueError(f"{self._source}: the modules of its {record.class_name} are no modules")
        return modules
