"""Batches that are trained on a second time, some batches later, with the codes found the first time."""

from collections import deque
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


class Searched(NamedTuple):
    """A batch of raw vectors and the codes that were found for it."""

    batch: Shaped[Tensor, "batch dim"]
    codes: Int[Tensor, "batch codes"]
    list_ids: Int[Tensor, " batch"] | None


class Replay:
    """The last batches of this rank: each is given back once, when `after` others have come.

    To search codes takes most of a training step's time, and the codes of some steps ago are almost those of now.

    Args:
        after: batches between the two times; 0: none is given back.
    """

    def __init__(self, after: int) -> None:
        self._after = after
        self._kept: deque[Searched] = deque()

    def exchange(self, searched: Searched) -> Searched | None:
        """Keep a batch; the one to train on once more, None where none is old enough."""
        if not self._after:
            return None
        # a view would keep all that it is a view of: the rows that were read with it, and were written with it
        self._kept.append(searched._replace(batch=searched.batch.clone()))
        return self._kept.popleft() if len(self._kept) > self._after else None

    def state_of_all_ranks(self, world_size: int) -> list[list[dict[str, Any]]]:
        """By rank, the batches kept, oldest first; all ranks must ask at the same time."""
        own = [
            {name: None if value is None else value.cpu() for name, value in each._asdict().items()}
            for each in self._kept
        ]
        every: list[Any] = [own]
        if world_size > 1:
            every = [None] * world_size
            torch.distributed.all_gather_object(every, own)
        return every

    def load(self, every: list[list[dict[str, Any]]], rank: int, device: torch.device) -> None:
        """Take back a rank's batches; one that was not there has none."""
        own = every[rank] if rank < len(every) else []
        moved: list[dict[str, Any]] = [
            {name: None if value is None else value.to(device) for name, value in each.items()} for each in own
        ]
        self._kept = deque(Searched(**each) for each in moved)
