"""Which tasks `only=` means."""

from collections.abc import Collection, Mapping, Sequence

from qinco_lit.options import unknown
from qinco_lit.reproducing.scale import SECTIONS
from qinco_lit.reproducing.tasks import Task, with_needs


def choose(tasks: Sequence[Task], words: Collection[str]) -> set[str]:
    """Return the names of the tasks that the words choose, and of what these need; without words all.

    Words are sections, data sets, methods (as in folder names: `QINCo2-S`), rates (`8B`) and names of tasks or folders
    of tasks. Words of one kind add up, kinds narrow each other down: `main run_time 8B` means both at 8 bytes.

    Raises:
        ValueError: a word that is none of these, or words that together choose nothing.
    """
    kinds = _kinds(tasks)
    wanted: dict[str, set[str]] = {}
    for word in words:
        kind = next((kind for kind, members in kinds.items() if word in members), None)
        if kind is None:
            choices = [*SECTIONS, *(word for kind in ("data set", "method", "rate") for word in kinds[kind])]
            raise unknown("word in only=", word, choices)
        wanted.setdefault(kind, set()).update(kinds[kind][word])
    chosen = {task.name for task in tasks}.intersection(*wanted.values())
    if not chosen:
        raise ValueError(f"only=[{','.join(words)}] chooses nothing: these words have no task in common")
    return with_needs(tasks, chosen)


def _kinds(tasks: Sequence[Task]) -> Mapping[str, Mapping[str, set[str]]]:
    """Names of tasks by word, by kind of word."""
    kinds: dict[str, dict[str, set[str]]] = {
        "section": {section: set() for section in SECTIONS}, "data set": {}, "method": {}, "rate": {}, "name": {},
    }  # fmt: skip
    for task in tasks:
        parts = task.name.split("/")
        words = {"section": task.sections, "data set": (task.dataset,)}
        if task.num_bytes:
            words["method"] = (parts[1].rpartition(f"-{task.num_bytes}B-")[0],)
            words["rate"] = (f"{task.num_bytes}B",)
        words["name"] = tuple("/".join(parts[:depth]) for depth in range(2, len(parts) + 1))
        for kind, members in words.items():
            for word in members:
                kinds[kind].setdefault(word, set()).add(task.name)
    return kinds
