"""The builder of pages: everything escaped, everything inside."""

import math
import re

import pytest
from matplotlib.figure import Figure

from qinco_lit.reports.kit.page import Details, Heading, Link, Paragraph, Plot, TableBlock, html_page
from qinco_lit.reports.kit.plots import figure_bytes
from qinco_lit.reports.kit.texts import number_text

EVIL = '<script>alert("&")</script>'


@pytest.fixture
def svg() -> str:
    figure = Figure()
    figure.add_subplot().plot([1, 2], [3, 4], label="a & b")
    return figure_bytes(figure, "svg").decode()


def test_all_text_is_escaped(svg):
    table = TableBlock([EVIL], [[EVIL], [Link(EVIL, f'"{EVIL}')]], caption=EVIL)
    blocks = [Heading(EVIL), Paragraph(EVIL), table, Plot(svg, EVIL, EVIL), Details(EVIL, [Paragraph(EVIL)])]
    page = html_page(EVIL, blocks, subtitle=EVIL)
    assert page.count("<script>") == 1  # its own
    assert page.count("alert(") == page.count("&lt;script&gt;alert(") > 10
    assert 'href="&#34;&lt;script' in page


def test_paragraphs_know_code_and_line_breaks():
    assert "<p>a <code>b &lt; c</code><br>\nd</p>" in html_page("", [Paragraph("a `b < c`\nd")])


def test_a_page_refers_to_nothing_outside(svg):
    page = html_page("t", [Plot(svg, "a"), Plot(svg, "b")])
    assert not re.search(r"(src|href)=\"(?!#|data:,)", page)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_plots_keep_their_ids_apart(svg):
    page = html_page("t", [Plot(svg, "a"), Plot(svg, "b")])
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 10
    referred = set(re.findall(r'(?:url\(|href=")#([^)"]+)', page))
    assert referred
    assert referred <= set(ids)
    assert page.count('role="img" aria-label="a"') == 1


def test_a_box_to_filter_stands_over_long_tables_only():
    short, long = (html_page("", [TableBlock(["a"], [[n] for n in range(rows)])]) for rows in (7, 8))
    assert ("<input" in short, "<input" in long) == (False, True)
    plain = html_page("", [TableBlock(["a"], [[n] for n in range(20)], sortable=False)])
    assert "<input" not in plain
    assert "<button" not in plain


@pytest.mark.parametrize(
    ("cell", "sorted_as", "text"),
    [
        (None, None, ""), (3, "3", "3"), (1234567, "1234567", "1,234,567"), (0.12345, "0.12345", "0.1235"),
        (9904.93, "9904.93", "9,905"), ("9,905", "9905", "9,905"), ("66.9 ± 0.3", "66.9", "66.9 ± 0.3"),
        ("\N{MINUS SIGN}3.5 %", "-3.5", "\N{MINUS SIGN}3.5 %"), ("1e-3", "0.001", "1e-3"), ("8B", None, "8B"),
        ("2026-11-22", None, "2026-11-22"), (math.nan, None, "nan"), (True, "1", "yes"),
    ],
)  # fmt: skip
def test_cells_are_sorted_by_the_number_they_begin_with(cell, sorted_as, text):
    [found] = re.findall(r"<td[^>]*>[^<]*</td>", html_page("", [TableBlock(["a"], [[cell]])]))
    data = re.search(r'data-v="([^"]*)"', found)
    assert (None if data is None else data[1]) == sorted_as
    assert re.sub("<[^>]*>", "", found) == text


def test_a_column_of_numbers_is_aligned_to_the_right():
    page = html_page("", [TableBlock(["a", "b"], [[1, "1"], ["2.5", "x"], [None, "3"]])])
    assert page.count('<td class="n"') == 3


def test_numbers_are_short():
    assert [number_text(value) for value in (1, 1000, 0.5, 999.95, 12345.6, 1e-7, 1e20)] == [
        "1", "1,000", "0.5", "1000", "12,346", "1e-07", "1e+20",
    ]  # fmt: skip
