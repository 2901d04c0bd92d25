"""`evaluate`: measure a trained codec on a data set, next to the baselines of faiss at the same bytes per vector."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from qinco_lit.atomic import write_atomically
from qinco_lit.evaluation.evaluate import Evaluation
from qinco_lit.evaluation.measure import TestSet
from qinco_lit.evaluation.rate_curve import Rate
from qinco_lit.options import Count
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
    batch_size: Count = 16384,
    precision: str = "auto",
    device: str = "auto",
    num_threads: Count | None = None,
    cache_dir: Path = DEFAULT_CACHE_DIR,
    logger: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a codec and baselines, write `metrics.json`, `table.md` and `rate_distortion.png/.svg`, print the table.

    Args:
        codec_dir: what training or `import` wrote.
        data: a data module (docs/architecture.md says what is asked of it); its files are prepared and opened here.
        output_dir: where the results go, made when needed.
        baselines, beam_size, num_candidates, candidate_budget, num_steps, rate, dedicated, batch_size, precision,
            device, num_threads, cache_dir: of `qinco_lit.evaluate`.
        logger: arguments of `start_wandb`, None for no W&B.
        config: the resolved configuration, for the W&B run.

    Returns:
        The content of `metrics.json`, see `qinco_lit.evaluate`.

    Raises:
        FileNotFoundError: no codec, or a file of the data set is missing.
        ValueError: as `qinco_lit.evaluate`.
    """
    evaluation = Evaluation(
        codec_dir,
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
        cache_dir=cache_dir,
    )
    data.prepare_data()
    data.setup("test")
    if evaluation.codec.dim != data.dim:
        known = f"{codec_dir} encodes vectors of dimension {evaluation.codec.dim}"
        raise ValueError(f"{known}, data set {data.name} has {data.dim}")
    queries = None if data.queries is None else np.asarray(data.queries[:])
    truth = None if queries is None else np.asarray(data.ground_truth)
    test_set = TestSet(data.database, queries, truth, data.metric)
    with track(output_dir, logger, config or {}, send_evaluation) as tracker:
        record = evaluation.record(test_set, data.train_vectors, name=data.name)
        _write(record, output_dir)
        tracker(record)
    _show(record, Console())
    Console().print(f"results: {output_dir}", soft_wrap=True)
    return record


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
