"""What the papers claim, held against our records: holds, does not hold, is within noise, or cannot be said."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from qinco_lit.reports.iclr.numbers import (
    WITHIN_NOISE,
    Measured,
    Measurements,
    dataset_label,
    is_recall,
    is_within_noise,
    measured_text,
    metric_label,
    noise,
    percent_text,
    points_text,
    rate_text,
    run_href,
    unique,
)
from qinco_lit.reports.iclr.published import PublishedGain, find_published, published_gains, published_numbers
from qinco_lit.reports.kit.page import Cell, Link, TableBlock
from qinco_lit.reports.kit.texts import signed

HOLDS, FAILS, NOISE, OPEN = "holds", "does not hold", WITHIN_NOISE, "cannot be said"
# Orders that every table of the papers shows: the first is better than the second. Of QINCo2 the abstract says so.
_ORDERS = (("RQ", "OPQ"), ("LSQ", "RQ"), ("QINCo1", "RQ"), ("QINCo1", "LSQ"), ("QINCo2", "QINCo1"))

# Of which an abstract speaks: a smaller one that gains less does not disprove it.
_LARGEST = "QINCo2-L"


@dataclass(frozen=True)
class Verdict:
    """A claim and what our records say of it: `found` in words, `better` and `worse` lead to the runs compared."""

    claim: str
    source: str
    verdict: str
    found: str
    better: Measured | None = None
    worse: Measured | None = None


def verdicts(measurements: Measurements) -> list[Verdict]:
    """Return the claims of the papers, first those with a figure."""
    gains = [_gain(measurements, gain) for gain in published_gains()]
    return [*gains, _low_rank(measurements), _rotation(measurements), *_orders(measurements)]


def claims_table(measurements: Measurements) -> TableBlock:
    """Return the verdicts as a table that leads to the runs that were compared."""
    rows: list[list[Cell]] = [
        [each.claim, each.verdict, each.found, _run_cell(each.better), _run_cell(each.worse), each.source]
        for each in verdicts(measurements)
    ]
    header = ["claim", "verdict", "found", "run of the first", "run of the second", "source"]
    return TableBlock(header, rows, "Claims of the papers against our records.")


def _gain(measurements: Measurements, gain: PublishedGain) -> Verdict:
    """A claim of an abstract: QINCo2 against the best of the other methods, by our own numbers."""
    label = metric_label(gain.metric, gain.dataset).split(" ")[0]
    side = "above" if is_recall(gain.metric) else "below"
    claim = (
        f"{dataset_label(gain.dataset)}, {rate_text(gain.num_bytes)}: {label} of QINCo2 {gain.percent} % {side} the "
        "best before"
    )
    here = measurements.select(section="main", dataset=gain.dataset, num_bytes=gain.num_bytes, metric=gain.metric)
    new, old = _best(here, _is_qinco2), _best(here, lambda method: not _is_qinco2(method))
    before, printed = _best_printed(gain)
    # without the method that was the best before, any gain would be easy
    missing = [name for name in (_LARGEST, before) if _best(here, name.__eq__) is None]
    if new is None or old is None or before in missing:
        where = f"{dataset_label(gain.dataset)} at {rate_text(gain.num_bytes)}"
        return Verdict(claim, gain.source, OPEN, f"not measured on {where}: {', '.join(missing)}", new, old)
    better = (new.mean / old.mean - 1) * (1 if is_recall(gain.metric) else -1)
    found = f"{_found(new, old)} ({signed(100 * better, 1)} % better)"
    found += f"; {percent_text(new.mean, printed)} against the published {before}"
    # as printed: 33.6 % is 34 %
    wanted = float(gain.percent) - 0.5
    if abs(100 * better - wanted) < 100 * (noise(new, old) or 0.0) / old.mean:
        return Verdict(claim, gain.source, NOISE, found, new, old)
    if 100 * better >= wanted:
        return Verdict(claim, gain.source, HOLDS, found, new, old)
    if missing:
        return Verdict(claim, gain.source, OPEN, f"{found}; not measured: {_LARGEST}", new, old)
    return Verdict(claim, gain.source, FAILS, found, new, old)


def _best_printed(gain: PublishedGain) -> tuple[str, float]:
    """Return the method that was the best before QINCo2 by the papers' tables, and its number."""
    place = ("main", gain.dataset, gain.num_bytes, gain.metric)
    cells = [each for each in published_numbers() if (each.section, each.dataset, each.num_bytes, each.metric) == place]
    best = (max if is_recall(gain.metric) else min)(cells, key=lambda each: each.value)
    return best.method, best.value


def _low_rank(measurements: Measurements) -> Verdict:
    names = ("QINCo-LR (L=4)", "QINCo1 (L=4)")
    low, full = (find_published("low_rank", "contriever1m", name, 8, "mse") for name in names)
    assert low is not None
    assert full is not None
    claim = f"Contriever1M, 8 bytes, L=4: QINCo-LR comes near QINCo1 in MSE ({low.printed} and {full.printed})"
    here = measurements.select(dataset="contriever1m", num_bytes=8, metric="mse")
    ours = [_best(here, name.__eq__) for name in (low.method, full.method)]
    if ours[0] is None or ours[1] is None:
        return Verdict(claim, low.source, OPEN, "not measured", ours[0], ours[1])
    # within the rounding of the two printed numbers
    holds = ours[0].mean / ours[1].mean <= (low.value + 0.005) / (full.value - 0.005)
    return Verdict(claim, low.source, HOLDS if holds else FAILS, _found(ours[0], ours[1]), *ours)


