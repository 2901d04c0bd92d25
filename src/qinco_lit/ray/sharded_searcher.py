"""An index in parts, each in the memory of Ray actors."""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qinco_lit import ray_cluster as cluster
from qinco_lit.options import Count, checked
from qinco_lit.search.index.part_folders import part_folders
from qinco_lit.search.parts import IndexPart, PartsSearcher

log = logging.getLogger(__name__)

_PATIENCE_S = 30  # before it is said what is waited for


class ShardedSearcher(PartsSearcher):
    """Searches an index whose parts lie in the memory of Ray actors, with `search` and the results of `Searcher`.

    An actor that dies is started again by Ray and loads its part again; its work is done by another replica, or waits
    for it. A part that cannot be loaded again ends every search with an error: no result leaves out a part.

    Args:
        parts: folder of `qinco index parts=P merge=false`, or the folders of all parts, that the actors' nodes see.
        replicas: actors of each part, which take turns.
        num_cpus, num_gpus: of each actor, as Ray counts them; the threads of an actor are as many as its CPUs.
        mmap, precision, device: as of `Searcher.load`; device auto is the GPU where num_gpus says so.

    Raises:
        FileNotFoundError: no index there.
        ValueError: parts that are damaged, not of one index, there twice, or not all; Ray is not installed.
    """

    @checked
    def __init__(
        self,
        parts: str | Path | Sequence[str | Path],
        *,
        replicas: Count = 1,
        num_cpus: float = 1,
        num_gpus: float = 0,
        mmap: bool = False,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        folders = part_folders(parts)
        options = {"mmap": mmap, "precision": precision}
        options["device"] = ("cuda" if num_gpus else "cpu") if device == "auto" else device
        actors = _Actors(folders, replicas, options, num_cpus=num_cpus, num_gpus=num_gpus)
        super().__init__(actors, actors.every("facts"))


class _Actors:
    """The parts of an index (`qinco_lit.search.parts.Parts`), some actors each."""

    def __init__(
        self, folders: Sequence[str], replicas: int, options: dict[str, Any], *, num_cpus: float, num_gpus: float
    ) -> None:
        self._ray = cluster.ray()
        actor = self._ray.remote(IndexPart).options(
            num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=-1, scheduling_strategy="SPREAD"
        )
        self._replicas = [[actor.remote(folder, **options) for _ in range(replicas)] for folder in folders]
        self.num_workers = len(folders) * replicas
        self._turn = itertools.count()
        self._wait(f"{self.num_workers} actors of num_cpus={num_cpus:g} num_gpus={num_gpus:g}")

    def _wait(self, wanted: str) -> None:
        """Until all are there; say so when the cluster has no room for them."""
        ready = [actor.facts.remote() for actors in self._replicas for actor in actors]
        left = self._ray.wait(ready, num_returns=len(ready), timeout=_PATIENCE_S)[1]
        if left:
            there = self._ray.cluster_resources()
            has = f"CPU {there.get('CPU', 0):g}, GPU {there.get('GPU', 0):g}"
            log.warning("waiting for Ray to start %s; the cluster has %s in all", wanted, has)
        for each in ready:
            self._get(each, [])

    def every(self, method: str, *arguments: Any) -> list[Any]:
        """What each of the parts answers, in their order."""
        turn = next(self._turn)
        return self._answers(method, [(_from(actors, turn), arguments) for actors in self._replicas])

    def share(self, method: str, each: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to calls that any part may take."""
        turn = next(self._turn)
        actors = [actor for replicas in zip(*self._replicas, strict=True) for actor in replicas]
        return self._answers(method, [(_from(actors, turn + number), call) for number, call in enumerate(each)])

    def _answers(self, method: str, calls: list[tuple[list[Any], tuple[Any, ...]]]) -> list[Any]:
        """Of all calls at once; each goes to the first of its actors that lives, else waits until one lives again."""
        sent = []
        for actors, arguments in calls:
            tries = [getattr(actor, method) for actor in actors]
            tries[-1] = tries[-1].options(max_task_retries=-1)
            sent.append((tries[0].remote(*arguments), tries[1:], arguments))
        return [self._get(reference, others, *arguments) for reference, others, arguments in sent]

    def _get(self, reference: Any, others: list[Any], *arguments: Any) -> Any:
        for method in others:
            try:
                return cluster.result(reference)
            except self._ray.exceptions.RayActorError:
                reference = method.remote(*arguments)
        return cluster.result(reference)


def _from(actors: Sequence[Any], turn: int) -> list[Any]:
    """All of them, beginning with another one at each turn."""
    first = turn % len(actors)
    return [*actors[first:], *actors[:first]]
