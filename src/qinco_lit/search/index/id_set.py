"""Which ids an index has, in little memory where they are dense, as positions are."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt64

_FEWEST_LATE, _LATE_PART = 4096, 64  # changes that wait until they are merged: so many, or this part of the runs


class IdSet:
    """Ids from 0 to 2^63 - 1 as runs of neighbours: 16 bytes a run; what a question or a change costs is no sort.

    Args:
        ids: distinct, in any order.
    """

    def __init__(self, ids: Int64[np.ndarray, " n"]) -> None:
        self._starts, self._stops = _runs(np.sort(ids))
        self._added: set[int] = set()
        self._removed: set[int] = set()

    def __len__(self) -> int:
        merged = int((self._stops - self._starts).sum())
        return merged + len(self._added) - len(self._removed)

    def has(self, ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which of these ids are in the set."""
        merged = self._merged_has(ids)
        if not self._added and not self._removed:
            return merged
        late = zip(ids.tolist(), merged.tolist(), strict=True)
        return np.array([(known or one in self._added) and one not in self._removed for one, known in late], bool)

    def add(self, ids: Int64[np.ndarray, " n"]) -> None:
        """Take ids that are not in the set."""
        self._change(ids, self._removed, self._added)

    def remove(self, ids: Int64[np.ndarray, " n"]) -> None:
        """Give up ids; those that are not in the set do not matter."""
        self._change(np.unique(ids[self.has(ids)]), self._added, self._removed)

    def _change(self, ids: Int64[np.ndarray, " n"], undone: set[int], late: set[int]) -> None:
        given = set(ids.tolist())
        late |= given - undone
        undone -= given
        if len(self._added) + len(self._removed) > max(_FEWEST_LATE, len(self._starts) // _LATE_PART):
            self._merge()

    def _merge(self) -> None:
        starts, stops = _runs(_sorted(self._removed))
        # a run that is taken out ends what is before it and starts what is after it
        self._starts, self._stops = _joined(np.append(self._starts, stops), np.append(self._stops, starts))
        starts, stops = _runs(_sorted(self._added))
        self._starts, self._stops = _joined(np.append(self._starts, starts), np.append(self._stops, stops))
        self._added.clear()
        self._removed.clear()

    def _merged_has(self, ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        asked = ids.astype(np.uint64)  # a negative one is beyond all others
        place = np.searchsorted(self._starts, asked, side="right") - 1
        found = np.zeros(len(ids), dtype=bool)
        found[place >= 0] = asked[place >= 0] < self._stops[place[place >= 0]]
        return found


def _sorted(ids: set[int]) -> Int64[np.ndarray, " n"]:
    return np.sort(np.fromiter(ids, np.int64, len(ids)))


def _joined(
    starts: UInt64[np.ndarray, " all"], stops: UInt64[np.ndarray, " all"]
) -> tuple[UInt64[np.ndarray, " runs"], UInt64[np.ndarray, " runs"]]:
    """Bounds in order; what starts where something ends is one with it, and nothing lies between equal bounds."""
    both = np.intersect1d(starts, stops, assume_unique=True)
    return np.setdiff1d(starts, both), np.setdiff1d(stops, both)


def _runs(ids: Int64[np.ndarray, " n"]) -> tuple[UInt64[np.ndarray, " runs"], UInt64[np.ndarray, " runs"]]:
    """First ids of runs of ascending ids, and the ids after their last ones: 2^63 is one of these."""
    ends: Any = np.flatnonzero(np.diff(ids) != 1)
    bounds = ids.astype(np.uint64)
    return bounds[np.append(0, ends + 1)[: len(ids)]], bounds[np.append(ends, len(ids) - 1)[: len(ids)]] + np.uint64(1)
