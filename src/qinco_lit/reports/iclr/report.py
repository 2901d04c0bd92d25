"""The report of a reproduction: published, ours and the difference, from results.json to HTML, Markdown and plots."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qinco_lit.atomic import replacing_directory, write_atomically
from qinco_lit.reports.iclr.claims import claims_table
from qinco_lit.reports.iclr.figures import Chart, on_white
from qinco_lit.reports.iclr.markdown import markdown_report
from qinco_lit.reports.iclr.provenance import provenance_blocks, revision_blocks, state_blocks
from qinco_lit.reports.iclr.published import published_papers
from qinco_lit.reports.iclr.records import Measurements
from qinco_lit.reports.iclr.sections import PLOTS, main_blocks, study_blocks
from qinco_lit.reports.iclr.states import read_tasks, state_counts
from qinco_lit.reports.iclr.tables import other_numbers_table, published_tables
from qinco_lit.reports.page import Block, Details, Heading, Paragraph, html_page

PAPER_SCALE, SMOKE_SCALE = "paper", "smoke"


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
    write_atomically(output_dir / "report.md", markdown_report(title, blocks, subtitle=subtitle))
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


_ABOUT_CLAIMS = (
    "Each claim against our own records; a difference counts as it is, without a test of significance. "
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
