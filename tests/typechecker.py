"""The run-time half of the jaxtyping checks; as in PEP 484, an int may stand where a float is asked.

jaxtyping's hook decorates every function of the packages under test with `jaxtyping.jaxtyped`. That binds the arguments
of every call and checks them a second time with what comes back: 9 us for a call without arrays, 34 for one with three,
and an epoch of a small training makes 5,000 calls. The one here checks the same annotations, each once, in 1 and 16 us,
and a call whose arguments and result have the classes, dtypes and shapes of an earlier one, that was right, not again.
It is made at a function's first call, as most functions are not called by the tests of one process; that of an inner
function, which costs 4 ms, once for all that its outer one makes.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import CodeType, UnionType
from typing import Any, Union, get_args, get_origin

import jaxtyping
import numpy as np
import torch
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintViolation

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_of_jaxtyping = jaxtyping.jaxtyped


@dataclass
class _Checks:
    """Of a function: its arguments, its result, and what is known of its calls."""

    given: Callable[..., None]
    returned: Callable[..., Any]
    has_arrays: bool
    kinds: "_Kinds | None"  # None: of some arguments it takes more than their kinds
    known: dict[tuple[Any, ...], set[Any]] = field(default_factory=dict)  # of calls found right: what came back


_of_inner: dict[CodeType, tuple[dict[str, Any], _Checks]] = {}


def _shared(fn: Any, make: Callable[[], _Checks]) -> _Checks:
    """The checks of a function; of an inner one, which each call of the outer makes anew, those of the first."""
    if "<locals>" not in fn.__qualname__ or fn.__defaults__ or fn.__kwdefaults__:
        return make()
    kept = _of_inner.get(fn.__code__)
    if kept is None or kept[0] != fn.__annotations__:
        kept = _of_inner[fn.__code__] = (fn.__annotations__, make())
    return kept[1]


def _jaxtyped(fn: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Takes the place of `jaxtyping.jaxtyped`; that stays for dataclasses."""
    if fn is None:
        return functools.partial(_jaxtyped, typechecker=typechecker)
    if not inspect.isfunction(fn):
        return _of_jaxtyping(fn, typechecker=typechecker)
    # here: the oldest jaxtyping that runs the package (make test-floors, without the hook) need not have them
    from jaxtyping._decorator import _destring_annotation, _make_fn_with_signature
    from jaxtyping._storage import pop_shape_memo, push_shape_memo, shape_str

    def make() -> _Checks:
        hints = {name: _destring_annotation(hint, fn.__globals__) for name, hint in fn.__annotations__.items()}
        has_arrays = any(map(_names_array, hints.values()))
        names, of_result = (fn.__name__, fn.__qualname__, fn.__module__), hints.get("return", Any)
        parameters = [
            each.replace(annotation=hints.get(each.name, Any)) for each in inspect.signature(fn).parameters.values()
        ]
        asked, _ = _make_fn_with_signature(*names, inspect.Signature(return_annotation=of_result), output=True)
        given = typechecker(_make_fn_with_signature(*names, inspect.Signature(parameters), output=False))
        # the result is given back as the option ret0
        return _Checks(given, typechecker(asked), has_arrays, _kinds(parameters, of_result))

    checks: _Checks | None = None

    @functools.wraps(fn)
    def checked(*args: Any, **options: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return fn(*args, **options)
        nonlocal checks
        if checks is None:
            checks = _shared(fn, make)
        if not checks.has_arrays:
            checks.given(*args, **options)
            return checks.returned(ret0=fn(*args, **options))
        # what such annotations ask of this call: the class of each value, and an array's dtype and shape
        call, results = None, None
        if (kinds := checks.kinds) is not None:
            call = kinds.of_call(args, options)
            if (results := checks.known.get(call)) is not None:
                result = fn(*args, **options)
                if kinds.of_result(result) in results:
                    return result
        sizes = push_shape_memo({})  # of dimensions by name, which all arrays of a call share
        try:
            checks.given(*args, **options)
            if results is None:
                result = fn(*args, **options)
            checks.returned(ret0=result)
        except BeartypeCallHintViolation as error:
            error.add_note(f"{fn.__qualname__}: {shape_str(sizes)}")
            raise
        finally:
            pop_shape_memo()
        if kinds is not None and call is not None:
            checks.known.setdefault(call, set()).add(kinds.of_result(result))
        return result

    return checked


_Kind = Callable[[Any], Any]


@dataclass(frozen=True)
class _Kinds:
    """How the kinds of a function's arguments, by position and by name, and of its result are read."""

    by_position: tuple[_Kind, ...]
    by_name: dict[str, _Kind]
    of_result: _Kind

    def of_call(self, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
        kinds = [kind(value) for kind, value in zip(self.by_position, args, strict=False)]
        if options:
            kinds += [(name, self.by_name.get(name, _kind)(value)) for name, value in options.items()]
        return *kinds, len(args)


def _kinds(parameters: list[inspect.Parameter], of_result: Any) -> _Kinds | None:
    if any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters):
        return None
    hints = [each.annotation for each in parameters]
    if not all(map(_is_of_kind, [*hints, of_result])):
        return None
    kinds = tuple(map(_kind_for, hints))
    return _Kinds(kinds, {each.name: kind for each, kind in zip(parameters, kinds, strict=True)}, _kind_for(of_result))


def _kind(value: Any) -> Any:
    """All that an annotation of `_is_of_kind` asks about."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return type(value), value.dtype, value.shape
    if isinstance(value, (tuple, list)):
        return type(value), *map(_kind, value)
    return type(value)


def _kind_for(hint: Any) -> _Kind:
    """What reads as much of a value as this annotation asks about, which is less: a tensor of a table, say, is not."""
    if hint is Any or (inspect.isclass(hint) and get_origin(hint) is None and not _names_array(hint)):
        return type
    items = [each for each in get_args(hint) if each is not ...]
    if get_origin(hint) in (tuple, list) and len({*items}) == 1:
        kind = _kind_for(items[0])
        return lambda value: (type(value), *map(kind, value)) if isinstance(value, (tuple, list)) else type(value)
    others = [each for each in items if each is not type(None)]
    if get_origin(hint) in (Union, UnionType) and len(others) == 1:
        return _kind_for(others[0])
    return _kind


def _is_of_kind(hint: Any) -> bool:
    """Whether what has this annotation is judged by its class, an array by its dtype and shape, a list by its items."""
    origin = get_origin(hint)
    if origin in (Callable, Iterator, Iterable):  # beartype cannot look into them, either
        return True
    if origin in (Union, UnionType, tuple, list):
        return all(map(_is_of_kind, get_args(hint)))
    if not inspect.isclass(hint) or origin is not None:
        return hint is Any or hint is None or hint is ...
    if issubclass(hint, jaxtyping.AbstractArray):
        return "{" not in hint.dim_str
    return not getattr(hint, "_is_protocol", False)


def _names_array(hint: Any) -> bool:
    return any(map(_names_array, get_args(hint))) or (
        inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    )


jaxtyping.jaxtyped = _jaxtyped
