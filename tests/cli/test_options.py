"""A function's signature is the schema of its options."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from qinco_lit.options import Count, Range, check_arguments, check_ranges, describe, fits, in_range, unknown_key


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [0, -3], [True, 1.0, "1", None, [1]]),
        (float, [1, 0.5], [True, "0.5", None]),
        (bool, [True, False], [0, "true", None]),
        (str, ["a", ""], [1, None, ["a"]]),
        (Path, ["a/b", Path("a")], [1, None]),
        (int | None, [1, None], ["null", 1.5]),
        (Literal["a", 1], ["a", 1], ["b", True, "1"]),
        (list[str], [[], ["a"]], ["a", [1], None]),
        (Sequence[int], [[], [1]], [["a"], "1"]),
        (tuple[int, ...], [[1, 2]], [["a"]]),
        (dict[str, Any], [{}, {"a": 1}], [[], "a"]),
        (list[int] | str | int, [[1], "auto", 2], [["a"], None, 1.5]),
        (Any, [1, "a", None, []], []),
    ],
)
def test_values_that_fit(annotation, good, bad):
    assert [value for value in good if not fits(value, annotation)] == []
    assert [value for value in bad if fits(value, annotation)] == []


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int | None, "an integer or null"),
        (str | Path, "text or a path"),
        (list[float], "a list in brackets, each a number"),
        (Literal["a", "b"], "one of a, b"),
    ],
)
def test_types_in_words(annotation, words):
    assert describe(annotation) == words


def _target(dim: int, *, num_steps: int, beam_size: int | None = None) -> None: ...


class _Target:
    def __init__(self, root: str | Path, size: int = 1) -> None: ...


@pytest.mark.parametrize(
    ("target", "values", "message"),
    [
        (_target, {"num_steps": "x"}, "model.num_steps=x: expected an integer"),
        (
            _target,
            {"num_step": 3},
            r"unknown option model.num_step \(did you mean num_steps\?\); choose from: beam_size, num_steps",
        ),
        (_target, {"beam_size": 3}, "model.num_steps is required: an integer"),
        (_target, {"dim": 3, "num_steps": 1}, "unknown option model.dim; choose from: beam_size, num_steps"),
        (_Target, {"root": None}, "model.root=null: expected text or a path"),
        (_Target, {"_target_": "x", "root": "a", "size": True}, "model.size=true: expected an integer"),
    ],
)
def test_refusals(target, values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_arguments("model", target, values, given=("dim",))


def test_accepts_what_the_function_would_take():
    check_arguments("model", _target, {"num_steps": 3, "beam_size": None}, given=("dim",))
    check_arguments("data", _Target, {"_target_": "x", "root": "a"})
    check_arguments("data", _Target, {"root": "a", "more": 1.5}, extra={"more": float})


def test_unknown_key_names_the_level():
    config = {"model": {"num_steps": 8, "block": {"hidden_dim": 3}}, "seed": 0}
    assert unknown_key(config, "model.block.hidden_dim") is None
    assert str(unknown_key(config, "model.blocks.x")) == (
        "unknown option model.blocks.x; choose from: block, num_steps"
    )


@in_range
def _ranged(
    *values: int,
    count: Count | None = None,
    counts: Sequence[Count] = (),
    seed: Annotated[int, Range(0, 9)] = 0,
    seconds: Annotated[float, Range(above=0)] = 1.0,
    share: Annotated[float, Range(0, below=1, advice="a share")] = 0.5,
) -> int:
    """Of ranges."""
    return len(values)


@dataclass(frozen=True)
class _Ranged:
    count: Count | None = None


OUTSIDE = [
    ({"count": 0}, "count=0: give at least 1"),
    ({"counts": [2, -1]}, "counts=-1: give at least 1"),
    ({"seed": 10}, "seed=10: give 0 to 9"),
    ({"seconds": 0}, "seconds=0: give more than 0"),
    ({"seconds": float("nan")}, "seconds=nan: give more than 0"),
    ({"share": 1.0}, "share=1.0: give a share"),
]


@pytest.mark.parametrize(("values", "message"), OUTSIDE)
def test_ranges_hold_on_the_command_line_and_in_a_call(values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_arguments("", _ranged, values)
    with pytest.raises(ValueError, match=f"^{message}$"):
        _ranged(**values)
    with pytest.raises(ValueError, match=f"^group.{message}$"):
        check_arguments("group", _ranged, values)


def test_what_is_in_range_passes():
    inside = {"count": 1, "counts": [1, 2], "seed": 9, "seconds": 0.1, "share": 0.0}
    check_arguments("", _ranged, inside)
    assert _ranged(1, 2, **inside) == 2
    assert _ranged(count=None) == 0
    assert _ranged.__doc__ == "Of ranges."
    check_ranges(_Ranged(count=1))
    with pytest.raises(ValueError, match=r"^count=0: give at least 1$"):
        check_ranges(_Ranged(count=0))


def test_a_range_does_not_change_how_a_type_is_described():
    assert describe(Count | None) == "an integer or null"
    assert fits(None, Count | None)
    assert not fits("1", Count | None)
