"""`evaluate()`: measure a trained codec on vectors, next to the baselines of faiss at the same bytes per vector."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from qinco_lit.codec import Codec
from qinco_lit.data.ground_truth import NUM_NEIGHBOURS, checked_ground_truth, found_neighbours, read_ground_truth
from qinco_lit.devices import default_torch, num_threads_in_use, threads
from qinco_lit.encoding.decode_file import as_codec
from qinco_lit.environment import environment
from qinco_lit.evaluation.baselines import MAX_TRAINING_ROWS, METHODS, trained_baseline
from qinco_lit.evaluation.codec_quantizer import CodecQuantizer
from qinco_lit.evaluation.measure import TestSet, measure
from qinco_lit.evaluation.rate_curve import Rate, check_rate, chosen_rates, load_dedicated, measure_rate_curve
from qinco_lit.options import Count, checked, in_range, unknown
from qinco_lit.progress import Progress
from qinco_lit.vectors import VectorFile, as_vectors_file
from qinco_lit.vectors.neighbours import METRICS, Metric
from qinco_lit.vectors.rows import Matrix, fingerprint

SCHEMA_VERSION = 4
# Of what `measure` returns: results of baselines that are kept from earlier evaluations hold it.
_FIGURES_VERSION = 1


@checked
@default_torch()
def evaluate(
    codec: Codec | str | Path,
    database: Any,
    queries: Any = None,
    *,
    ground_truth: Any = None,
    baselines: Sequence[str] = (),
    train: Any = None,
    metric: str = "l2",
    beam_size: int | None = None,
    num_candidates: int | None = None,
    candidate_budget: int | None = None,
    num_steps: int | None = None,
    rate: Rate | None = None,
    dedicated: Sequence[Codec | str | Path] = (),
    batch_size: Count = 16_384,
    precision: str = "auto",
    device: str = "auto",
    num_threads: Count | None = None,
    cache_dir: str | Path | None = None,
    name: str | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Measure a codec, and baselines, as `qinco evaluate` does; nothing is written.

    Args:
        codec: or its folder.
        database: (n, dim) vectors to compress and search: an array, or what `open_vectors` opens or has opened.
        queries: (nq, dim), likewise; None: no recall.
        ground_truth: (nq, >= 1) ids in the database, nearest first, or a file of them; None: computed by brute force.
        baselines: of pq, opq, rq, lsq, trained at the codec's rate, rounded up to whole bytes.
        train: (n, dim) vectors that baselines are trained on, at most MAX_TRAINING_ROWS, evenly spaced.
        metric: what nearest means: l2, ip, or cosine: all vectors are divided by their L2 norm as they are read.
        beam_size, num_candidates, candidate_budget: of the codec's search, as in `Codec.encode`; None: the model's.
        num_steps: encode with so many codes, fewer than the codec's; None takes all of them.
        rate: "all", or numbers of codes: measure at each of them, too, what the first codes are worth, what an
            encoding with so many codes, and what a model that was trained for them.
        dedicated: those models, at most one of each number of codes: codecs, their folders, or run folders.
        batch_size: database vectors encoded at a time; changes memory and speed, not results.
        precision, device: of a codec that is loaded, see `Codec`; baselines run on the CPU.
        num_threads: of torch and faiss; None leaves theirs.
        cache_dir: where trained baselines and their results are kept for the next evaluation; None: nowhere.
        name: of the data in the record; None: that of the database's file.
        progress: False shows none.

    Returns:
        What `metrics.json` of `qinco evaluate` holds, keys and all: `schema_version`, `created`, facts of `codec` (its
        `path` is None in memory), `data`, `batch_size`, `device`, `num_threads`, `methods`, `rates`, and those of
        `environment` (`command` and the like), which say where the figures come from. `methods` has for "codec" and
        each baseline `bytes_per_vector`, `num_steps`, `codebook_size` and `Meter.figures`; for baselines also
        `settings`, `num_training_rows`, `train_s`, `measured_at`, and `from_cache`: then speeds are of that earlier
        time. `rates` is None, or what `measure_rate_curve` returns.

    Raises:
        FileNotFoundError: no codec, or a missing file.
        ValueError: unknown baseline, vectors of another dimension than the codec's, impossible options, NaN or
            infinity, baselines without `train`, a dedicated model or ground truth that does not fit.
    """
    known_metric = next((each for each in METRICS if each == metric), None)
    if known_metric is None:
        raise ValueError(f"metric={metric}: give one of {', '.join(METRICS)}")
    if baselines and train is None:
        raise ValueError(f"baselines={list(baselines)} are trained: give train=, the vectors to train them on")
    if queries is None and ground_truth is not None:
        raise ValueError("ground_truth is given without queries: give both")
    evaluation = Evaluation(
        codec,
        baselines=baselines,
        beam_size=beam_size,
        num_candidates=num_candidates,
        candidate_budget=candidate_budget,
        num_steps=num_steps,
        rate=rate,
        dedicated=dedicated,
        batch_size=batch_size,
        precision=precision,
        device=device,
        num_threads=num_threads,
        cache_dir=None if cache_dir is None else Path(cache_dir),
    )

    def opened(x: Any, what: str) -> VectorFile:
        rows = as_vectors_file(x, what)
        if rows.shape[1] != evaluation.codec.dim:
            known = f"{evaluation.codec.name} encodes vectors of dimension {evaluation.codec.dim}"
            raise ValueError(f"{known}, {what} has {rows.shape[1]}")
        return rows.unit() if metric == "cosine" else rows

    base = opened(database, "database")
    training = None if train is None else opened(train, "train")
    asked = truth = None
    if queries is not None:
        asked = opened(queries, "queries")[:]
        if not (finite := np.isfinite(asked).all(axis=1)).all():
            raise ValueError(f"queries: vector {int(finite.argmin())} holds NaN or infinity")
        truth = _ground_truth(ground_truth, asked, base, known_metric, show=progress is not False)
    test_set = TestSet(base, asked, truth, known_metric)
    return evaluation.record(test_set, training, name=name or base.path, progress=progress)


