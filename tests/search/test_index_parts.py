"""Fits and parts of `qinco index`: one fit for all parts, whoever comes first, and none that is made twice."""

import errno
import fcntl
import json
import shutil
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import faiss
import pytest

from qinco_lit.coarse import list_assigner
from qinco_lit.search.build import fit as index_fit
from qinco_lit.search.build import job as command
from qinco_lit.search.build.work import IndexWork
from tests.search.index_jobs import contents
from tests.search.indexes import LISTS


class _KilledError(Exception):
    pass


def _stop(*_: Any, **__: Any) -> None:
    raise _KilledError


def test_parts_in_any_order_share_one_fit(build, tmp_path, caplog, monkeypatch):
    build("one")
    caplog.set_level("INFO")
    build("apart", parts=5, part=3)
    assert caplog.messages[-1] == (
        "part=3 is complete, with it 1 of 5 parts; missing: part=0 to 2, 4; when they are, the same command without "
        "part= ends the work"
    )
    fitted = (tmp_path / "apart.work" / "fit" / "id.txt").read_text()
    monkeypatch.setattr(command, "fit_decoders", _stop)
    for part in (0, 4, 1, 3):
        build("apart", parts=5, part=part)
    assert "part=3 is complete already" in caplog.messages
    assert caplog.messages[-1].startswith("part=3 is complete, with it 4 of 5 parts; missing: part=2; when it is, ")
    build("apart", parts=5, part=2)
    assert caplog.messages[-1] == "all 5 parts are complete: the same command without part= ends the work"
    assert (tmp_path / "apart.work" / "fit" / "id.txt").read_text() == fitted
    build("apart", parts=5)
    assert contents(tmp_path / "apart") == contents(tmp_path / "one")


def test_a_part_waits_for_the_fit_of_another_process(build, tmp_path, caplog, monkeypatch):
    build("one")
    build("other", parts=2, part=0)
    build("apart", parts=2, part=0)
    job = (tmp_path / "apart.work" / "job.json").read_text()
    for path in (tmp_path / "apart.work").iterdir():
        if path.name != "job.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    holds = threading.Event()

    def fit_elsewhere() -> None:
        with IndexWork(tmp_path / "apart", json.loads(job)).alone():
            holds.set()
            while not any("another process" in line for line in caplog.messages):
                time.sleep(0.01)
            shutil.copytree(tmp_path / "other.work" / "fit", tmp_path / "copy")
            (tmp_path / "copy").rename(tmp_path / "apart.work" / "fit")

    monkeypatch.setattr(command, "fit_decoders", _stop)
    with caplog.at_level("INFO"):
        elsewhere = threading.Thread(target=fit_elsewhere)
        elsewhere.start()
        assert holds.wait(10)
        build("apart", parts=2, part=1)
        elsewhere.join()
    assert f"another process fits the decoders in {tmp_path}/apart.work: waiting for it" in caplog.messages
    build("apart", parts=2)
    assert contents(tmp_path / "apart") == contents(tmp_path / "one")


def test_one_at_a_time_is_alone(tmp_path):
    inside, most = 0, 0

    def run() -> None:
        nonlocal inside, most
        for _ in range(5):
            with IndexWork(tmp_path / "x", {"a": 1}).alone():
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


def test_a_file_system_without_locks_is_said(tmp_path, caplog, monkeypatch):
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with IndexWork(tmp_path / "x", {"a": 1}).alone():
        pass
    assert caplog.messages == [
        f"{tmp_path}/x.work: the file system has no locks; let no other process work on the same files"
    ]


