"""`search`: which parameters of an index buy how much recall at which speed, next to indexes of faiss."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from qinco_lit.atomic import write_atomically
from qinco_lit.devices import chosen_device, threads
from qinco_lit.options import Count, in_range, unknown
from qinco_lit.progress import Progress
from qinco_lit.reports.kit.plots import figure_bytes
from qinco_lit.reports.search import csv_table, markdown_report, recall_figure, rich_tables, search_notes
from qinco_lit.reports.wandb_tables import send_search, track
from qinco_lit.search.points.comparison import circumstances, measured_record, open_inputs
from qinco_lit.search.points.engines import SearcherEngine
from qinco_lit.search.points.explore import Exploration
from qinco_lit.search.points.faiss_engines import METHODS
from qinco_lit.search.points.measure import MeasureSettings
from qinco_lit.search.points.operating_points import PointFile

log = logging.getLogger(__name__)

DEFAULT_CACHE_DIR = Path("outputs/cache/baselines")


@in_range
def search(
    *,
    index_dir: Path,
    data: Any,
    output_dir: Path,
    baselines: Sequence[str] = (),
    nprobe: Sequence[int] | None = None,
    ef_search: Sequence[int] | None = None,
    num_additive: Sequence[int] | None = None,
    num_pairwise: Sequence[int] | None = None,
    num_steps: Sequence[int] | None = None,
    refine: str | None = None,
    num_refine: Sequence[int] | None = None,
    strategy: Literal["grid", "random"] = "grid",
    max_points: int | None = None,
    recall_at: Sequence[int] = (1, 10, 100),
    num_queries: Count | None = None,
    batch_size: int = 1024,
    warmup: int = 1,
    repeats: int = 3,
    latency_queries: int = 200,
    device: str = "cpu",
    num_threads: Count | None = None,
    precision: str = "auto",
    mmap: bool = False,
    seed: int = 0,
    cache_dir: Path = DEFAULT_CACHE_DIR,
    logger: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure operating points of an index and of faiss baselines; write and print the Pareto fronts.

    Every point is appended to `points.jsonl` when it is measured; the same call with the same `output_dir` takes the
    points that are there. At the end `search.md`, `search.csv`, `search.png/.svg` and `search.json` are written.

    Args:
        index_dir: what `qinco index` wrote, of the data set's database, without ids of its own.
        data: a data module (docs/architecture.md) with queries.
        output_dir: where the results go, made when needed.
        baselines: of `faiss_engines.METHODS`: same lists, same coarse search, codes of the same bytes; trained on the
            data set's training rows and kept in `cache_dir`.
        nprobe, ef_search: values to try, for baselines too; None: see `engines.default_grid`.
        num_additive, num_pairwise: values to try; 0 pairwise: the stage is left out.
        num_steps: values to try, of the codes that the full decoder reads; None: all codes.
        refine: file of the original vectors, row i that of id i: the best of each search are ranked anew by them, those
            of baselines are not.
        num_refine: values to try, of the vectors that are; 0: none.
        strategy, max_points, recall_at, batch_size, warmup, repeats, latency_queries, seed: as of `explore`.
        num_queries: the first of the data set's queries only; None: all.
        batch_size: queries in a batch.
        warmup: batches before the clock starts.
        repeats: passes over the queries, of which the median counts.
        latency_queries: queries that are also asked one by one; 0: none.
        device: of the full decoder: cpu, auto, cuda, cuda:1; the other stages, and baselines, run on the CPU.
        num_threads: of torch and faiss; None: as many as each takes by itself, all cores.
        precision: of the full decoder: auto, fast, float32, screened, bfloat16 (see `Searcher`).
        mmap: leave the lists of the index on the disk.
        seed: of the order of the points.
        cache_dir: where filled baselines are kept.
        logger: arguments of `start_wandb`, None for no W&B.
        config: what W&B records as the run's configuration.

    Returns:
        The content of `search.json` (docs/search.md).

    Raises:
        FileNotFoundError: no index, or a file of the data set is missing.
        ValueError: impossible options, an index of other vectors, or an `output_dir` with points of another search.
    """
    for method in baselines:
        if method not in METHODS:
            raise unknown("baseline", method, METHODS)
    settings = MeasureSettings(tuple(dict.fromkeys(recall_at)), batch_size, warmup, repeats, latency_queries)
    exploration = Exploration(settings, strategy, max_points, seed)
    inputs = open_inputs(
        index_dir, data, num_queries, mmap=mmap, device=str(chosen_device(device)), num_threads=num_threads,
        precision=precision,
    )  # fmt: skip
    engine = SearcherEngine(
        inputs.searcher,
        refine=refine,
        nprobe=nprobe,
        ef_search=ef_search,
        num_additive=num_additive,
        num_pairwise=num_pairwise,
        num_steps=num_steps,
        num_refine=num_refine,
    )
    console = Console()
    with threads(num_threads), Progress("points") as progress:
        file = PointFile(output_dir / "points.jsonl", circumstances(inputs, settings, mmap=mmap, engine=engine))
        if file.points:
            log.info("%d points of an earlier run are in %s", len(file.points), output_dir)
        with track(output_dir, logger, config or {}, send_search) as tracker:
            record = measured_record(
                inputs, engine, exploration, baselines=baselines, cache_dir=cache_dir, file=file, mmap=mmap,
                progress=progress,
            )  # fmt: skip
            _write_results(record, output_dir)
            tracker(record)
    for table in rich_tables(record):
        console.print(table)
    console.print(search_notes(record), style="dim")
    console.print(f"results: {output_dir}", soft_wrap=True)
    return record


def _write_results(record: dict[str, Any], output_dir: Path) -> None:
    """Write tables, plots and `search.json` of a record of `search`."""
    figure = recall_figure(record)
    for suffix in ("png", "svg"):
        write_atomically(output_dir / f"search.{suffix}", figure_bytes(figure, suffix))
    write_atomically(output_dir / "search.md", markdown_report(record))
    write_atomically(output_dir / "search.csv", csv_table(record))
    # last: where search.json is, the search is complete
    write_atomically(output_dir / "search.json", json.dumps(record, indent=2) + "\n")
