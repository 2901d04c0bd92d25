"""Figures as a reader sees them."""

import pytest

from qinco_lit.reports.kit.texts import count_text, size_text, time_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "12.3 ms"),
        (1.5, "1.50 s"),
        (89, "89.0 s"),
        (90, "1.50 min"),
        (3600, "60.0 min"),
        (86_400, "24.0 h"),
        (3 * 86_400, "3.00 days"),
        (365 * 86_400, "365 days"),
        (3.65e10, "1,157 years"),
    ],
)
def test_times_have_three_digits_and_one_unit(seconds, text):
    assert time_text(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(999, "999 bytes"), (1000, "1.00 kB"), (8e9, "8.00 GB"), (132e9, "132 GB"), (1e15, "1,000 TB")],
)
def test_sizes_are_decimal(num_bytes, text):
    assert size_text(num_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (3, "3"),
        (3.25, "3.25"),
        (3072, "3,072"),
        (81_380, "81.4k"),
        (10**6, "1M"),
        (10**9, "1,000M"),
        (2_604_167, "2.60M"),
    ],
)
def test_counts_are_short(count, text):
    assert count_text(count) == text
