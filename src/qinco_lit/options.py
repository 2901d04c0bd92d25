"""Options as users type them: are the names known, do the values fit; a function's signature is the schema."""

import difflib
import functools
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

# What a user reads instead of the type's name.
_PLAIN_NAMES: dict[Any, str] = {
    bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path",
    type(None): "null", dict: "a mapping", list: "a list",
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Range:
    """What a number may be, as an annotation: `Annotated[int, Range(1)]`.

    Attributes:
        least, most: allowed, too.
        above, below: not allowed themselves.
        advice: what to give instead; None: says the limits.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    advice: str | None = None

    def __repr__(self) -> str:
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return f"Range({', '.join(f'{name}={value!r}' for name, value in given.items() if value is not None)})"

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError for a number, or one of a list of numbers, that lies outside; others are left alone."""
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool) and not self._holds(number):
                raise ValueError(f"{name}={number}: give {self.advice or self._words()}")

    def _holds(self, number: float) -> bool:  # so that NaN is in no range
        return (
            (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def _words(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least} to {self.most}"
        limits = {"at least": self.least, "at most": self.most, "more than": self.above, "less than": self.below}
        return " and ".join(f"{words} {limit}" for words, limit in limits.items() if limit is not None)


_LIKE_ANOTHER_TYPE = re.compile(r"\s*|true|false|null|[+-]?[\d_.]+(e[+-]?\d+)?", re.IGNORECASE)

Count = Annotated[int, Range(1)]  # of things of which there is one at least


def in_range(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function refuse numbers outside the ranges of its annotations, before it begins. Raises ValueError."""
    ranges: dict[str, list[Range]] = {}

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not ranges:  # annotations may name what is defined further down
            hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
            ranges.update({name: list(_ranges(hint)) for name, hint in hints.items()})
        for name, value in _bound(function, args, kwargs).arguments.items():
            for each in ranges.get(name, ()):
                each.check(name, value)
        return function(*args, **kwargs)

    return checked


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function that users call refuse values that its annotations do not allow, before it begins.

    Numbers and arrays of numpy count as those of Python. Annotations that are not made of plain types (numbers, text,
    paths, choices, lists of these) check nothing.

    Raises:
        ValueError: one line, for a value of the wrong type or out of its range, or an empty path.
    """
    hints: dict[str, Any] = {}

    @functools.wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not hints:
            found = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
            hints.update({name: hint for name, hint in found.items() if _is_plain(hint)})
        bound = _bound(function, args, kwargs)
        for name, value in bound.arguments.items():
            kind = bound.signature.parameters[name].kind
            if name in hints and kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: _checked(key, each, hints[name]) for key, each in value.items()}
            elif name in hints:
                bound.arguments[name] = _checked(name, value, hints[name])
        return function(*bound.args, **bound.kwargs)

    return called


def _bound(function: Callable[..., Any], args: Any, kwargs: Any) -> inspect.BoundArguments:
    try:
        return inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{function.__qualname__}() {error}") from None


def plain(value: Any) -> Any:
    """The value itself, or what it is in Python if it is a number or an array of numpy; a range becomes a list."""
    if isinstance(value, range):
        return list(value)
    return value.tolist() if type(value).__module__ == "numpy" and hasattr(value, "tolist") else value


def _checked(name: str, value: Any, annotation: Any) -> Any:
    value = plain(value)
    if Path in _leaves(annotation) and isinstance(value, os.PathLike):
        value = Path(value)
    elif Path in _leaves(annotation) and value == "":
        raise ValueError(f"{name}='': name a file or folder")
    if not fits(value, annotation):
        expected = describe(annotation).replace("null", "None").replace("true or false", "True or False")
        raise ValueError(f"{name}={value!r}: expected {expected}")
    for each in _ranges(annotation):
        each.check(name, value)
    return value


def _is_plain(annotation: Any) -> bool:
    """Whether all values that it allows are plain: scalars, paths, choices, and lists of these."""
    return _leaves(annotation) <= {bool, int, float, str, Path, type(None)}


def _leaves(annotation: Any) -> set[Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _leaves(arguments[0])
    if origin is typing.Literal:
        return {type(choice) for choice in arguments}
    if origin in (typing.Union, types.UnionType, list, Sequence):
        return set().union(*map(_leaves, arguments))
    return {annotation}


def check_ranges(values: object) -> None:
    """Refuse numbers outside the ranges of the annotations of a dataclass, of which this is one. Raises ValueError."""
    for name, hint in typing.get_type_hints(type(values), include_extras=True).items():
        for each in _ranges(hint):
            each.check(name, getattr(values, name))


def _ranges(annotation: Any) -> Iterator[Range]:
    if typing.get_origin(annotation) is Annotated:
        yield from (each for each in annotation.__metadata__ if isinstance(each, Range))
    for argument in typing.get_args(annotation):
        yield from _ranges(argument)


def closest(name: str, choices: Collection[str]) -> str:
    """Return ` (did you mean X?)` for the choice that resembles the name, or nothing."""
    matches = difflib.get_close_matches(name, choices, n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def unknown(what: str, name: str, choices: Collection[str]) -> ValueError:
    """Return the error for a name that is none of the choices: one line with the closest and all of them."""
    listed = ", ".join(sorted(choices)) or "none"
    return ValueError(f"unknown {what} {name}{closest(re.split('[.=]', name)[-1], choices)}; choose from: {listed}")


def unknown_key(config: Mapping[Any, Any], key: str) -> ValueError | None:
    """Return the error for a dotted key that the nested config lacks, naming the keys of that level; None if there."""
    level: Any = config
    for depth, part in enumerate(parts := key.split(".")):
        if not isinstance(level, Mapping):
            return ValueError(
                f"unknown option {key}: {'.'.join(parts[:depth])} is a single value, not a group of options"
            )
        if part not in level:
            return unknown("option", key, [str(name) for name in level])
        level = level[part]
    return None


def check_arguments(
    group: str,
    target: Callable[..., Any],
    values: Mapping[str, Any],
    *,
    given: Collection[str] = (),
    extra: Mapping[str, Any] | None = None,
    shown: Callable[[Any], str] | None = None,
) -> None:
    """Check the values of a config group against the signature of the function or class that receives them.

    Args:
        group: name of the group in messages ("model"); "" for options at the top level.
        target: function or class; its parameters and their annotations are the schema.
        values: the user's values; keys that start with an underscore are Hydra's.
        given: parameters that the program supplies itself, hence no options.
        extra: further options and their types, which the target does not take.
        shown: a value as the user wrote it; None: as in YAML.

    Raises:
        ValueError: one line, for an unknown name, a missing value or a value of the wrong type.
    """
    schema, required, is_open = _parameters(target, given)
    schema.update(extra or {})
    prefix = f"{group}." if group else ""
    for name, value in values.items():
        if name.startswith("_"):
            continue
        if name not in schema:
            if is_open and name not in given:
                continue
            raise unknown("option", prefix + name, schema)
        if not fits(value, schema[name]):
            raise ValueError(f"{prefix}{name}={(shown or _shown)(value)}: expected {describe(schema[name])}")
        for each in _ranges(schema[name]):
            each.check(prefix + name, value)
    for name in required:
        if name not in values:
            raise ValueError(f"{prefix}{name} is required: {describe(schema[name])}")


def _parameters(target: Callable[..., Any], given: Collection[str]) -> tuple[dict[str, Any], list[str], bool]:
    """Return types by name, the names without a default, and whether any further name is accepted."""
    function = target.__init__ if inspect.isclass(target) else target
    parameters = inspect.signature(target).parameters.values()
    hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    named = [p for p in parameters if p.name not in given and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    is_open = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return {p.name: hints.get(p.name, Any) for p in named}, [p.name for p in named if p.default is p.empty], is_open


def fits(value: Any, annotation: Any) -> bool:
    """Tell whether a plain value (scalar, list, dict, None) may be passed where this type is annotated.

    Integers pass as floats, strings as paths; booleans are no integers. Types that no plain value can have, and types
    this function does not know, fit everything but scalars of another known type.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return True
    if origin is Annotated:
        return fits(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if annotation is None or annotation is type(None):
        return value is None
    container = origin or annotation
    if not inspect.isclass(container):
        return True
    if container in (bool, int, str):
        return type(value) is container
    if container is float:
        return type(value) in (int, float)
    if issubclass(container, Path):
        return isinstance(value, str | Path)
    if issubclass(container, Mapping):
        return isinstance(value, Mapping)
    if issubclass(container, Sequence | set) or container in (Iterable, Collection):
        items = [argument for argument in arguments if argument is not Ellipsis]
        return isinstance(value, list | tuple) and all(not items or fits(item, items[0]) for item in value)
    return isinstance(value, container | Mapping)


def describe(annotation: Any) -> str:
    """Return the type in words a user understands: `an integer or null`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0])
    if origin in (typing.Union, types.UnionType):
        choices = [choice for a in arguments if typing.get_origin(a) is typing.Literal for choice in typing.get_args(a)]
        merged = [describe(typing.Literal[tuple(choices)])] if choices else []
        others = [describe(argument) for argument in arguments if typing.get_origin(argument) is not typing.Literal]
        return " or ".join(dict.fromkeys([*merged, *others]))
    if origin is typing.Literal:
        choices = list(dict.fromkeys(str(choice) for choice in arguments))
        return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    if origin in (list, tuple, Sequence) and arguments:
        return f"a list in brackets, each {describe(arguments[0])}"
    container = origin or annotation
    return _PLAIN_NAMES.get(container, getattr(container, "__name__", str(annotation)))


def _shown(value: Any) -> str:
    if isinstance(value, str) and _LIKE_ANOTHER_TYPE.fullmatch(value):
        return repr(value)  # else it reads like what is expected
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
