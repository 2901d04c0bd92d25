"""The report of a reproduction: published, ours and the difference, from results.json to HTML, Markdown and plots."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinco_lit.atomic import replacing_directory, write_atomically
from qinco_lit.reports.iclr.claims import claims_table
from qinco_lit.reports.iclr.figures import Chart, on_white, section_chart
from qinco_lit.reports.iclr.numbers import Measurements, dataset_label, unique
from qinco_lit.reports.iclr.published import published_papers
from qinco_lit.reports.iclr.studies import Point, on_fronts, rate_table, study_points, study_table
from qinco_lit.reports.iclr.tables import (
    comparison_table,
    is_published,
    main_places,
    other_numbers_table,
    published_tables,
    relative_table,
)
from qinco_lit.reports.iclr.tasks import (
    ToldTask,
    provenance_blocks,
    read_tasks,
    revision_blocks,
    state_blocks,
    state_counts,
)
from qinco_lit.reports.kit.page import Block, Details, Heading, Paragraph, Plot, html_page, markdown_page

PAPER_SCALE, SMOKE_SCALE = "paper", "smoke"
PLOTS = "plots"
# The ablation's full recipe, against which the others are measured.
BASE = "all ingredients"
# Longer tables of operating points are folded away below their Pareto fronts.
_MAX_POINTS = 24
_ABOUT_CLAIMS = (
    "Each claim against our own records. A difference is `within noise` where seeds alone may bring the means as far "
    "apart: a 95 % interval by Student's t, of methods that spread alike. With one seed each it counts as it is. "
    "A claim about data that was not measured cannot be said to hold or not."
)
_ABOUT_PAPERS = (
    "As printed, in the papers' units. The QINCo2 paper's tables were not available: of that paper there are only the "
    "claims of its abstract and its models' sizes."
)
_ABOUT_NUMBERS = (
    "MSE: mean over vectors of the sum over dimensions of the squared error, in raw space; in the papers' unit of 10⁴ "
    "on BigANN and FB-ssnpp.\n"
    "R@k: share of queries whose true nearest neighbour is among the first k results.\n"
    "Difference: ours minus published, with the relative difference behind it; of recall in points. Published numbers "
    "are rounded as printed: a printed 0.05 stands for anything from 0.045 to 0.055.\n"
    "Several seeds: mean ± sample standard deviation (n: number of seeds); the mean leads to the first run, columns "
    "on the right and the list of records to all.\n"
    "UNQ is not among the methods of this project: its numbers are the papers' only.\n"
    "`not finite`: a run whose error is no number."
)


@dataclass(frozen=True)
class _Study:
    title: str
    about: str


_STUDIES = {
    "run_time": _Study(
        "Error against encoding time",
        "The same codecs with other searches: A candidates per hypothesis, B hypotheses, T candidates over the beam. "
        "Points on the front have no other that is faster and as exact.",
    ),
    "ablation": _Study(
        "Ablation",
        "Each row was trained without the parts of the recipe that it names, or with others in their place; all else "
        "is equal.",
    ),
    "dynamic_rate": _Study("Dynamic rate", "The first m codes of an encoding, decoded by the first m steps."),
    "speed": _Study(
        "Encoding and decoding times",
        "Microseconds per vector on the machine named at the end; not comparable with times measured elsewhere.",
    ),
    "pairwise": _Study(
        "Decoders of the search",
        "Approximate decoders that sort out candidates before the full decoding. MSE on validation "
        "vectors of the index; R@1 of a search that had ended with this decoder.",
    ),
    "search": _Study(
        "Large-scale search",
        "Operating points of the index and of faiss' indexes. Points on the front have no other that is faster and "
        "finds as much.",
    ),
}


def write_report(results: Mapping[str, Any], output_dir: Path) -> None:
    """Write report.html, report.md and plots/*.svg, *.png of what has been measured so far.

    Args:
        results: content of results.json: scale, created, environment, records, tasks.
        output_dir: that the run folders in `results` are relative to; earlier reports in it are replaced.

    Raises:
        ValueError: a record or a task without a field that is needed.
    """
    title, subtitle, blocks, charts = report_blocks(results)
    with replacing_directory(output_dir / PLOTS) as plots:
        for chart in charts:
            (plots / f"{chart.name}.svg").write_text(on_white(chart.svg), encoding="utf-8")
            (plots / f"{chart.name}.png").write_bytes(chart.png())
    write_atomically(output_dir / "report.md", markdown_page(title, blocks, subtitle=subtitle))
    write_atomically(output_dir / "report.html", html_page(title, blocks, subtitle=subtitle))


def report_blocks(results: Mapping[str, Any]) -> tuple[str, str, list[Block], list[Chart]]:
    """Return title, subtitle, blocks and the figures among them."""
    scale = str(results["scale"])
    measurements, tasks = Measurements(results.get("records") or ()), read_tasks(results.get("tasks") or ())
    at_paper_scale = scale == PAPER_SCALE
    studies, charts = study_blocks(measurements, tasks)
    blocks: list[Block] = [
        Paragraph(_about_scale(scale)),
        *revision_blocks(results),
        *state_blocks(tasks),
        Heading("Claims of the papers"),
        Paragraph(_ABOUT_CLAIMS),
        claims_table(measurements),
        *main_blocks(measurements, tasks, with_published=at_paper_scale),
        *studies,
        *_papers_blocks(measurements, at_paper_scale),
        *provenance_blocks(results, tasks, measurements),
        Heading("How to read the numbers"),
        Paragraph(_ABOUT_NUMBERS),
    ]
    created = f"{results['created']}: " if results.get("created") else ""
    subtitle = f"{created}{state_counts(tasks) or 'no tasks'}"
    return f"QINCo2 (ICLR 2025), reproduced: scale {scale}", subtitle, blocks, charts


def _papers_blocks(measurements: Measurements, at_paper_scale: bool) -> Iterator[Block]:
    yield Heading("The papers' numbers")
    yield Paragraph(_ABOUT_PAPERS + "\n" + "\n".join(published_papers()))
    if not at_paper_scale:
        yield Details("main tables as printed", list(published_tables()))
    yield Details("numbers outside the main tables", [other_numbers_table(measurements)])


def _about_scale(scale: str) -> str:
    if scale == PAPER_SCALE:
        return (
            f"Scale `{scale}`: the papers' data sets, sizes and recipe. Published numbers are as printed, ours as "
            "measured; a number of ours leads to its run folder. A published cell that is not known is empty: those "
            "of the QINCo2 paper's tables were not available to this project, only the claims of its abstract."
        )
    if scale == SMOKE_SCALE:
        return (
            f"Scale `{scale}`: this only shows that every experiment runs from data to report. Its models are hardly "
            "trained: no number here says anything about the methods."
        )
    return (
        f"Scale `{scale}`: this is no reproduction of the papers' numbers. Data, sizes and training are far smaller "
        "than the papers', so no published number stands beside ours. What can be held against the papers is the order "
        f"of methods and how far they lie from RQ. `make reproduce-iclr SCALE={PAPER_SCALE}` runs the papers' sizes. "
        "Each number leads to its run folder."
    )


# --- sections ---------------------------------------------------------------------------------------------------------


def main_blocks(measurements: Measurements, tasks: Sequence[ToldTask], with_published: bool) -> Iterator[Block]:
    """Yield the main tables: a data set and a rate each; the papers' data sets even where nothing was measured."""
    yield Heading("Error and recall")
    for dataset, num_bytes in main_places(measurements, tasks, with_published):
        table = comparison_table if is_published(dataset) else relative_table
        yield Heading(f"{dataset_label(dataset)}, {num_bytes} bytes", 3)
        yield table(measurements, tasks, dataset, num_bytes)


def study_blocks(measurements: Measurements, tasks: Sequence[ToldTask]) -> tuple[list[Block], list[Chart]]:
    """Return the studies' blocks and the figures in them; a study without a task and a record is left out."""
    blocks: list[Block] = []
    charts: list[Chart] = []
    for section, study in _STUDIES.items():
        of_section = [task for task in tasks if section in task.sections]
        datasets = measurements.datasets(section)
        if not of_section and not datasets:
            continue
        blocks += [Heading(study.title), Paragraph(study.about)]
        for dataset in unique([*datasets, *(task.dataset for task in of_section)]):
            points = study_points(measurements, section, dataset)
            if not points:
                counts = state_counts([task for task in of_section if task.dataset == dataset])
                blocks.append(Paragraph(f"{dataset_label(dataset)}: nothing measured yet ({counts})."))
                continue
            chart = section_chart(points, section, dataset, BASE)
            if chart is not None:
                charts.append(chart)
                path = f"{PLOTS}/{chart.name}.svg"
                blocks.append(Plot(chart.svg, f"{study.title}, {dataset_label(dataset)}", chart.caption, path))
            blocks += _tables(points, section, dataset)
    return blocks, charts


def _tables(points: list[Point], section: str, dataset: str) -> list[Block]:
    if section == "dynamic_rate":
        return [rate_table(points, dataset)]
    base = BASE if section == "ablation" and any(point.method == BASE for point in points) else None
    table = study_table(points, section, dataset, base)
    front = on_fronts(points, section)
    if len(points) <= _MAX_POINTS or not front:
        return [table]
    shown = study_table([point for point in points if point in front], section, dataset, base)
    return [shown, Details(f"all {len(points)} points", [table])]
