"""`plan`: what a whole data set costs in time, disk and memory, extrapolated from short measurements here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from qinco_lit.atomic import write_atomically
from qinco_lit.options import Count, Range
from qinco_lit.planning import plan as planning
from qinco_lit.reports.plan import markdown_report, notes, rich_tables, variation_warning
from qinco_lit.training.recipe import Recipe
from qinco_lit.vectors.data_facts import DataFacts


def plan(
    *,
    data: DataFacts,
    output_dir: Path,
    recipe: Mapping[str, Any],
    codec_dir: Path | None = None,
    model: Mapping[str, Any] | None = None,
    max_epochs: Count = 60,
    num_rows: Count | None = None,
    num_devices: Count = 1,
    beam_size: int | None = None,
    num_candidates: int | None = None,
    candidate_budget: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    num_threads: Count | None = None,
    seconds: Annotated[float, Range(above=0)] = 3.0,
) -> dict[str, Any]:
    """Measure throughput on a few rows, write `plan.json` and `plan.md` for all of them, print the tables.

    Args:
        data: what is known of the data set; without files, rows of its type are drawn at random.
        output_dir: where the results go, made when needed.
        recipe: fields of `Recipe`: how it would be trained.
        codec_dir: a trained codec; or
        model: arguments of `build_quantizer` but `dim`.
        max_epochs, num_rows, num_devices, beam_size, num_candidates, candidate_budget, precision, device, num_threads,
            seconds: of `qinco_lit.planning.plan.plan`.

    Returns:
        The content of `plan.json` (docs/scaling.md).

    Raises:
        FileNotFoundError: no codec.
        ValueError: impossible options, a codec of another dimension than the data, a data set of unknown size.
    """
    record = planning.plan(
        data,
        recipe=Recipe(**recipe),
        codec=codec_dir,
        model=None if codec_dir is not None else model,
        max_epochs=max_epochs,
        num_rows=num_rows,
        num_devices=num_devices,
        beam_size=beam_size,
        num_candidates=num_candidates,
        candidate_budget=candidate_budget,
        precision=precision,
        device=device,
        num_threads=num_threads,
        seconds=seconds,
    )
    write_atomically(output_dir / "plan.md", markdown_report(record))
    # last: where plan.json is, the plan is complete
    write_atomically(output_dir / "plan.json", json.dumps(record, indent=2) + "\n")
    console = Console()
    for table in rich_tables(record):
        console.print(table)
    if (warning := variation_warning(record)) is not None:
        console.print(warning, style="yellow", soft_wrap=True)
    console.print(notes(record), style="dim")
    console.print(f"results: {output_dir}", soft_wrap=True)
    return record