def _ground_truth(
    given: Any, queries: np.ndarray, database: VectorFile, metric: Metric, *, show: bool
) -> Int64[np.ndarray, "nq k"]:
    if given is None:
        return found_neighbours(queries, database, min(NUM_NEIGHBOURS, len(database)), metric=metric, show=show)
    if isinstance(given, str | os.PathLike):
        return read_ground_truth(os.fspath(given), num_queries=len(queries), num_database=len(database))
    ids = np.asarray(given)
    return checked_ground_truth(ids, "ground_truth", num_queries=len(queries), num_database=len(database))


class Evaluation:
    """What is measured, with its options checked and its codecs loaded before any data are there.

    Arguments are those of `evaluate`. Raises FileNotFoundError and ValueError as it does.
    """

    @in_range
    def __init__(
        self,
        codec: Codec | str | Path,
        *,
        baselines: Sequence[str],
        beam_size: int | None,
        num_candidates: int | None,
        candidate_budget: int | None,
        num_steps: int | None,
        rate: Rate | None,
        dedicated: Sequence[Codec | str | Path],
        batch_size: Count,
        precision: str,
        device: str,
        num_threads: Count | None,
        cache_dir: Path | None,
    ) -> None:
        for method in baselines:
            if method not in METHODS:
                raise unknown("baseline", method, METHODS)
        check_rate(rate, dedicated, num_steps)
        self.codec = as_codec(codec, device=device, precision=precision)
        if num_steps is not None and not 1 <= num_steps <= self.codec.num_steps:
            most = self.codec.num_steps
            raise ValueError(f"num_steps={num_steps}: {self.codec.name} has {most} codes; give 1 to {most}")
        self._quantizer = CodecQuantizer(self.codec, beam_size, num_candidates, candidate_budget, num_steps)
        facts = self._quantizer.facts()
        self._codec_facts = {"path": facts["path"], "dim": self.codec.dim, **facts}
        self._rates = chosen_rates(rate, self._quantizer)
        self._dedicated = load_dedicated(dedicated, self._quantizer, self._rates)
        self._baselines, self._cache_dir = tuple(dict.fromkeys(baselines)), cache_dir
        self._batch_size, self._num_threads = batch_size, num_threads

    def record(
        self, test_set: TestSet, train: Matrix | None, *, name: str, progress: bool | None = None
    ) -> dict[str, Any]:
        """Measure everything on vectors of the codec's dimension; returns what `evaluate` does.

        Args:
            test_set: what is compressed and searched.
            train: (n, dim) that baselines are trained on; None where there are none.
            name: of the data.
            progress: False shows none.
        """
        show = progress is not False
        with threads(self._num_threads):
            figures, rates = self._measured(test_set, show=show)
            methods = {"codec": {**self._quantizer.rate(), **figures}}
            if self._baselines:
                assert train is not None
                with Progress("vectors", show=show) as shown:
                    shown.start("reading the database", None)
                    circumstances = {} if self._cache_dir is None else self._circumstances(test_set)
                    for method in self._baselines:
                        methods[method] = self._baseline(method, train, test_set, circumstances, shown)
            return {
                "schema_version": SCHEMA_VERSION,
                "created": _now(),
                "codec": self._codec_facts,
                "data": {
                    "name": name,
                    "metric": test_set.metric,
                    "dim": self.codec.dim,
                    "num_train": 0 if train is None else int(train.shape[0]),
                    "num_database": int(test_set.database.shape[0]),
                    "num_queries": 0 if test_set.queries is None else len(test_set.queries),
                },
                "batch_size": self._batch_size,
                "device": str(self.codec.device),
                "num_threads": num_threads_in_use(),
                **environment(),
                "methods": methods,
                "rates": rates,
            }

    def _measured(self, test_set: TestSet, *, show: bool) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Figures of the codec, and `rates`."""
        quantizer, batch_size = self._quantizer, self._batch_size
        with Progress("codes" if self._rates else "vectors", show=show) as progress:
            if self._rates:
                return measure_rate_curve(quantizer, self._rates, self._dedicated, test_set, batch_size, progress)
            progress.start("codec", int(test_set.database.shape[0]))
            return measure(quantizer, test_set, batch_size=batch_size, advance=progress.advance), None

    def _circumstances(self, test_set: TestSet) -> dict[str, Any]:
        """What the results of a baseline, speeds included, depend on."""
        hashes = {"database": fingerprint(test_set.database)}
        for what, rows in {"queries": test_set.queries, "ground_truth": test_set.ground_truth}.items():
            hashes[what] = "none" if rows is None else fingerprint(rows)
        if test_set.metric != "l2":  # the names of results by squared L2 are those from before there were others
            hashes["metric"] = test_set.metric
        return {
            **hashes,
            "schema_version": _FIGURES_VERSION,
            "num_threads": num_threads_in_use()["faiss"],
            "batch_size": self._batch_size,
            "hardware": {key: environment()["hardware"][key] for key in ("machine", "processor", "cpu_count")},
        }

    def _baseline(
        self, method: str, train: Matrix, test_set: TestSet, circumstances: dict[str, Any], progress: Progress
    ) -> dict[str, Any]:
        """Figures of one baseline, measured or taken from the cache."""
        progress.start(f"{method}: training", None)
        num_bytes = -(-self._quantizer.bits_per_vector // 8)
        cached = trained_baseline(
            method, train, num_bytes, max_training_rows=MAX_TRAINING_ROWS, cache_dir=self._cache_dir
        )
        figures = cached.read_results(circumstances)
        from_cache = figures is not None
        if figures is None:
            progress.start(method, int(test_set.database.shape[0]))
            figures = measure(cached.baseline, test_set, batch_size=self._batch_size, advance=progress.advance)
            figures["measured_at"] = _now()
            cached.write_results(circumstances, figures)
        return {
            "bytes_per_vector": num_bytes,
            "num_steps": cached.baseline.num_steps,
            "codebook_size": cached.baseline.codebook_size,
            **figures,
            "settings": cached.baseline.settings,
            "num_training_rows": cached.num_training_rows,
            "train_s": cached.train_s,
            "from_cache": from_cache,
        }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
