"""What every family computes, from the first loss to the last distance, stays what was recorded.

Traces are taken again by the command line and the public names, in a new folder, and compared with
tests/golden/traces: to the bit where `made_on` says that this machine is alike, elsewhere within measured bounds
(tests/traces/compare.py). When they may be written anew, and how: tests/traces/record.py.
"""

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.traces.compare import ERROR, LOSS, beyond_rounding, changes, figures, shortened
from tests.traces.families import FAMILIES
from tests.traces.record import TRACES, read, record


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traces")
    record(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_computes_what_was_recorded(family: str, taken: Path) -> None:
    recorded, now = read(TRACES, family), read(taken, family)
    compared = changes if recorded["made_on"] == now["made_on"] else beyond_rounding
    assert not (told := shortened(compared(recorded, now))), told


def test_every_trace_is_compared() -> None:
    assert sorted(path.stem for path in TRACES.iterdir()) == sorted(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_bounds_let_rounding_through_and_nothing_larger(family: str) -> None:
    recorded = read(TRACES, family)
    assert not list(changes(recorded, recorded))
    for name, factor, refused in (
        ("losses[49]", 1 + 1e-6, False),
        ("losses[49]", 1 + 1.1 * LOSS, True),
        ("decode_mse", 1 + 1e-6, False),
        ("decode_mse", 1 + 1.1 * ERROR, True),
        ("decode_mse", float("nan"), True),
    ):
        moved = _moved(recorded, name, factor)
        assert list(changes(recorded, moved)), name
        assert [line.split(":")[0] for line in beyond_rounding(recorded, moved)] == [name] * refused
        assert figures(moved).keys() == figures(recorded).keys()


def _moved(trace: dict[str, Any], name: str, factor: float) -> dict[str, Any]:
    moved = copy.deepcopy(trace)
    if name == "decode_mse":
        moved[name] *= factor
    else:
        moved["losses"][-1] *= factor
    return moved
