"""The first codes of every vector of a store, without a copy of it."""

from typing import Any

import numpy as np
from jaxtyping import Int32, Integer

from qinco_lit.vectors import CodeStore


class FirstCodes:
    """Codes with the list of each vector, as `qinco_lit.search.index.lists.StoredCodes`.

    Args:
        store: of at least `num_steps` codes a vector.
        num_steps: of them, the first.
    """

    def __init__(self, store: CodeStore, num_steps: int) -> None:
        assert 1 <= num_steps <= store.shape[1]
        self.store, self.num_steps = store, num_steps

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, rows: slice, /) -> Integer[np.ndarray, "n steps"]:
        codes: Any = self.store[rows]
        return np.asarray(codes[:, : self.num_steps])

    def list_ids(self, start: int, stop: int) -> Int32[np.ndarray, " n"]:
        """Lists of a row range."""
        return self.store.list_ids(start, stop)
