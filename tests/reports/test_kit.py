"""What all reports are made with: numbers keep their digits, tables their cells, fronts what is best."""

import csv
import io
import itertools
import math
import random

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from qinco_lit.metrics import undominated
from qinco_lit.reports.kit import texts
from qinco_lit.reports.kit.plots import LOOKS, figure_bytes
from qinco_lit.reports.kit.tables import Grid, csv_text


def _digits(text: str) -> int:
    return len("".join(letter for letter in text if letter.isdigit()).lstrip("0"))


@pytest.mark.parametrize("seed", range(3))
def test_numbers_in_three_digits_are_off_by_half_a_digit_at_most_and_never_have_exponents(seed):
    generator = random.Random(seed)
    for value in [10 ** generator.uniform(-2, 8) for _ in range(500)] + [0.9995, 9.995, 99.95, 99.96, 999.4, 999.7]:
        for text in (texts.three_digits(value), texts.rounded(value)):
            assert "e" not in text
            assert not text.endswith(".")
            assert abs(float(text.replace(",", "")) - value) <= 0.00501 * value
            assert _digits(text) >= 3


def test_numbers_for_people():
    assert [texts.rounded(value) for value in (8.614, 86.14, 861.4, 8614.0, 86_149.0)] == [
        "8.61", "86.1", "861", "8,610", "86,100",
    ]  # fmt: skip
    assert [texts.milliseconds(value) for value in (None, 0.00123, 0.0123, 1.234)] == ["", "1.23", "12.3", "1,234"]
    assert [texts.percent(share) for share in (None, 0.0, 0.66666)] == ["", "0.0", "66.7"]
    assert [texts.speed_text(value) for value in (653.2, 999.6, 17_000, 5_276_023)] == [
        "653",
        "1.00k",
        "17.0k",
        "5.28M",
    ]
    assert [texts.tick_text(value) for value in (0.5, 5000, 20_000, 1_500_000)] == ["0.5", "5000", "20k", "1.5M"]
    assert [texts.signed(value, 1) for value in (1.25, -0.04, -3.0)] == ["+1.2", "0.0", f"{texts.MINUS}3.0"]
    assert texts.range_text(3600.0, 7200.0, 5400.0) == "1.00 – 2.00"


def test_a_table_says_the_same_everywhere():
    rows = [("[red]QINCo2[/red]", "1,234", "a | b"), ("RQ", "", "<c>")]
    grid = Grid(("method", "MSE\nraw", "note"), rows, "A title", left=(0, 2), bold=(0,), ends=(0,))
    stream = io.StringIO()
    Console(width=80, file=stream).print(grid.rich())
    shown = stream.getvalue()
    assert all(cell in shown for row in rows for cell in row)  # no text is markup
    assert "A title" in shown
    assert grid.markdown(texts.markdown).splitlines() == [
        "| method | MSE raw | note |", "| :-- | --: | :-- |",
        "| [red]QINCo2[/red] | 1,234 | a \\| b |", "| RQ |  | &lt;c&gt; |",
    ]  # fmt: skip


def test_values_survive_csv():
    rows = [["a, b", 1, None, 0.1], ['"', 2.5, True, "x\ny"]]
    read = list(csv.reader(io.StringIO(csv_text(["p", "q", "r", "s"], rows))))
    assert read == [["p", "q", "r", "s"], ["a, b", "1", "", "0.1"], ['"', "2.5", "True", "x\ny"]]


def test_looks_can_be_told_apart_without_colour():
    assert len({look["marker"] for look in LOOKS}) == len({look["linestyle"] for look in LOOKS}) == len(LOOKS)


def test_a_salt_makes_an_svg_the_same_every_time():
    def drawn(salt: str) -> bytes:
        figure = Figure()
        figure.add_subplot().plot([1, 2], [3, 4])
        return figure_bytes(figure, "svg", salt=salt)

    assert drawn("a") == drawn("a") != drawn("b")


@pytest.mark.parametrize("seed", range(5))
def test_a_front_is_what_nothing_dominates(seed):
    generator = random.Random(seed)
    choices = [0.0, 1.0, 2.0, 3.0, 4.0, math.inf, math.nan]
    points = [(generator.choice(choices), generator.choice(choices), place) for place in range(40)]
    front = undominated(points, lambda point: point[0], lambda point: point[1])
    known = [point for point in points if all(map(math.isfinite, point[:2]))]
    best = {
        point[:2]
        for point in known
        if not any(a <= point[0] and b <= point[1] and (a, b) != point[:2] for a, b, _ in known)
    }
    assert [point[:2] for point in front] == sorted(best)
    for point in front:  # of equal ones the first
        assert point[2] == min(place for a, b, place in known if (a, b) == point[:2])
    for one, other in itertools.pairwise(front):
        assert one[0] < other[0]
        assert one[1] > other[1]
