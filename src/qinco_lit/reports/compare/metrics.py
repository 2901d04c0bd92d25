"""The results that are compared: what each is called, how it is shown, and which way is better."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from qinco_lit.options import unknown
from qinco_lit.reports.compare.rows import Run
from qinco_lit.reports.search import milliseconds, percent, rate
from qinco_lit.reports.tables import squared_error_text


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
        Metric("mse", "MSE\ndatabase", True, squared_error_text),
        Metric("best_val_mse", "MSE\nvalidation", True, squared_error_text),
        Metric("recall_at_1", "R@1\n%", False, percent),
        Metric("recall_at_10", "R@10\n%", False, percent),
        Metric("recall_at_100", "R@100\n%", False, percent),
        Metric("bytes_per_vector", "bytes", True, lambda value: f"{value:g}"),
        Metric("queries_per_s", "queries\n/s", False, rate),
        Metric("latency_median_s", "latency\nms", True, milliseconds),
        Metric("encode_vectors_per_s", "encode\nvectors/s", False, rate),
        Metric("decode_vectors_per_s", "decode\nvectors/s", False, rate),
        Metric("epochs", "epochs", True, _count),
        Metric("wall_s", "training\nminutes", True, lambda value: rate(value / 60)),
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
