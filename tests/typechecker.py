"""The run-time half of the jaxtyping checks; as in PEP 484, an int may stand where a float is asked.

jaxtyping's hook decorates every function of the packages under test with `jaxtyping.jaxtyped`. That binds the arguments
of every call and checks them a second time with what comes back: 9 us for a call without arrays, 34 for one with three,
and an epoch of a small training makes 5,000 calls. The one here checks the same annotations, each once, in 1 and 16 us.
It is made at a function's first call, as most functions are not called by the tests of one process.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintViolation

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_of_jaxtyping = jaxtyping.jaxtyped


def _jaxtyped(fn: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Takes the place of `jaxtyping.jaxtyped`; that stays for dataclasses."""
    if fn is None:
        return functools.partial(_jaxtyped, typechecker=typechecker)
    if not inspect.isfunction(fn):
        return _of_jaxtyping(fn, typechecker=typechecker)
    # here: the oldest jaxtyping that runs the package (make test-floors, without the hook) need not have them
    from jaxtyping._decorator import _destring_annotation, _make_fn_with_signature
    from jaxtyping._storage import pop_shape_memo, push_shape_memo, shape_str

    given: Callable[..., None] | None = None
    returned: Callable[..., Any]
    has_arrays: bool

    def make() -> None:
        nonlocal given, returned, has_arrays
        hints = {name: _destring_annotation(hint, fn.__globals__) for name, hint in fn.__annotations__.items()}
        has_arrays = any(map(_names_array, hints.values()))
        names, of_result = (fn.__name__, fn.__qualname__, fn.__module__), hints.get("return", Any)
        parameters = [
            each.replace(annotation=hints.get(each.name, Any)) for each in inspect.signature(fn).parameters.values()
        ]
        asked, _ = _make_fn_with_signature(*names, inspect.Signature(return_annotation=of_result), output=True)
        returned = typechecker(asked)  # gives back its option ret0
        # the last to be made, as other threads may call: it says that all are
        given = typechecker(_make_fn_with_signature(*names, inspect.Signature(parameters), output=False))

    @functools.wraps(fn)
    def checked(*args: Any, **options: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return fn(*args, **options)
        if given is None:
            make()
            assert given is not None
        if not has_arrays:
            given(*args, **options)
            return returned(ret0=fn(*args, **options))
        sizes = push_shape_memo({})  # of dimensions by name, which all arrays of a call share
        try:
            given(*args, **options)
            return returned(ret0=fn(*args, **options))
        except BeartypeCallHintViolation as error:
            error.add_note(f"{fn.__qualname__}: {shape_str(sizes)}")
            raise
        finally:
            pop_shape_memo()

    return checked


def _names_array(hint: Any) -> bool:
    return any(map(_names_array, get_args(hint))) or (
        inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    )


jaxtyping.jaxtyped = _jaxtyped
