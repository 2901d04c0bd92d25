"""The report as files: complete, self-contained, the same from the same results, current after every call."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from omegaconf import OmegaConf

from qinco_lit.reports.iclr import write_report
from qinco_lit.reports.iclr.figures import section_chart
from qinco_lit.reports.iclr.numbers import Measurements
from qinco_lit.reports.iclr.report import BASE, report_blocks
from qinco_lit.reports.iclr.studies import study_points
from qinco_lit.reports.kit.page import Block, Details, Heading, Paragraph, TableBlock, markdown_page
from qinco_lit.reproducing.scale import read_scale
from qinco_lit.reproducing.tasks import expand
from tests.reproduce.report_results import record, results, task, text


def _everything() -> list[dict[str, Any]]:
    """A few records of every section, two seeds in the main one."""
    at: dict[str, Any] = {"dataset": "photo_sift"}
    records = [record(method, mse, **at) for method, mse in (("OPQ", 30e3), ("RQ", 22e3), ("QINCo1 (L=2)", 17e3))]
    records += [record("QINCo2-S", 14_700.0 + 100 * seed, seed=seed, **at) for seed in (0, 1)]
    records += [record("QINCo2-S", 0.7, metric="recall_at_1", **at)]
    for beam, mse, time in ((1, 17e3, 90.0), (8, 15.8e3, 300.0), (16, 15.9e3, 500.0)):
        study = {**at, "section": "run_time", "settings": {"beam_size": beam}, "run": f"photo_sift/run_time/B{beam}"}
        records += [record("QINCo2-S", mse, **study), record("QINCo2-S", time, metric="encode_us_per_vector", **study)]
    for name, mse in ((BASE, 16e3), ("no beam", 16.8e3)):
        records.append(record(name, mse, section="ablation", run=f"photo_sift/ablation-{len(name)}", **at))
    records += [record("QINCo2-S", 9e4 / step, section="dynamic_rate", num_bytes=step, **at) for step in (1, 2, 3)]
    records += [record("RQ", 8.9, metric="decode_us_per_vector", section="speed", **at)]
    records += [record("QINCo2-S", 2e4, section="pairwise", settings={"decoder": "pairwise"}, **at)]
    for engine, method in (("qinco", "QINCo2-S"), ("ivf_pq", "IVF-PQ")):
        for nprobe in range(1, 16):
            study = {**at, "section": "search", "settings": {"engine": engine, "nprobe": nprobe}}
            records.append(record(method, 0.6 + nprobe / 100, metric="recall_at_1", **study))
            records.append(record(method, 9e3 / nprobe, metric="queries_per_s", **study))
    return records


TASKS = [
    task("photo_sift/QINCo2-S-8B-s0/train", "done"),
    task("photo_sift/QINCo1-L2-16B-s0/train", "failed", reason="exit code 1: out of memory"),
    task("deep1m/QINCo2-S-8B-s0/train", "missing_data", reason="qinco download deep1b --small (4.2 GB)"),
    task("deep1m/QINCo2-S-8B-s0/evaluate", "missing_data", reason="qinco download deep1b --small (4.2 GB)"),
    task("photo_sift/centroids-256", "not_run", section="search"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(results(_everything(), TASKS, scale="small"), folder)
    return folder


class _Resources(HTMLParser):
    """Everything a browser would fetch, and every link."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if tag == "a" and name == "href":
                self.links.append(value or "")
            elif name in ("src", "href", "srcset", "data", "poster") and not (value or "").startswith(("#", "data:")):
                self.fetched.append(f"{tag} {name}={value}")


def test_the_page_needs_nothing_but_itself(written: Path) -> None:
    page = (written / "report.html").read_text()
    parser = _Resources()
    parser.feed(page)
    assert not parser.fetched
    assert not re.findall(r"url\((?!#|[\"']?#)[^)]*\)|@import", page)
    assert page.count("<svg") == 4
    assert all(not re.match(r"[a-z]+:|/", link) for link in parser.links), "links stay beside the report"


