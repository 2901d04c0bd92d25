"""`evaluate`: measure a trained codec on a data set, next to the baselines of faiss at the same bytes per vector."""

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from qinco_lit.atomic import write_atomically
from qinco_lit.codec import Codec
from qinco_lit.commands.measuring import num_threads_in_use, progress_bar
from qinco_lit.devices import chosen_device
from qinco_lit.environment import environment
from qinco_lit.evaluation.codec_quantizer import CodecQuantizer
from qinco_lit.evaluation.measure import TestSet, measure
from qinco_lit.evaluation.rate_curve import Rate, check_rate, chosen_rates, load_dedicated, measure_rates
from qinco_lit.options import unknown
from qinco_lit.reports.evaluation import (
    markdown_table,
    rates_markdown,
    rates_notes,
    rates_table,
    rich_table,
    table_notes,
)
from qinco_lit.reports.evaluation_plots import rate_distortion_figure, rates_figure
from qinco_lit.reports.kit.plots import figure_bytes
from qinco_lit.reports.wandb_tables import send_evaluation, track
from qinco_lit.search import baselines as faiss_baselines
from qinco_lit.search.baseline_cache import fingerprint, trained_baseline
from qinco_lit.threads import threads

SCHEMA_VERSION = 4
# Of what `measure` returns: results of baselines that are kept from earlier evaluations hold it.
_FIGURES_VERSION = 1
# The papers train OPQ and RQ on 500k vectors; the error barely falls beyond, and time grows in proportion.
MAX_BASELINE_TRAINING_ROWS = 500_000
DEFAULT_CACHE_DIR = Path("outputs/cache/baselines")


