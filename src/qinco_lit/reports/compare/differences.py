"""Which options differ between rows, and which are the same in all."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qinco_lit.reports.compare.rows import Run
from qinco_lit.reports.compare.texts import plain

# Where to write and what to show: no difference worth a column; all of it is in compare.csv.
_UNINTERESTING = (
    "logger", "resume", "git_revision", "data_dir", "data.root", "data.cache_dir", "data._target_", "data.name",
    "evaluate.data", "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.checkpoint_every_s",
)  # fmt: skip
# What a reader asks for first; then come the options that somebody typed.
_FIRST = ("data", "model", "coarse", "recipe", "model.num_steps", "model.codebook_size")


@dataclass(frozen=True)
class Differences:
    """Options by what they do in the compared rows."""

    columns: list[str]
    """Those that differ, the most telling first."""
    implied: list[str]
    """Those that differ only because the chosen models and recipes do."""
    constant: dict[str, str]
    """The others and their one value."""


def differences(runs: Sequence[Run]) -> Differences:
    """Sort the options of rows; one that a row lacks altogether, as older versions did, differs from none."""
    names = list(dict.fromkeys(name for run in runs for name in run.options))
    groups = {name.rpartition(".")[0] for name in names}
    typed = {name for run in runs for name in run.typed}
    differing, constant = [], {}
    for name in names:
        is_group = name in groups and not any(name in run.choices for run in runs) and name != "data"
        if is_group or any(name == each or name.startswith(f"{each}.") for each in _UNINTERESTING):
            continue
        values = {value_text(run, name) for run in runs}
        if len(values - {""}) > 1 and not _says_again(runs, name):
            differing.append(name)
        elif len(values) == 1 and "" not in values:
            constant[name] = values.pop()
    implied = [name for name in differing if name not in typed and _follows_from_choices(runs, name)]
    columns = [name for name in differing if name not in implied]
    columns.sort(key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name not in typed))
    return Differences(columns, implied, constant)


def value_text(run: Run, name: str) -> str:
    """Return an option's value as users type it; null where its whole group is switched off, "" where it is unknown."""
    if name in run.options:
        value = run.options[name]
        return value if isinstance(value, str) else json.dumps(value)
    parts = name.split(".")
    above = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    return "null" if any(run.options.get(each, ...) in (None, "none") for each in above) else ""


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return names of options without their groups where the last part alone is clear."""
    last = [name.rpartition(".")[2] for name in names]
    return {name: end if last.count(end) == 1 else name for name, end in zip(names, last, strict=True)}


def constants_line(found: Differences, num_shown: int = 6) -> str:
    """Return one line on the options that all rows share: the ones readers ask for, and how many more."""
    order = [*(name for name in _FIRST if name in found.constant), *found.constant]
    shown = [f"{name}={found.constant[name]}" for name in list(dict.fromkeys(order))[:num_shown]]
    more = len(found.constant) - len(shown)
    return plain(", ".join(shown) + (f" and {more} more" if more else ""))


def _says_again(runs: Sequence[Run], name: str) -> bool:
    """Whether an evaluation's option is nowhere other than the training's."""
    group, _, option = name.partition(".")
    if group != "evaluate":
        return False
    measured = [run for run in runs if name in run.options]
    return any(
        any(f"{own}.{option}" in run.options for run in runs)
        and all(run.options[name] in (None, run.options.get(f"{own}.{option}")) for run in measured)
        for own in ("model", "data")
    )


def _follows_from_choices(runs: Sequence[Run], name: str) -> bool:
    """Whether model= and recipe= decide the value: then the columns of those say enough."""
    if name in ("data", "model", "recipe", "coarse") or name.startswith(("evaluate.", "search.")):
        return False
    values: dict[Any, str] = {}
    for run in runs:
        text = value_text(run, name)
        if not text:
            continue
        if not run.choices:
            return False
        if values.setdefault(tuple(sorted(run.choices.items())), text) != text:
            return False
    return True
