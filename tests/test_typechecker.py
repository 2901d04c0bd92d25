"""What the annotations say is checked in tests: of arguments and results, and sizes that share a name."""

from collections.abc import Callable

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float32, Int64, jaxtyped

from qinco_lit import metrics
from tests.typechecker import check


@jaxtyped(typechecker=check)
def products(
    x: Float32[np.ndarray, "n dim"], y: Float32[np.ndarray, "k dim"], scale: float = 1, *, columns: int | None = None
) -> Float32[np.ndarray, "n k"]:
    return scale * (x @ y.T)[:, :columns]


X, Y = np.ones((4, 3), np.float32), np.ones((5, 3), np.float32)


def test_what_fits_passes_and_comes_back() -> None:
    np.testing.assert_array_equal(products(X, Y, scale=2), np.full((4, 5), 6, np.float32))
    assert products(X[:1], Y).shape == (1, 5)  # sizes are of one call


@pytest.mark.parametrize(
    ("args", "options", "told"),
    [
        ((X, Y[:, :2]), {}, "dim"),
        ((X.astype(np.float64), Y), {}, "float64"),
        ((X[0], Y), {}, "dimensions"),
        ((X, Y, "1"), {}, "scale"),
        ((X, Y), {"columns": 2.0}, "columns"),
        ((X, Y), {"columns": 2}, "the size of dimension k is 2"),
    ],
)
def test_what_does_not_is_refused(args: tuple[object, ...], options: dict[str, object], told: str) -> None:
    for _ in range(2):
        products(X, Y)  # of calls like this one it is known that they are right
    with pytest.raises(BeartypeCallHintViolation, match=told) as refused:
        products(*args, **options)
    assert any("products: " in note for note in refused.value.__notes__)


def test_a_function_without_arrays_is_checked() -> None:
    @jaxtyped(typechecker=check)
    def half(number: int) -> int:
        return number / 2  # type: ignore[return-value]

    for number in (3, "3"):
        with pytest.raises(BeartypeCallHintViolation):
            half(number)  # type: ignore[arg-type]


def test_inner_functions_are_checked_whichever_of_them_was_called_first() -> None:
    def made(kind: type, returned: object) -> Callable[[object], object]:
        @jaxtyped(typechecker=check)
        def inner(given: kind) -> kind:  # type: ignore[valid-type]
            return returned

        return inner

    for kind, right, wrong in ((int, 3, "3"), (int, 3, "3"), (str, "3", 3), (int, 4, None)):
        assert made(kind, right)(right) == right
        for given, returned in ((wrong, right), (right, wrong)):
            with pytest.raises(BeartypeCallHintViolation):
                made(kind, returned)(given)


def test_a_result_is_checked_after_calls_like_it() -> None:
    results = [X[0], X[0], X[0].astype(np.float64), X[:, 0], None, [X[0]]]

    @jaxtyped(typechecker=check)
    def first(x: Float32[np.ndarray, "n dim"], kept: list[int] | None = None) -> Float32[np.ndarray, " dim"]:
        return results.pop(0)  # type: ignore[return-value]

    for _ in range(2):
        assert first(X).shape == (3,)
    for _ in range(4):
        with pytest.raises(BeartypeCallHintViolation):
            first(X)
    results += [X[0], X[0]]
    first(X, [1])
    with pytest.raises(BeartypeCallHintViolation):
        first(X, ["1"])  # type: ignore[list-item]


def test_dimensions_of_inner_calls_are_their_own() -> None:
    @jaxtyped(typechecker=check)
    def outer(x: Float32[np.ndarray, "n dim"]) -> Int64[np.ndarray, " n"]:
        return np.arange(len(products(x.T, np.ones((2, len(x)), np.float32)).T) + len(x) - 2)

    assert len(outer(X)) == 4


def test_the_package_is_checked() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        metrics.entropy_bits(np.ones(3, np.int64))