def _rotation(measurements: Measurements) -> Verdict:
    printed = [each for each in published_numbers() if each.section == "product"]
    names = [each.method for each in printed if each.method.startswith("OPQ-")]
    claim = "FB-ssnpp1M, 32 bytes: OPQ's rotation lowers the MSE of PQ-QINCo in all four splits"
    here = measurements.select(dataset="fb_ssnpp1m", num_bytes=32, metric="mse")
    pairs = [(_best(here, name.__eq__), _best(here, name.removeprefix("O").__eq__)) for name in names]
    known = [(better, worse) for better, worse in pairs if better is not None and worse is not None]
    failing = [pair for pair in known if not pair[0].mean < pair[1].mean]
    shown = (failing or known)[0] if known else (None, None)
    if len(known) < len(pairs) and not failing:
        return Verdict(claim, printed[0].source, OPEN, f"measured for {len(known)} of {len(pairs)} splits", *shown)
    found = f"lower in {len(known) - len(failing)} of {len(known)} splits measured"
    return Verdict(claim, printed[0].source, FAILS if failing else HOLDS, found, *shown)


def _orders(measurements: Measurements) -> Iterator[Verdict]:
    """Orders of methods wherever we measured both; a data set that is not the papers' is called so."""
    places = unique((each.first.dataset, each.first.num_bytes) for each in measurements.select(section="main"))
    for dataset, num_bytes in places:
        for better, worse in _ORDERS:
            for metric in ("mse", "recall_at_1"):
                verdict = _order(measurements, (dataset, num_bytes, metric), better, worse)
                if verdict is not None:
                    yield verdict


def _order(measurements: Measurements, place: tuple[str, float, str], better: str, worse: str) -> Verdict | None:
    dataset, num_bytes, metric = place
    here = measurements.select(section="main", dataset=dataset, num_bytes=num_bytes, metric=metric)
    one, other = _best(here, _family(better)), _best(here, _family(worse))
    source = _order_source(place, better, worse)
    if one is None or other is None or source is None:
        return None
    higher = is_recall(metric)
    label = metric_label(metric, dataset).split(" ")[0]
    side = "above" if higher else "below"
    claim = f"{dataset_label(dataset)}, {rate_text(num_bytes)}: {label} of {better} {side} {worse}"
    if is_within_noise(one, other):
        verdict = NOISE
    else:
        verdict = HOLDS if (one.mean > other.mean if higher else one.mean < other.mean) else FAILS
    return Verdict(claim, source, verdict, _found(one, other), one, other)


def _order_source(place: tuple[str, float, str], better: str, worse: str) -> str | None:
    """Return where the papers show this order: on this data set, or on all of theirs where it is not one of them."""
    dataset, num_bytes, metric = place
    if better == "QINCo2":
        return "QINCo2 paper, abstract, of BigANN1M and Deep1M"
    gaps: dict[str, float] = {}
    source = ""
    for each in published_numbers():
        if (each.section, each.method, each.num_bytes, each.metric) == ("main", better, num_bytes, metric):
            other = find_published("main", each.dataset, worse, num_bytes, metric)
            if other is not None:
                gaps[each.dataset] = (each.value - other.value) * (1 if is_recall(metric) else -1)
                source = each.source
    if dataset in gaps:
        return source if gaps[dataset] > 0 else None
    if not gaps or min(gaps.values()) <= 0:
        return None
    return f"{source}, on all {len(gaps)} data sets there"


def _found(new: Measured, old: Measured) -> str:
    """Both numbers and the difference, with what seeds may bring: QINCo2-S 14,765, RQ 21,926: −32.7 %, noise 1.4 %."""
    metric = new.first.metric
    change = (points_text if is_recall(metric) else percent_text)(new.mean, old.mean)
    unit = " points" if is_recall(metric) else ""
    ours = [f"{each.first.method} {measured_text(each)}" for each in (new, old)]
    chance = noise(new, old)
    noisy = "" if chance is None else f", noise {100 * chance / (1 if unit else old.mean):.1f}{unit or ' %'}"
    return f"{', '.join(ours)}: {change}{unit}{noisy}"


def _best(measured: Sequence[Measured], wanted: Callable[[str], bool]) -> Measured | None:
    """Return the best of the wanted methods; one whose value is no number is none."""
    known = [each for each in measured if wanted(each.first.method) and math.isfinite(each.mean)]
    if not known:
        return None
    return (max if is_recall(known[0].first.metric) else min)(known, key=lambda each: each.mean)


def _family(name: str) -> Callable[[str], bool]:
    """Return what tells the methods of a family: QINCo2 is any of S, M, L; RQ only itself."""
    return lambda method: method.startswith(name) if name.startswith("QINCo") else method == name


def _is_qinco2(method: str) -> bool:
    return _family("QINCo2")(method)


def _run_cell(measured: Measured | None) -> Link | None:
    return None if measured is None else Link(measured.first.method, run_href(measured.first.run))
