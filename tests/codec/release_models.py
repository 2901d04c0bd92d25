"""Models of the QINCo1 release, pickled by this process: classes of the same names, from a description."""

import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

SIZES: dict[str, Any] = {"d": 6, "K": 8, "L": 2, "M": 3, "h": 5, "db_scale": 2.5}


class QINCoStep(nn.Module):
    def __init__(self, sizes: dict[str, Any], low_rank: bool) -> None:
        super().__init__()
        dim, hidden = sizes["d"], sizes["h"]
        self.codebook = nn.Embedding(sizes["K"], dim)
        factors = nn.Linear(2 * dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)
        self.MLPconcat = nn.Sequential(*factors) if low_rank else nn.Linear(2 * dim, dim)
        for block in range(sizes["L"]):
            layers = nn.Linear(dim, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, dim, bias=False)
            setattr(self, f"residual_block{block}", nn.Sequential(*layers))


class QINCo(nn.Module):
    """A single model; `attributes` are what it says of itself, true or not."""

    low_rank = False

    def __init__(self, sizes: dict[str, Any], **attributes: Any) -> None:
        super().__init__()
        self.codebook0 = nn.Embedding(sizes["K"], sizes["d"])
        for step in range(1, sizes["M"]):
            setattr(self, f"step{step}", sys.modules["model_qinco"].QINCoStep(sizes, self.low_rank))
        for name, value in {**sizes, **attributes}.items():
            setattr(self, name, value)


class QINCoLR(QINCo):
    low_rank = True


class IVFQINCo(QINCo):
    def __init__(self, sizes: dict[str, Any], **attributes: Any) -> None:
        super().__init__(sizes, **attributes)
        self.codebook0 = nn.Embedding(attributes["K_IVF"], sizes["d"])
        self.step0 = sys.modules["model_qinco"].QINCoStep(sizes, low_rank=False)


class PQ_QINCo(nn.Module):  # noqa: N801  (the release's name)
    def __init__(self, parts: Sequence[nn.Module], opq: Tensor | None = None, **attributes: Any) -> None:
        super().__init__()
        self.db_scale = 1
        self.sub_quantizers = list(parts)
        for index, part in enumerate(parts):
            self.add_module(f"sub_quantizer_{index}", part)
        self.opq_matrix = None if opq is None else nn.Parameter(opq)
        for name, value in attributes.items():
            setattr(self, name, value)


class Release:
    """The classes, under the module name of the release for as long as the test runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        module = types.ModuleType("model_qinco")
        for cls in (QINCoStep, QINCo, QINCoLR, IVFQINCo, PQ_QINCo):
            setattr(module, cls.__name__, cls)
            monkeypatch.setattr(cls, "__module__", "model_qinco")
        monkeypatch.setitem(sys.modules, "model_qinco", module)

    def single(self, family: type[QINCo] = QINCo, sizes: dict[str, Any] | None = None, **attributes: Any) -> Any:
        """A model of sizes that differ from `SIZES` by `sizes`, saying of itself what `attributes` say."""
        return family({**SIZES, **(sizes or {})}, **attributes)

    def product(self, *sizes: dict[str, Any], opq: Tensor | None = None, **attributes: Any) -> Any:
        """A product of a `QINCo` for each of `sizes`."""
        return PQ_QINCo([self.single(sizes=own) for own in sizes], opq, **attributes)
