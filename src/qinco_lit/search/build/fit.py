"""Fit what an index is searched by: the additive decoder, the range of its norms, the pairwise decoder."""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Integer

from qinco_lit.codec import Codec
from qinco_lit.progress import Progress
from qinco_lit.search.build.coded_rows import CodedRows, FirstCodes
from qinco_lit.search.build.work import Fit
from qinco_lit.search.decoders.additive import AdditiveDecoder, AdditiveFit
from qinco_lit.search.decoders.pairwise import PairwiseDecoder, fit_pairwise
from qinco_lit.search.index.faiss_index import NormRange, empty_index
from qinco_lit.search.index.lists import list_populations
from qinco_lit.vectors.neighbours import Metric

log = logging.getLogger(__name__)

_EXCESS = 0.05  # of an additive decoder's error, above the least, that is not worth a word

Decode = Callable[[Int32[np.ndarray, " n"], Integer[np.ndarray, "n steps"]], Float32[np.ndarray, "n dim"]]


def fit_decoders(
    training: CodedRows,
    validation: CodedRows,
    *,
    codec: Codec,
    codes: FirstCodes,
    centroids: Float32[np.ndarray, "lists dim"],
    metric: Metric,
    pairwise: dict[str, Any] | None,
    num_available: int,
    first: Fit | None,
    keep: Callable[[Fit], None],
    progress: Progress,
) -> Fit:
    """Fit the decoders of an index and measure them on validation vectors.

    Args:
        training, validation: vectors with their codes.
        codec: of the codes.
        codes: of the database; their list ids weight the lists.
        centroids: of the lists, raw space.
        metric: of the index.
        pairwise: options of `fit_pairwise`; None: no pairwise decoder.
        num_available: training vectors that `num_training` may ask for.
        first: what an earlier call gave to `keep`.
        keep: takes what there is before the pairwise decoder is fitted, where one is.
        progress: is told what is fitted.
    """
    if first is None:
        if advice := more_vectors(len(training), codec.num_steps * codec.codebook_size, num_available):
            log.info("additive decoder: %s", advice)
        first = _first_fit(training, codec, centroids, metric, progress)
        if pairwise is not None:
            keep(first)
    index, additive, seconds = first.index, first.additive, dict(first.report["seconds"])
    decoder, pairwise_report = None, None
    if pairwise is not None:
        began = time.monotonic()
        log.info("pairwise decoder: fitting %s vectors", f"{len(training):,}")
        progress.start("pairwise decoder: codes of the lists", None)
        populations = list_populations(codes, len(centroids), 0, len(codes))
        decoder, pairwise_report = fit_pairwise(
            training, validation, additive, centroids, populations, device=codec.device, progress=progress, **pairwise
        )
        seconds["pairwise"] = time.monotonic() - began
    progress.start("errors of the decoders", None)
    report = {
        "num_training": len(training),
        "num_validation": len(validation),
        "validation_mse": _errors(validation, codec, centroids, additive, decoder),
        "additive": first.report["additive"],
        "pairwise": pairwise_report,
        "seconds": seconds,
    }
    return Fit(index, additive, decoder, report)


def _first_fit(
    training: CodedRows, codec: Codec, centroids: Float32[np.ndarray, "lists dim"], metric: Metric, progress: Progress
) -> Fit:
    """The additive decoder, and the index around it."""
    began = time.monotonic()
    log.info("additive decoder: fitting %s vectors", f"{len(training):,}")
    additive, report = _fit_additive(training, codec, progress)
    norm_limits = _norm_limits(training, additive)
    additive_s = time.monotonic() - began
    began = time.monotonic()
    log.info("graph over the centroids of %s lists", f"{len(centroids):,}")
    progress.start("graph over the centroids", None)
    by_residual = codec.num_lists is not None
    index = empty_index(centroids, additive.codebooks, norm_limits, metric=metric, by_residual=by_residual)
    seconds = {"additive": additive_s, "graph": time.monotonic() - began}
    return Fit(index, additive, None, {"additive": report, "seconds": seconds})


def _fit_additive(training: CodedRows, codec: Codec, progress: Progress) -> tuple[AdditiveDecoder, dict[str, Any]]:
    fit = AdditiveFit(codec.num_steps, codec.codebook_size, codec.dim, device=codec.device)
    progress.start("additive decoder: counting", len(training), unit="vectors")
    for codes, _, targets in training.blocks():
        fit.add(codes, targets)
        progress.advance(len(codes))
    progress.start("additive decoder: solving", None)
    return fit.solve()


def more_vectors(num_training: int, num_codewords: int, num_available: int | None = None) -> str | None:
    """Whether more training vectors would make a better additive decoder, in words; None: hardly.

    Least squares with p unknowns on n vectors has an error of about n / (n - p) times the least on others (measured on
    random codes: 1.30 and 1.06 where this says 1.30 and 1.06).

    Args:
        num_training: vectors that the decoder is fitted to.
        num_codewords: of all codebooks together.
        num_available: vectors that `num_training` may ask for, no more are recommended; None: any number.
    """
    enough = num_codewords * (1 + round(1 / _EXCESS))
    if num_training >= enough:
        return None
    most = enough if num_available is None else min(enough, num_available)
    excess, least = (_excess(rows, num_codewords) for rows in (num_training, most))
    return (
        f"{num_training:,} training vectors for {num_codewords:,} codewords leave its error on others {excess} above "
        f"the least{'' if least == excess else f'; num_training={most:_} would leave {least}'}"
    )


def _excess(num_training: int, num_codewords: int) -> str:
    """How far the error on others is above the least, in words."""
    return f"{num_codewords / (num_training - num_codewords):.0%}" if num_training > num_codewords else "far"


def _norm_limits(training: CodedRows, additive: AdditiveDecoder) -> tuple[float, float]:
    norms = NormRange()
    for codes, _, _ in training.blocks():
        norms.add(additive.decode(codes))
    return norms.limits()


def _errors(
    validation: CodedRows,
    codec: Codec,
    centroids: Float32[np.ndarray, "lists dim"],
    additive: AdditiveDecoder,
    pairwise: PairwiseDecoder | None,
) -> dict[str, float]:
    """Mean over validation vectors of the squared error, summed over dimensions, of each decoder; raw space."""
    decoders: dict[str, Decode] = {"additive": lambda _, codes: additive.decode(codes)}
    if pairwise is not None:
        decoders["pairwise"] = pairwise.decode
    if codec.num_lists is None:
        decoders["full"] = lambda _, codes: codec.decode(codes)
    else:
        decoders["full"] = lambda list_ids, codes: codec.decode(codes, list_ids=list_ids) - centroids[list_ids]
    sums = dict.fromkeys(decoders, 0.0)
    for codes, list_ids, targets in validation.blocks():
        for name, decode in decoders.items():
            sums[name] += float(((targets - decode(list_ids, codes)) ** 2).sum(dtype=np.float64))
    return {name: total / len(validation) for name, total in sums.items()}