@pytest.mark.parametrize("after", ["additive", "pairwise"])
def test_what_is_fitted_is_kept(build, tmp_path, monkeypatch, caplog, after):
    build("one", num_training=300)
    with monkeypatch.context() as patch:
        if after == "additive":
            patch.setattr(index_fit, "fit_pairwise", _stop)
        else:
            patch.setattr(command, "_build_part", _stop)
        with pytest.raises(_KilledError):
            build("two", num_training=300)
    (tmp_path / "two.work" / ".fit.12345678").mkdir()  # as when the kill comes while it is written
    monkeypatch.setattr(index_fit, "_fit_additive", _stop)
    if after == "pairwise":
        monkeypatch.setattr(index_fit, "fit_pairwise", _stop)
    with caplog.at_level("INFO"):
        report = build("two", num_training=300)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    assert set(report["seconds"]) >= {"training codes", "additive", "graph", "pairwise", "lists"}


def test_a_fit_without_pairwise_is_saved_once(build, tmp_path, monkeypatch):
    build("one", pairwise=False)
    with monkeypatch.context() as patch:
        patch.setattr(command, "_build_part", _stop)
        with pytest.raises(_KilledError):
            build("two", pairwise=False)
    kept = {path.name for path in Path(tmp_path / "two.work").iterdir() if path.is_dir() and path.suffix != ".shards"}
    assert kept == {"fit"}
    build("two", pairwise=False)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def _refused(run, monkeypatch, tmp_path, **other):
    """Let a second call come while the first one fits; return why that is refused."""
    lines: list[str] = []
    fit_decoders = command.fit_decoders

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        before = contents(tmp_path)
        with pytest.raises(ValueError) as refusal:
            run("two", **other)
        lines.append(str(refusal.value))
        assert contents(tmp_path) == before
        return fit_decoders(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(command, "fit_decoders", meanwhile)
        run("two")
    return lines


@pytest.mark.parametrize("other", [{}, {"parts": 2, "part": 0}, {"num_training": 300}])
def test_a_second_call_on_the_same_output_is_refused_and_the_first_one_ends(build, tmp_path, monkeypatch, other):
    build("one")
    busy = f"{tmp_path}/two: another process writes it; wait for that one, or name another output"
    assert _refused(build, monkeypatch, tmp_path, **other) == [busy]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


def test_the_work_is_not_ended_while_a_part_is_built(build, tmp_path, monkeypatch):
    build("one")
    build_part, lines = command._build_part, []

    def meanwhile(*arguments: Any) -> None:
        monkeypatch.setattr(command, "_build_part", build_part)
        with pytest.raises(ValueError) as refusal:
            build("two", parts=2)
        lines.append(str(refusal.value))
        build("two", parts=2, part=1)  # another part may be built
        build_part(*arguments)

    monkeypatch.setattr(command, "_build_part", meanwhile)
    build("two", parts=2, part=0)
    assert "another process writes it" in lines[0]
    monkeypatch.setattr(command, "fill_lists", _stop)
    build("two", parts=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_part_that_another_process_builds_is_waited_for(build, tmp_path, caplog, monkeypatch):
    build("one", parts=2, part=0)
    job = json.loads((tmp_path / "one.work" / "job.json").read_text())
    holds = threading.Event()

    def build_elsewhere() -> None:
        with IndexWork(tmp_path / "one", job).alone(1, 2):
            holds.set()
            while not any("another process" in line for line in caplog.messages):
                time.sleep(0.01)

    with caplog.at_level("INFO"):
        elsewhere = threading.Thread(target=build_elsewhere)
        elsewhere.start()
        assert holds.wait(10)
        build("one", parts=2, part=1)
        elsewhere.join()
    assert f"another process builds part=1 of parts=2 in {tmp_path}/one.work: waiting for it" in caplog.messages


def test_the_graph_over_many_lists_is_built_once(build, tmp_path, monkeypatch):
    monkeypatch.setattr(list_assigner, "EXACT_LISTS", LISTS - 1)
    built, graph = [], faiss.IndexHNSWFlat
    monkeypatch.setattr(faiss, "IndexHNSWFlat", lambda *given: built.append(given) or graph(*given))
    build("together")
    assert len(built) == 1
    monkeypatch.setattr(command, "graphs_kept", nullcontext)
    build("each")
    assert len(built) == 4  # of the training vectors, the held out ones, the index
    assert contents(tmp_path / "together") == contents(tmp_path / "each")
