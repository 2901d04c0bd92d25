"""Which rows were measured on the same data: only their errors compare."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePath

from qinco_lit.reports.compare.rows import Run

# A fact of a row: what it is, and how the name of its data set says so; None where it is unknown.
_Fact = tuple[object, str] | None


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """Return the rows with the names of their data sets made longer until unlike ones have unlike names.

    What differs is appended: the metric, the catalogue's size, of the users' own files the paths, the database's rows.
    """
    names = {run.data for run in runs}
    told = [run if _with_size(run) not in names else replace(run, data=_with_size(run)) for run in runs]
    for fact in (_metric, _size, _file("train"), _file("database"), _num_database):
        told = _split(told, fact)
    return told


def _split(runs: Sequence[Run], fact: Callable[[Run], _Fact]) -> list[Run]:
    facts = {run: fact(run) for run in runs}
    known: dict[str, dict[object, str]] = {}
    for run, found in facts.items():
        if found is not None:
            known.setdefault(run.data, {})[found[0]] = found[1]
    return [
        run if found is None or len(all_known := known[run.data]) == 1
        else replace(run, data=run.data + _shown(found, all_known))
        for run, found in facts.items()
    ]  # fmt: skip


def _shown(fact: tuple[object, str], all_known: dict[object, str]) -> str:
    """Of a path its last part, where that says which."""
    whole, text = fact
    return f", {whole}" if isinstance(whole, str) and list(all_known.values()).count(text) > 1 else text


def _metric(run: Run) -> _Fact:
    metric = _first(run, "evaluate.metric", "search.metric", "data.metric") or "l2"  # there was no other at first
    return str(metric), "" if metric == "l2" else f", {metric}"


def _with_size(run: Run) -> str:
    """Return the name as evaluations of the catalogue's data sets have it."""
    return f"{run.data} {run.options.get('data.size')}"


def _size(run: Run) -> _Fact:
    size = run.options.get("data.size")
    return None if size is None or run.data.endswith(f" {size}") else (str(size), f" {size}")


def _file(name: str) -> Callable[[Run], _Fact]:
    def path(run: Run) -> _Fact:
        found = _first(run, f"evaluate.{name}", f"data.{name}")
        return None if found is None else (str(found), f", {PurePath(str(found)).name}")

    return path


def _num_database(run: Run) -> _Fact:
    count = _first(run, "evaluate.num_database", "search.num_database", "data.num_database")
    is_count = isinstance(count, int) and not isinstance(count, bool)
    return (count, f", {count:,}") if is_count else None


def _first(run: Run, *names: str) -> object:
    return next((value for name in names if (value := run.options.get(name)) is not None), None)
