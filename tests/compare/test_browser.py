"""The page in a real browser: a phone, a desktop, dark mode, paper; sorted, filtered, without a network."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import make_sweep
from qinco_lit.cli import main
from qinco_lit.reports.kit.page import TableBlock, html_page
from tests.browser import Page, browser_page
from tests.compare.conftest import search_record

NUM_RUNS = 24
LONG_NAME = "a_run_with_a_name_that_goes_on_and_on_without_a_space_" * 3
# Contrast as WCAG 2 defines it, of every element that has text of its own, with what is painted behind it.
CONTRASTS = """(() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const found = [];
  const add = (name, colour, element) => {
    const [a, b] = [luminance(numbers(colour)), luminance(behind(element))].sort((x, y) => y - x);
    found.push([name, (a + 0.05) / (b + 0.05)]);
  };
  for (const element of document.querySelectorAll("main, main *:not(svg *)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (own) add(element.tagName, getComputedStyle(element).color, element);
    if (element.placeholder) add("placeholder", getComputedStyle(element, "::placeholder").color, element);
  }
  return found;
})()"""
FIRST_TABLE = "document.querySelector('table')"
COLUMN = "[...{table}.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[{column}].textContent)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    make_sweep(root / "runs", NUM_RUNS)
    (root / "runs" / "3").rename(root / "runs" / LONG_NAME)
    (root / "runs" / "search").mkdir()
    (root / "runs" / "search" / "search.json").write_text(json.dumps(search_record()))
    (root / "runs" / "broken").mkdir()
    (root / "runs" / "broken" / "summary.json").write_text("<b>{")
    assert main(["compare", str(root / "runs"), "--output", str(root / "out")]) == 0
    return root / "out" / "compare.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser_page(tmp_path_factory.mktemp("profile")) as page:
        yield page


def _column(page: Page, column: int, table: str = FIRST_TABLE) -> list[str]:
    values: list[str] = page.evaluate(COLUMN.format(table=table, column=column))
    return values


def _place(page: Page, name: str) -> int:
    names = page.evaluate(f"[...{FIRST_TABLE}.tHead.rows[0].cells].map((cell) => cell.innerText.trim())")
    place: int = names.index(name)
    return place


def _button(place: int) -> str:
    return f"{FIRST_TABLE}.tHead.rows[0].cells[{place}].querySelector('button')"


def _numbers(cells: list[str]) -> list[float]:
    return [float(cell.replace(",", "")) for cell in cells if cell]


@pytest.mark.parametrize("width", [360, 820, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_and_can_be_read(page: Page, report: Path, width: int, dark: bool) -> None:
    page.open(report, width=width, dark=dark)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("innerWidth") == width
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.body.scrollWidth <= innerWidth")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 20 * NUM_RUNS / 2
    assert min(contrasts, key=lambda found: found[1])[1] >= 4.5
    assert page.complaints() == []
    assert page.requests() == [report.as_uri()]


def test_dark_mode_is_dark(page: Page, report: Path) -> None:
    colours: dict[bool, Any] = {}
    for dark in (False, True):
        page.open(report, width=360, dark=dark)
        colours[dark] = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (page.evaluate("getComputedStyle(document.querySelector('svg')).filter") == "none") == (not dark)
    assert max(colours[True]) < 60
    assert min(colours[False]) > 240


def test_the_text_of_plots_can_be_read_on_a_phone(page: Page, report: Path) -> None:
    page.open(report, width=360)
    scale = "(e) => e.getBoundingClientRect().width / e.viewBox.baseVal.width"
    sizes = page.evaluate(f"[...document.querySelectorAll('figure svg')].map({scale})")
    assert len(sizes) == 6
    # the smallest text has 8.5 points; of the plot's units there is one for each point
    assert min(sizes) * 8.5 >= 8


def test_a_caption_stays_in_sight_where_its_table_scrolls(page: Page, tmp_path: Path) -> None:
    table = TableBlock([f"column {number}" for number in range(30)], [["cell"] * 30], caption="word " * 60)
    (tmp_path / "page.html").write_text(html_page("wide", [table]))
    page.open(tmp_path / "page.html", width=360)
    for scrolled in (0, 600):
        page.evaluate(f"{FIRST_TABLE}.parentElement.scrollLeft = {scrolled}")
        assert page.evaluate(f"{FIRST_TABLE}.parentElement.scrollLeft") == scrolled
        left, right = page.evaluate(
            f"(() => {{ const box = {FIRST_TABLE}.caption.firstChild.getBoundingClientRect();"
            " return [box.left, box.right]; })()"
        )
        assert 0 <= left < right <= 360


def test_a_click_sorts_rising_then_falling_then_as_given(page: Page, report: Path) -> None:
    page.open(report, width=1440)
    mse = _place(page, "MSE\nvalidation")
    given = _column(page, 0)
    for order in ("ascending", "descending"):
        page.click(_button(mse))
        values = _numbers(_column(page, mse))
        assert len(values) == NUM_RUNS
        assert values == sorted(values, reverse=order == "descending")
        assert page.evaluate(f"{_button(mse)}.parentElement.getAttribute('aria-sort')") == order
    page.click(_button(mse))
    assert _column(page, 0) == given
    assert page.evaluate("location.hash") == ""


def test_empty_cells_stay_at_the_end(page: Page, report: Path) -> None:
    page.open(report, width=1440)
    mse = _place(page, "MSE\ndatabase")
    for _ in range(2):
        page.click(_button(mse))
        values = _column(page, mse)
        assert "" in values
        assert all(values[: values.index("")])
        assert not any(values[values.index("") :])


def test_the_keyboard_sorts_too(page: Page, report: Path) -> None:
    page.open(report, width=1440)
    lr = _place(page, "lr")
    page.evaluate(f"{_button(lr)}.focus()")
    page.press("Enter", "\r")
    values = _numbers(_column(page, lr))
    assert values == sorted(values)
    assert len(set(values)) == 3


def test_the_address_remembers_sorting_and_words(page: Page, report: Path) -> None:
    page.open(report, width=1440)
    beam = _place(page, "beam_size")
    page.click(_button(beam))
    page.click(_button(beam))
    page.click("document.querySelector('input')")
    page.type("16 0.00")
    shown, hash_ = _column(page, 0), page.evaluate("location.hash")
    assert 0 < len(shown) < NUM_RUNS
    page.open(report, width=1440, hash_=hash_)
    assert _column(page, 0) == shown
    assert page.evaluate("document.querySelector('input').value") == "16 0.00"
    page.evaluate("location.hash = ''")
    page.evaluate("new Promise((done) => setTimeout(done, 50))")
    assert len(_column(page, 0)) == NUM_RUNS


@pytest.mark.parametrize("hash_", ["#t1=99", "#t1=x&t9=1", "#t1.words=%F0%9F%98%80", "#%%%"])
def test_an_address_of_another_page_does_no_harm(page: Page, report: Path, hash_: str) -> None:
    page.open(report, width=360, hash_=hash_)
    assert page.complaints() == []


def test_words_filter_rows(page: Page, report: Path) -> None:
    page.open(report, width=360)
    page.click("document.querySelector('input')")
    page.type("ON_AND_ON a_run")
    assert _column(page, 0) == [LONG_NAME]
    assert page.evaluate("document.querySelector('output').textContent") == f"1 of {NUM_RUNS} rows"


def test_the_header_and_the_name_stay_in_sight(page: Page, report: Path) -> None:
    page.open(report, width=360, height=500)
    page.evaluate("document.querySelector('.box').scrollTo(300, 400)")
    place = """[%s, document.querySelector('.box')].map((e) => e.getBoundingClientRect())
        .reduce((cell, box) => [cell.x - box.x, cell.y - box.y])"""
    corner = page.evaluate(place % f"{FIRST_TABLE}.tHead.rows[0].cells[0]")
    name = page.evaluate(place % f"{FIRST_TABLE}.tBodies[0].rows[9].cells[0]")
    assert corner == pytest.approx([1, 1], abs=1.5)
    assert name[0] == pytest.approx(1, abs=1.5)


def test_paper_is_white_and_whole(page: Page, report: Path) -> None:
    page.open(report, width=800, dark=True, media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('svg')).filter") == "none"
    assert page.evaluate("getComputedStyle(document.querySelector('.filter')).display") == "none"
    assert (
        page.evaluate("document.querySelector('.box').scrollHeight - document.querySelector('.box').clientHeight") <= 0
    )


def test_the_page_may_load_nothing(page: Page, report: Path) -> None:
    page.open(report, width=360)
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'loaded', () => 'refused')") == "refused"
    assert any("Content Security Policy" in text for text in page.complaints())
