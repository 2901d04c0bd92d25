"""Parts of an index in actors of Ray: the results of the merged index, whoever dies."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qinco_lit.ray import ShardedSearcher, sharded_searcher
from qinco_lit.search.searcher import Searcher
from tests.search.indexes import indexed
from tests.search.test_parts import in_parts


def until_the_kill_has_arrived(call: Callable[[], Any]) -> None:
    """Call again and again; it raises at last."""
    for _ in range(1000):
        call()


def test_results_are_those_of_the_merged_index_though_an_actor_is_killed(cluster, tmp_path):
    data = indexed()
    whole, folders = in_parts(data, tmp_path, 2)
    searcher, one = ShardedSearcher(folders), Searcher.load(whole)
    assert (len(searcher), searcher.metric, searcher.has_pairwise) == (len(one), "l2", True)
    originals = np.zeros((data.ids.max() + 1, searcher.dim), np.float32)
    originals[data.ids] = data.x

    def check() -> None:
        for options in ({"k": 3}, {"num_pairwise": 20, "nprobe": 5}, {"refine": originals}):
            expected, found = one.search(data.queries, **options), searcher.search(data.queries, **options)
            np.testing.assert_array_equal(found[1], expected[1])
            np.testing.assert_array_equal(found[0], expected[0])

    check()
    with pytest.raises(ValueError, match="queries of shape .* do not fit this index"):
        searcher.search(data.queries[:, :3])
    away = folders[0].rename(tmp_path / "away")
    cluster.kill(searcher._parts._replicas[0][0], no_restart=False)
    with pytest.raises(FileNotFoundError, match=f"^no index in {folders[0]}: config.json is missing"):
        until_the_kill_has_arrived(lambda: searcher.search(data.queries))  # rather than the other part's results
    away.rename(folders[0])
    check()


def test_replicas_take_turns_and_stand_in_for_each_other(cluster, monkeypatch):
    class Part:
        """Says where it is, without an index."""

        def __init__(self, directory: str, **options: Any) -> None:
            self._directory, self._options = directory, options

        def facts(self) -> tuple[str, dict[str, Any]]:
            return self._directory, self._options

        def where(self, asked: int) -> tuple[str, int, int]:
            import os

            return self._directory, os.getpid(), asked

    monkeypatch.setattr(sharded_searcher, "IndexPart", Part)
    actors = sharded_searcher._Actors(["a", "b"], 2, {"mmap": True}, num_cpus=0.25, num_gpus=0)
    assert actors.every("facts") == [("a", {"mmap": True}), ("b", {"mmap": True})]
    asked = [actors.every("where", number) for number in range(4)]
    assert [[answer[0] for answer in answers] for answers in asked] == [["a", "b"]] * 4
    for part in (0, 1):
        assert len({answers[part][1] for answers in asked}) == 2
    shared = actors.share("where", [(number,) for number in range(4)])
    assert [answer[2] for answer in shared] == [0, 1, 2, 3]
    assert len({answer[1] for answer in shared}) == 4
    cluster.kill(actors._replicas[0][0], no_restart=True)  # for good
    left = asked
    while len({answers[0][1] for answers in left}) > 1:  # until the kill has arrived
        left = [actors.every("where", number) for number in range(4)]
    assert [[answer[0] for answer in answers] for answers in left] == [["a", "b"]] * 4
    assert [answer[2] for answer in actors.share("where", [(number,) for number in range(8)])] == list(range(8))
    cluster.kill(actors._replicas[0][1], no_restart=True)
    with pytest.raises(cluster.exceptions.RayActorError):
        until_the_kill_has_arrived(lambda: actors.every("where", 0))


def test_without_ray(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    _, folders = in_parts(indexed(num_rows=20), tmp_path, 2)
    with pytest.raises(ValueError, match=r"^Ray is not installed: pip install 'qinco_lit\[ray\]'$"):
        ShardedSearcher(folders)


def test_no_parts(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no parts of an index in {tmp_path}: `qinco index parts=P merge=fal"):
        ShardedSearcher(tmp_path)