def evaluate(
    *,
    codec_dir: Path,
    data: Any,
    output_dir: Path,
    baselines: Sequence[str] = (),
    beam_size: int | None = None,
    num_candidates: int | None = None,
    candidate_budget: int | None = None,
    num_steps: int | None = None,
    rate: Rate | None = None,
    dedicated: Sequence[str | Path] = (),
    batch_size: int = 16384,
    precision: str = "auto",
    device: str = "auto",
    num_threads: int | None = None,
    cache_dir: Path = DEFAULT_CACHE_DIR,
    logger: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a codec and baselines, write `metrics.json`, `table.md` and `rate_distortion.png/.svg`, print the table.

    Args:
        codec_dir: what training or `import` wrote.
        data: a data module (docs/architecture.md says what is asked of it); its files are prepared and opened here.
        output_dir: where the results go, made when needed.
        baselines: of pq, opq, rq, lsq; trained on the codec's training rows (at most MAX_BASELINE_TRAINING_ROWS, evenly
            spaced) at the codec's rate, rounded up to whole bytes.
        beam_size: hypotheses the codec's search keeps; None takes the model's.
        num_candidates: codewords pre-selected per hypothesis, 0 for all; None takes the model's.
        candidate_budget: instead, pairs of hypothesis and codeword tried per step over the whole beam.
        num_steps: encode with so many codes, fewer than the codec's; None takes all of them.
        rate: "all", or numbers of codes: measure at each of them, too, what the first codes are worth, what an
            encoding with so many codes, and what a model that was trained for them.
        dedicated: those models, at most one of each number of codes: run folders or codec folders.
        batch_size: database vectors encoded at a time; changes memory and speed, not results.
        precision: of the codec's search: auto, fast, float32, screened, bfloat16 (see `Codec`).
        device: of the codec: auto, cpu, cuda, cuda:1. Baselines run on the CPU.
        num_threads: of torch and faiss; None leaves theirs.
        cache_dir: where trained baselines and their results are kept for the next evaluation.
        logger: arguments of `start_wandb`, None for no W&B.
        config: the resolved configuration, for the W&B run.

    Returns:
        The content of `metrics.json`: `schema_version`, `created`, facts of `codec`, `data`, `device`, `num_threads`,
        those of `environment`, `methods`: for "codec" and each baseline `bytes_per_vector`, `num_steps`,
        `codebook_size` and what `measure` returns; for baselines also `settings`, `num_training_rows`,
        `train_s`, `measured_at`, and `from_cache`: then speeds are of that earlier time; and `rates`: None, or what
        `measure_rates` returns.

    Raises:
        FileNotFoundError: no codec, or a file of the data set is missing.
        ValueError: unknown baseline, a codec of another dimension than the data, impossible options, bad vectors, a
            dedicated model that does not fit.
    """
    _check_options(baselines, batch_size, num_threads)
    check_rate(rate, dedicated, num_steps)
    codec = Codec.load(codec_dir, device=chosen_device(device), precision=precision)
    if num_steps is not None and not 1 <= num_steps <= codec.num_steps:
        raise ValueError(f"num_steps={num_steps}: {codec_dir} has {codec.num_steps} codes; give 1 to {codec.num_steps}")
    quantizer = CodecQuantizer(codec, beam_size, num_candidates, candidate_budget, num_steps)
    codec_facts = {"path": str(codec_dir), "dim": codec.dim, **quantizer.facts()}
    rates = [] if rate is None else chosen_rates(rate, quantizer, codec_dir)
    others = load_dedicated(dedicated, quantizer, rates, precision=precision)
    test_set, data_facts = _opened(data, codec, codec_dir)
    console = Console()
    tracked = track(output_dir, logger, config or {}, send_evaluation)
    with tracked as tracker, threads(num_threads), progress_bar(console) as progress:
        if rates:
            figures, of_rates = measure_rates(quantizer, rates, others, test_set, batch_size, progress)
        else:
            figures, of_rates = _measure_codec(quantizer, test_set, batch_size, progress), None
        methods = {"codec": {**quantizer.rate(), **figures}}
        if baselines:
            bench = _Baselines(data.train_vectors, test_set, -(-quantizer.bits_per_vector // 8), batch_size, cache_dir)
            methods.update({method: bench.measure(method, progress) for method in dict.fromkeys(baselines)})
        record = {
            "schema_version": SCHEMA_VERSION,
            "created": _now(),
            "codec": codec_facts,
            "data": data_facts,
            "batch_size": batch_size,
            "device": str(codec.device),
            "num_threads": num_threads_in_use(),
            **environment(),
            "methods": methods,
            "rates": of_rates,
        }
        _write(record, output_dir)
        tracker(record)
    _show(record, console)
    console.print(f"results: {output_dir}", soft_wrap=True)
    return record


class _Baselines:
    """Baselines of one rate on one data set, measured or taken from the cache."""

    def __init__(self, train_vectors: Any, test_set: TestSet, num_bytes: int, batch_size: int, cache_dir: Path) -> None:
        self._train_vectors, self._test_set = train_vectors, test_set
        self._num_bytes, self._batch_size, self._cache_dir = num_bytes, batch_size, cache_dir
        hashes = {"database": fingerprint(test_set.database)}
        for name, rows in {"queries": test_set.queries, "ground_truth": test_set.ground_truth}.items():
            hashes[name] = "none" if rows is None else fingerprint(rows)
        if test_set.metric != "l2":  # the names of results by squared L2 are those from before there were others
            hashes["metric"] = test_set.metric
        # speeds depend on all of this
        self._circumstances = {
            **hashes,
            "schema_version": _FIGURES_VERSION,
            "num_threads": faiss_baselines.get_num_threads(),
            "batch_size": batch_size,
            "hardware": {key: environment()["hardware"][key] for key in ("machine", "processor", "cpu_count")},
        }

    def measure(self, method: str, progress: Progress) -> dict[str, Any]:
        """Figures of one method, in the form of `metrics.json`."""
        task = progress.add_task(f"{method}: training", total=None)
        cached = trained_baseline(
            method,
            self._train_vectors,
            self._num_bytes,
            max_training_rows=MAX_BASELINE_TRAINING_ROWS,
            cache_dir=self._cache_dir,
        )
        num_rows = int(self._test_set.database.shape[0])
        progress.update(task, description=f"{method}: encoding", total=num_rows)
        figures = cached.read_results(self._circumstances)
        from_cache = figures is not None
        if figures is None:
            advance = partial(progress.advance, task)
            figures = measure(cached.baseline, self._test_set, batch_size=self._batch_size, advance=advance)
            figures["measured_at"] = _now()
            cached.write_results(self._circumstances, figures)
        progress.update(task, completed=num_rows)
        return {
            "bytes_per_vector": self._num_bytes,
            "num_steps": cached.baseline.num_steps,
            "codebook_size": cached.baseline.codebook_size,
            **figures,
            "settings": cached.baseline.settings,
            "num_training_rows": cached.num_training_rows,
            "train_s": cached.train_s,
            "from_cache": from_cache,
        }


def _opened(data: Any, codec: Codec, codec_dir: Path) -> tuple[TestSet, dict[str, Any]]:
    """Prepare and open the data set: what is measured on, and facts of it."""
    data.prepare_data()
    data.setup("test")
    if codec.dim != data.dim:
        raise ValueError(f"{codec_dir} encodes vectors of dimension {codec.dim}, data set {data.name} has {data.dim}")
    queries = None if data.queries is None else np.asarray(data.queries[:])
    truth = None if queries is None else np.asarray(data.ground_truth)
    return TestSet(data.database, queries, truth, data.metric), _data_facts(data)


def _measure_codec(quantizer: CodecQuantizer, test_set: TestSet, batch_size: int, progress: Progress) -> dict[str, Any]:
    task = progress.add_task("codec: encoding", total=int(test_set.database.shape[0]))
    return measure(quantizer, test_set, batch_size=batch_size, advance=partial(progress.advance, task))


def _data_facts(data: Any) -> dict[str, Any]:
    return {
        "name": data.name,
        "metric": data.metric,
        "dim": data.dim,
        "num_train": int(data.train_vectors.shape[0]),
        "num_database": int(data.database.shape[0]),
        "num_queries": 0 if data.queries is None else int(data.queries.shape[0]),
    }


def _check_options(baselines: Sequence[str], batch_size: int, num_threads: int | None) -> None:
    for method in baselines:
        if method not in faiss_baselines.METHODS:
            raise unknown("baseline", method, faiss_baselines.METHODS)
    for name, value in {"batch_size": batch_size, "num_threads": num_threads}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give at least 1")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _show(record: dict[str, Any], console: Console) -> None:
    console.print(rich_table(record))
    console.print(table_notes(record), style="dim")
    if record["rates"] is not None:
        console.print()
        console.print(rates_table(record))
        console.print(rates_notes(record), style="dim")


def _write(record: dict[str, Any], output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    figures, text = {"rate_distortion": rate_distortion_figure(record)}, markdown_table(record)
    if record["rates"] is not None:
        figures["rates"] = rates_figure(record)
        text += f"\n{rates_markdown(record)}"
    for name, figure in figures.items():
        for suffix in ("png", "svg"):
            write_atomically(output_dir / f"{name}.{suffix}", figure_bytes(figure, suffix))
    write_atomically(output_dir / "table.md", text)
    # last: where metrics.json is, the evaluation is complete
    write_atomically(output_dir / "metrics.json", json.dumps(record, indent=2) + "\n")
