"""The columns of a comparison: options that differ between rows, and results, with which way is better."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from qinco_lit.options import unknown
from qinco_lit.reports.compare.rows import Run
from qinco_lit.reports.kit.texts import milliseconds, number_text, percent, plain, rounded

# Where to write and what to show: no difference worth a column; all of it is in compare.csv.
_UNINTERESTING = (
    "logger", "resume", "git_revision", "data_dir", "data.root", "data.cache_dir", "data._target_", "data.name",
    "evaluate.data", "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.checkpoint_every_s",
)  # fmt: skip
# What a reader asks for first; then come the options that somebody typed.
_FIRST = ("data", "model", "coarse", "recipe", "model.num_steps", "model.codebook_size")


# --- options ----------------------------------------------------------------------------------------------------------


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


# --- results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A result: `label` has two lines at most; `show` turns its value into the text of a cell."""

    name: str
    label: str
    lower_is_better: bool
    show: Callable[[float], str]


def _count(value: float) -> str:
    return f"{value:,.0f}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("mse", "MSE\ndatabase", True, number_text),
        Metric("best_val_mse", "MSE\nvalidation", True, number_text),
        Metric("recall_at_1", "R@1\n%", False, percent),
        Metric("recall_at_10", "R@10\n%", False, percent),
        Metric("recall_at_100", "R@100\n%", False, percent),
        Metric("bytes_per_vector", "bytes", True, lambda value: f"{value:g}"),
        Metric("queries_per_s", "queries\n/s", False, rounded),
        Metric("latency_median_s", "latency\nms", True, milliseconds),
        Metric("encode_vectors_per_s", "encode\nvectors/s", False, rounded),
        Metric("decode_vectors_per_s", "decode\nvectors/s", False, rounded),
        Metric("epochs", "epochs", True, _count),
        Metric("wall_s", "training\nminutes", True, lambda value: rounded(value / 60)),
        Metric("parameters", "parameters", True, _count),
    )
}
# Without an evaluation there is only the validation error; of a search the recall.
_THEN = ("mse", "best_val_mse", "recall_at_1")


def check_metric(name: str) -> None:
    """Raise ValueError, naming all, for a metric that there is not."""
    if name not in METRICS:
        raise unknown("metric", name, METRICS)


def ranked(runs: Iterable[Run], metric: str) -> list[Run]:
    """Return the rows of each data set together, the best first; those without a value last, by their MSE or recall."""

    def key(run: Run) -> tuple[object, ...]:
        ranks = [_rank(run, name) for name in dict.fromkeys((metric, *_THEN))]
        return (run.data, *ranks, run.name)

    return sorted(runs, key=key)


def present(runs: Sequence[Run]) -> list[Metric]:
    """Return the metrics that any of the rows has."""
    return [metric for metric in METRICS.values() if any(metric.name in run.results for run in runs)]


def _rank(run: Run, name: str) -> tuple[bool, float]:
    value = run.results.get(name)
    if value is None:
        return (True, 0.0)
    return (False, value if METRICS[name].lower_is_better else -value)
