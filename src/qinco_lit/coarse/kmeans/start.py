"""Where k-means starts: random rows, or for many lists groups of rows that are each clustered by themselves."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float32, Int64

from qinco_lit.coarse.kmeans.nearest import ExactNearest
from qinco_lit.coarse.kmeans.rows import CentredRows, Workers
from qinco_lit.coarse.kmeans.update import ListSums
from qinco_lit.progress import Progress

# Rows per list that the groups are clustered with: the iterations over all rows that follow improve on it.
START_ROWS_PER_LIST = 32
# Rows of the groups that are clustered together, in memory.
_HELD_BYTES = 1 << 30
GROUP_ROWS_PER_LIST = 128
_ITERATIONS = 8
# Lists that are worth a level of groups of their own.
_MAX_LISTS = 4_096


def random_rows(rows: CentredRows, num_lists: int, rng: np.random.Generator) -> Float32[np.ndarray, "lists dim"]:
    """Different rows, at random."""
    return rows.take(np.sort(rng.choice(rows.num_rows, num_lists, replace=False)).astype(np.int64))


def cluster(
    x: Float32[np.ndarray, "rows dim"], num_lists: int, device: torch.device, rng: np.random.Generator
) -> Float32[np.ndarray, "lists dim"]:
    """k-means of rows in memory; in two levels where there are many lists."""
    if num_lists == 1:
        return np.asarray(x.mean(axis=0, dtype=np.float64, keepdims=True), np.float32)
    if num_lists > _MAX_LISTS:
        return _by_groups(x, num_lists, device, rng)
    centroids = np.take(x, np.sort(rng.choice(len(x), num_lists, replace=False)), axis=0)
    for _ in range(_ITERATIONS):
        sums = ListSums(num_lists, x.shape[1])
        sums.add(x, ExactNearest(centroids, device)(x))
        centroids, _refilled = sums.means(centroids, rng)
    return centroids


def num_groups(num_lists: int) -> int:
    """Groups such that there are as many of them as lists in each."""
    return math.isqrt(num_lists - 1) + 1


def quotas(populations: Int64[np.ndarray, " groups"], num_lists: int) -> Int64[np.ndarray, " groups"]:
    """Lists for each group in proportion to its rows: one at least where there are rows, never more than rows.

    Raises:
        ValueError: fewer rows than lists.
    """
    if num_lists > populations.sum():
        raise ValueError(f"{populations.sum()} rows for {num_lists} lists")
    lists = np.minimum(populations, 1)
    if lists.sum() > num_lists:  # the most populated groups
        lists[np.argsort(-populations, kind="stable")[num_lists:]] = 0
    while (missing := num_lists - int(lists.sum())) > 0:
        room = np.where(lists < populations, populations, 0)
        exact = missing * (room / room.sum())
        more = np.minimum(exact.astype(np.int64), populations - lists)
        if not more.any():  # by the largest remainders
            order = np.lexsort((np.arange(len(room)), -exact))
            more = np.zeros_like(lists)
            more[order[:missing]] = 1
            more = np.minimum(more, populations - lists)
        lists = lists + more
    return np.asarray(lists)


def group_centres(
    x: Float32[np.ndarray, "rows dim"], count: int, device: torch.device, rng: np.random.Generator
) -> Float32[np.ndarray, "groups dim"]:
    """Centres of groups of rows in memory, from evenly spaced ones of them."""
    num_rows = min(len(x), count * GROUP_ROWS_PER_LIST)
    return cluster(x[np.arange(num_rows) * len(x) // num_rows], count, device, rng)


class GroupedStart:
    """Centroids of a file's rows by groups: groups of a sample, then the rows of some groups at a time.

    Args:
        rows: training rows; every pass over them that takes the rows of some groups reads all.
        num_lists: centroids in all.
        workers: each clusters a group, or assigns a block.
        seed: of the random rows.
        progress: told of the rows read.
    """

    def __init__(self, rows: CentredRows, num_lists: int, workers: Workers, seed: int, progress: Progress) -> None:
        self._rows, self._workers, self._seed, self._progress = rows, workers, seed, progress
        count = num_groups(num_lists)
        progress.start("groups", rows.num_rows, unit="rows")
        sample = rows.spread(count * GROUP_ROWS_PER_LIST)
        centres = group_centres(sample, count, workers.device, np.random.default_rng((seed, 1)))
        self._nearest = ExactNearest(centres, workers.device)
        populations = np.zeros(count, np.int64)
        for x, groups in workers.in_order(self._nearest, rows.blocks()):
            populations += np.bincount(groups, minlength=count)
            progress.advance(len(x))
        self._populations, self._quotas = populations, quotas(populations, num_lists)

    def parts(self, first_group: int = 0) -> Iterator[tuple[int, Float32[np.ndarray, "lists dim"]]]:
        """Yield the group that comes next and the centroids found since, from any group on."""
        limit = max(1, _HELD_BYTES // (4 * self._rows.dim))
        while first_group < len(self._quotas):
            held = np.cumsum(np.minimum(self._populations[first_group:], limit))
            stop = first_group + max(1, int(np.searchsorted(held, limit, side="right")))
            parts = [np.empty((0, self._rows.dim), np.float32)]
            for _, part in self._workers.in_order(self._cluster, self._collect(first_group, stop, limit)):
                parts.append(part)
                self._progress.advance()
            yield stop, np.concatenate(parts)
            first_group = stop

    def _cluster(self, group: tuple[int, np.ndarray]) -> Float32[np.ndarray, "lists dim"]:
        number, x = group
        rng = np.random.default_rng((self._seed, 2, number))
        return cluster(x, int(self._quotas[number]), self._workers.device, rng)

    def _collect(self, first: int, stop: int, limit: int) -> Iterator[tuple[int, np.ndarray]]:
        """Numbers and rows of groups that get lists; of a group with more than `limit` rows, evenly spaced ones."""
        strides = -(-self._populations // limit)
        strides = np.where(self._populations // strides.clip(1) < self._quotas, 1, strides.clip(1))
        kept: list[list[np.ndarray]] = [[] for _ in range(first, stop)]
        seen = np.zeros(stop - first, np.int64)
        which = f"groups {first:,} to {stop - 1:,} of {len(self._quotas):,}"
        self._progress.start(f"rows of {which}", self._rows.num_rows, unit="rows")
        for x, groups in self._workers.in_order(self._nearest, self._rows.blocks()):
            self._progress.advance(len(x))
            order = np.argsort(groups, kind="stable")
            bounds = np.searchsorted(groups[order], np.arange(first, stop + 1))
            for place in np.flatnonzero(np.diff(bounds)).tolist():
                members = order[bounds[place] : bounds[place + 1]]
                chosen = (seen[place] + np.arange(len(members))) % strides[first + place] == 0
                seen[place] += len(members)
                kept[place].append(x[members[chosen]])
        quotas = self._quotas[first:stop]
        self._progress.start(f"centroids of {which}", int(np.count_nonzero(quotas)), unit="groups")
        for place in range(stop - first):
            parts, kept[place] = kept[place], []
            if quotas[place]:
                yield first + place, np.concatenate(parts)


def _by_groups(
    x: Float32[np.ndarray, "rows dim"], num_lists: int, device: torch.device, rng: np.random.Generator
) -> Float32[np.ndarray, "lists dim"]:
    count = num_groups(num_lists)
    members = ExactNearest(group_centres(x, count, device, rng), device)(x)
    shares = quotas(np.bincount(members, minlength=count), num_lists)
    parts = []
    for group, share in enumerate(shares):
        some = x[members == group]
        if 2 * share > num_lists:  # hardly divided at all, as copies of one row
            parts.append(some[np.sort(rng.choice(len(some), int(share), replace=False))])
        elif share:
            parts.append(cluster(some, int(share), device, rng))
    return np.concatenate(parts)