def test_every_run_of_a_record_is_linked_from_both_reports(written: Path) -> None:
    runs = {each["run"] for each in _everything()}
    parser = _Resources()
    parser.feed((written / "report.html").read_text())
    assert runs <= {unquote(link) for link in parser.links}
    markdown = (written / "report.md").read_text()
    assert runs <= {unquote(link) for link in re.findall(r"\]\(([^)]*)\)", markdown)}


def test_plots_lie_beside_the_report_and_are_its_own(written: Path) -> None:
    names = {
        f"{name}_photo_sift.{suffix}"
        for name in ("run_time", "ablation", "dynamic_rate", "search")
        for suffix in ("svg", "png")
    }
    assert {path.name for path in (written / "plots").iterdir()} == names
    for path in written.glob("plots/*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in written.glob("plots/*.svg"):
        assert '<rect width="100%" height="100%" fill="#ffffff"/>' in path.read_text()
        assert f"(plots/{path.name})" in (written / "report.md").read_text()


def test_the_same_results_give_the_same_files(written: Path, tmp_path: Path) -> None:
    write_report(results(_everything(), TASKS, scale="small"), tmp_path)
    for path in sorted(written.rglob("*.*")):
        assert (tmp_path / path.relative_to(written)).read_bytes() == path.read_bytes(), path


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    write_report(results([each for each in _everything() if each["section"] == "ablation"]), tmp_path)
    assert (tmp_path / "plots" / "ablation_photo_sift.svg").is_file()
    (tmp_path / "photo_sift").mkdir()
    write_report(results([]), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo_sift", "plots", "report.html", "report.md"]
    assert not list((tmp_path / "plots").iterdir())


def _all_blocks(blocks: list[Block]) -> list[Block]:
    inside = [_all_blocks(list(block.blocks)) for block in blocks if isinstance(block, Details)]
    return blocks + [each for group in inside for each in group]


def _tables(content: dict[str, Any]) -> list[TableBlock]:
    return [block for block in _all_blocks(report_blocks(content)[2]) if isinstance(block, TableBlock)]


def _table(content: dict[str, Any], *header: str) -> list[list[str]]:
    [found] = [each for each in _tables(content) if tuple(each.header) == header]
    return [[text(cell) for cell in row] for row in found.rows]


def test_missing_data_comes_with_the_command_that_brings_it() -> None:
    content = results([], TASKS)
    assert _table(content, "data set", "tasks", "what brings it") == [
        ["Deep1M", "2", "qinco download deep1b --small (4.2 GB)"]
    ]
    assert _table(content, "failed task", "reason") == [
        ["photo_sift/QINCo1-L2-16B-s0/train", "exit code 1: out of memory"]
    ]
    assert report_blocks(content)[1] == "2026-11-22T23:00:00+0000: 1 done, 1 failed, 2 missing data, 1 not run"


def test_every_task_shows_command_and_wall_time() -> None:
    rows = _table(results([], TASKS), "task", "section", "state", "wall time, s", "estimate, s", "command", "reason")
    assert [(row[0], row[3], row[4], row[5]) for row in rows] == [
        (each["name"], "" if each["wall_s"] is None else "12.5", "40", each["command"]) for each in TASKS
    ]


def test_every_record_is_listed_once() -> None:
    main = [each for each in _everything() if each["section"] == "main"]
    rows = _table(
        results(main),
        "run", "section", "data set", "method", "bytes", "settings", "metric", "value", "seed",
    )  # fmt: skip
    assert [row[0] for row in rows] == [each["run"] for each in main]


def test_versions_revision_and_hardware_are_told() -> None:
    assert _table(results([]), "environment", "") == [
        ["versions: torch", "2.13.0"],
        ["git revision", "abc123+"],
        ["hardware: cpu count", "2"],
        ["hardware: gpus", "none"],
    ]


def test_runs_of_several_versions_of_the_code_are_told_first() -> None:
    def made(*revisions: str | None) -> dict[str, Any]:
        each = [record("RQ", 2e4, run=f"d/{place}", git_revision=name) for place, name in enumerate(revisions)]
        return results(each, [task("d/0", "done", git_revision=revisions[0]), task("d/x", "not_run")])

    header = ("git revision of the runs", "run folders")
    blocks = report_blocks(made("abc", "def+", "def+"))[2]
    assert blocks[1] == Paragraph(
        "Numbers here are of 2 versions of the code, whose defaults may differ: def+ (2 run folders), "
        "abc (1 run folders). `results.json` tells which run is of which."
    )
    assert _table(made("abc", "def+", "def+"), *header) == [["def+", "2"], ["abc", "1"]]
    assert _table(made("abc", "abc", None), *header) == [["abc", "2"]]
    assert "versions of the code" not in markdown_page("", report_blocks(made("abc", "abc", None))[2])


@pytest.mark.parametrize("scale", ["small", "smoke"])
def test_a_smaller_scale_says_so_first_and_sets_nothing_beside_published_numbers(scale: str) -> None:
    content = results([record("RQ", 2e4, dataset="photo_sift")], scale=scale)
    blocks = report_blocks(content)[2]
    assert isinstance(blocks[0], Paragraph)
    assert blocks[0].text.startswith(f"Scale `{scale}`: this ")
    assert ("no reproduction of the papers' numbers" in blocks[0].text) is (scale == "small")
    assert ("no number here says anything" in blocks[0].text) is (scale == "smoke")
    assert not [name for table in _tables(content) for name in table.header if name.startswith("MSE difference")]
    headings = [block.text for block in blocks if isinstance(block, Heading)]
    assert "BigANN1M, 8 bytes" not in headings
    assert "photo_sift, 8 bytes" in headings


def test_the_paper_scale_shows_the_published_tables_before_anything_is_measured() -> None:
    _, _, blocks, charts = report_blocks(results([]))
    assert isinstance(blocks[0], Paragraph)
    assert "the QINCo2 paper's tables were not available" in blocks[0].text
    assert not charts
    assert "| QINCo1 | 1.12 |  |  | 45.2 |  |  | 91.2 |  |  | 99.7 |  |  |" in markdown_page("", blocks)


def test_a_study_without_numbers_says_how_far_it_is() -> None:
    content = results([], [task("photo_sift/QINCo2-S-8B-s0/run_time/B1", "not_run", section="run_time")])
    text_of = markdown_page("", report_blocks(content)[2])
    assert "photo_sift: nothing measured yet (1 not run)." in text_of
    assert "Ablation" not in text_of


def test_many_operating_points_are_folded_behind_their_fronts() -> None:
    content = results([each for each in _everything() if each["section"] == "search"])
    folded = [
        block for block in report_blocks(content)[2] if isinstance(block, Details) and block.summary == "all 30 points"
    ]
    assert len(folded) == 1


@pytest.mark.parametrize("section", ["run_time", "ablation", "dynamic_rate", "search"])
def test_no_figure_of_values_that_are_no_numbers(section: str) -> None:
    at = {"section": section, "dataset": "photo_sift"}
    metrics = ("mse", "encode_us_per_vector", "recall_at_1", "queries_per_s")
    records = [record("A", float("nan"), metric=metric, **at) for metric in metrics]
    points = study_points(Measurements(records), section, "photo_sift")
    assert points
    assert section_chart(points, section, "photo_sift", BASE) is None


def test_cells_cannot_break_a_markdown_table() -> None:
    markdown = markdown_page("t", [TableBlock(["a"], [["x|y\nz"]])])
    assert markdown == "# t\n\n| a |\n| --- |\n| x\\|y z |\n"


@pytest.mark.parametrize("scale", ["paper", "small", "smoke"])
def test_every_ablation_has_the_variant_that_the_report_compares_with(scale: str) -> None:
    config = OmegaConf.load(Path(__file__).parents[2] / "conf" / "scale" / f"{scale}.yaml")
    tasks = expand(read_scale(OmegaConf.to_container(config, resolve=True)))
    assert BASE in {each.method for each in tasks if "ablation" in each.sections}
