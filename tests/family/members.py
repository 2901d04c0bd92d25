"""The family in small: what is typed to train each member, and the walk of one of them through the commands."""

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit import Codec, cli

DIM, LISTS, TRAIN, VAL, ROWS, QUERIES = 10, 6, 600, 60, 120, 20
IVF = ("coarse=ivf", "coarse.centroids=centroids.npy")
DATA = (
    "data=files", "data.train=train.npy", "data.database=base.npy", "data.queries=queries.npy",
    f"data.num_val={VAL}", "data_dir=data",
)  # fmt: skip
SMALL = (
    "model.embed_dim=8", "model.hidden_dim=8", "model.num_blocks=1", "recipe.batch_size=200", "logger=none",
    "recipe.kmeans_iterations=2", "recipe.search_precision=float32", "trainer.accelerator=cpu", "trainer.max_epochs=1",
)  # fmt: skip
FLOAT32 = ("device=cpu", "precision=float32")
ENCODER = ("trainer.accelerator=cpu", "precision=float32")


@dataclass(frozen=True)
class Member:
    """One of the family: its name in reports, options of `qinco train`, and what the codec must be then."""

    label: str
    options: tuple[str, ...]
    num_steps: int = 4
    codebook_size: int = 16
    bits: int = 16
    part_dims: tuple[int, ...] = (DIM,)
    part_steps: tuple[int, ...] = (4,)

    @property
    def has_lists(self) -> bool:
        return set(IVF) <= set(self.options)

    @property
    def arguments(self) -> tuple[str, ...]:
        """All that describes the model."""
        sizes = (f"model.num_steps={self.num_steps}", f"model.codebook_size={self.codebook_size}")
        return (*self.options, *sizes)

    @property
    def least_steps(self) -> int:
        """Of a truncated codec: every part has a code."""
        rounds = [(step, part) for part, steps in enumerate(self.part_steps) for step in range(steps)]
        return 1 + max(sorted(rounds).index((0, part)) for part in range(len(self.part_steps)))


MEMBERS = {
    "qinco_lr": Member("QINCo1-LR", ("model=qinco_lr",)),
    "opq_qinco1": Member(
        "OPQ-QINCo1", ("model=pq_qinco", "opq=true"), part_dims=(5, 5), part_steps=(2, 2)
    ),
    "pq_qinco2": Member(
        "PQ-QINCo2",
        ("model=pq_qinco2", "model.part_dims=[6,4]", "model.part_steps=[3,1]"),
        part_dims=(6, 4),
        part_steps=(3, 1),
    ),
    "ivf_qinco1": Member("QINCo1", ("model=qinco1", *IVF)),
    "ivf_pq_qinco1": Member("PQ-QINCo1", ("model=pq_qinco", *IVF), part_dims=(5, 5), part_steps=(2, 2)),
    "codes_of_4_bits": Member("QINCo2", ("model=qinco2_tiny", *IVF), 12, 16, 48, part_steps=(12,)),
    "codes_of_10_bits": Member("QINCo2", ("model=qinco2_tiny", *IVF), 12, 1024, 120, part_steps=(12,)),
    "codes_of_12_bits": Member("QINCo2", ("model=qinco2_tiny", *IVF), 9, 4096, 108, part_steps=(9,)),
}  # fmt: skip


@dataclass(frozen=True)
class Walk:
    """A member that was trained, evaluated, encoded and decoded in `folder`, where its files lie under its name."""

    name: str
    member: Member
    folder: Path
    codec: Codec
    metrics: dict[str, Any]
    codes: np.ndarray
    list_ids: np.ndarray | None

    def path(self, name: str) -> Path:
        return self.folder / self.name / name

    def read(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.path(name).read_text()))

    def qinco(self, *arguments: str) -> str:
        """Run a command in the folder, where the member's files are @/NAME; its error, or "" when it has worked."""
        return qinco(self.folder, *(each.replace("@/", f"{self.name}/") for each in arguments))

    def rows(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy")

    def decoded(self, codes: np.ndarray) -> np.ndarray:
        lists = {} if self.list_ids is None else {"list_ids": self.list_ids}
        return self.codec.decode(codes, **lists)

    def encoded(self, num_steps: int) -> np.ndarray:
        """Reconstructions of encodings of exactly so many codes."""
        found = self.codec.encode(self.rows("base"), num_steps=num_steps)
        return self.decoded(found if self.list_ids is None else found[1])


def qinco(folder: Path, *arguments: str) -> str:
    """Run a command line there; what it says to standard error when it fails, "" when it works."""
    errors = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stderr(errors), _without_plots():
        code = cli.main(list(arguments))
    assert code in (0, 2)
    assert code == 0 or errors.getvalue()
    return errors.getvalue() if code else ""


@contextlib.contextmanager
def _without_plots() -> Iterator[None]:
    """Half of the time of an evaluation; that plots are drawn is tested with the reports."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ("evaluate", "search"):
            patch.setattr(f"qinco_lit.commands.{place}.figure_bytes", lambda *_: b"")
        yield


def mse(x: np.ndarray, x_hat: np.ndarray) -> float:
    """Mean over vectors of the squared error, summed over dimensions."""
    return float(np.square(np.float64(x) - x_hat).sum(axis=1).mean())


def recalls(queries: np.ndarray, base: np.ndarray, x_hat: np.ndarray, k: int) -> tuple[float, float]:
    """Least and largest R@k of exact search in reconstructions: equal ones have no order."""
    true = np.square(np.float64(queries)[:, None] - base).sum(-1).argmin(1)
    scores = np.square(np.float64(queries)[:, None] - x_hat).sum(-1)
    own = np.take_along_axis(scores, true[:, None], 1)
    rounding = 1e-5 * scores.max(1, keepdims=True)
    nearer, not_farther = (scores < own - rounding).sum(1), (scores <= own + rounding).sum(1)
    return float((not_farther <= k).mean()), float((nearer < k).mean())
