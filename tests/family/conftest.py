"""Every member of the family, trained once, on files that half a second makes."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from qinco_lit import Codec
from qinco_lit.vectors import open_codes
from tests.family.members import (
    DATA,
    DIM,
    ENCODER,
    FLOAT32,
    LISTS,
    MEMBERS,
    QUERIES,
    ROWS,
    SMALL,
    TRAIN,
    VAL,
    Walk,
    qinco,
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors around some centroids."""
    made, rng = tmp_path_factory.mktemp("family"), np.random.default_rng(0)
    centroids, mixture = 3 * rng.normal(size=(LISTS, DIM)), rng.normal(size=(DIM, DIM))
    np.save(made / "centroids.npy", np.float32(centroids))
    for name, rows in {"train": TRAIN + VAL, "base": ROWS, "queries": QUERIES}.items():
        x = centroids[rng.integers(0, LISTS, rows)] + rng.normal(size=(rows, DIM)) @ mixture
        np.save(made / f"{name}.npy", np.float32(x))
    return made


@pytest.fixture(scope="session")
def walk_of(folder: Path) -> Callable[[str], Walk]:
    """A member by name, trained, evaluated at every rate, its database encoded and decoded: at the first call."""

    @cache
    def walked(name: str) -> Walk:
        member, codec, store = MEMBERS[name], f"codec={name}/codec", f"{name}/codes.h5"
        for arguments in (
            ("train", *member.arguments, *DATA, *SMALL, f"hydra.run.dir={name}"),
            ("evaluate", codec, *DATA, *FLOAT32, "rate=all", f"hydra.run.dir={name}/evaluated"),
            ("encode", codec, "input=base.npy", f"output={store}", "packed=true", *ENCODER),
            ("decode", codec, f"codes={store}", f"output={name}/decoded.npy", "device=cpu"),
        ):
            assert qinco(folder, *arguments) == ""
        codes = open_codes(folder / store)
        list_ids = codes.list_ids() if member.has_lists else None
        own = Codec.load(folder / name / "codec", precision="float32")
        metrics = json.loads((folder / name / "evaluated" / "metrics.json").read_text())
        return Walk(name, member, folder, own, metrics, codes[:], list_ids)

    return walked


@pytest.fixture(scope="session", params=MEMBERS)
def walk(request: pytest.FixtureRequest, walk_of: Callable[[str], Walk]) -> Walk:
    return walk_of(request.param)
