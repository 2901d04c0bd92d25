"""The sections of the report: what each study asks, its table and its figure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qinco_lit.reports.iclr.figures import Chart, section_chart
from qinco_lit.reports.iclr.markdown import StoredPlot
from qinco_lit.reports.iclr.numbers import dataset_label
from qinco_lit.reports.iclr.records import Measurements, unique
from qinco_lit.reports.iclr.states import Task, state_counts
from qinco_lit.reports.iclr.studies import Point, on_fronts, rate_table, study_points, study_table
from qinco_lit.reports.iclr.tables import comparison_table, is_published, main_places, relative_table
from qinco_lit.reports.page import Block, Details, Heading, Paragraph

PLOTS = "plots"
# The ablation's full recipe, against which the others are measured.
BASE = "all ingredients"
# Longer tables of operating points are folded away below their Pareto fronts.
_MAX_POINTS = 24


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
    "dynamic_rate": _Study(
        "Dynamic rate",
        "The first m codes of an encoding, decoded by the first m steps.",
    ),
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


def main_blocks(measurements: Measurements, tasks: Sequence[Task], with_published: bool) -> Iterator[Block]:
    """Yield the main tables: a data set and a rate each; the papers' data sets even where nothing was measured."""
    yield Heading("Error and recall")
    for dataset, num_bytes in main_places(measurements, tasks, with_published):
        table = comparison_table if is_published(dataset) else relative_table
        yield Heading(f"{dataset_label(dataset)}, {num_bytes} bytes", 3)
        yield table(measurements, tasks, dataset, num_bytes)


def study_blocks(measurements: Measurements, tasks: Sequence[Task]) -> tuple[list[Block], list[Chart]]:
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
                blocks.append(StoredPlot(chart.svg, f"{study.title}, {dataset_label(dataset)}", chart.caption, path))
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
