"""Pickles read as plain data: nothing they name is imported, built or called.

`pickle` looks names up and calls them; restricting what it may look up still leaves it calling. This reader executes
the opcodes on values of its own instead. A name stays text (`Global`), an instance of an allowed class becomes a
`Record` of its attributes, a tensor the description of where its numbers lie (`StoredTensor`). The few functions that
a checkpoint "calls" are answered by functions of `inert_values`; any other name ends the reading.
"""

import pickletools
from collections.abc import Callable, Collection
from typing import Any

from qinco_lit.published.inert_values import (
    CALLS,
    STORAGES,
    Global,
    Record,
    RefusedPickleError,
    call,
    set_state,
    storage,
    told,
)

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set,
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_WITH_VALUE = (
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES",
)  # fmt: skip


def read_inert(data: bytes, classes: Collection[str]) -> Any:
    """The object of a pickle as plain values, `Record`s and `StoredTensor`s.

    Args:
        data: the pickle, protocol 2 to 5.
        classes: full names of the classes whose instances become records.

    Raises:
        RefusedPickleError: any other name, call, opcode or argument; a truncated or damaged pickle.
    """
    machine = _Machine(frozenset(classes))
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.execute(opcode.name, argument)
        return machine.result()
    except RefusedPickleError:
        raise
    except (ValueError, IndexError, KeyError) as error:  # from genops, an empty stack, an empty memo
        raise RefusedPickleError(
            f"its pickle is damaged ({next(iter(str(error).splitlines()), type(error).__name__)})"
        ) from error


class _Machine:
    def __init__(self, classes: frozenset[str]) -> None:
        self._classes = classes
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self._stack) != 1:
            raise RefusedPickleError(f"its pickle is damaged (it ends with {len(self._stack)} objects)")
        return self._stack.pop()

    def execute(self, name: str, argument: Any) -> None:
        """One opcode."""
        push, pop = self._stack.append, self._stack.pop
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push(_CONSTANTS[name])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                push(_EMPTY[name]())
            case _ if name in _WITH_VALUE:
                push(argument)
            case "MARK":
                self._marks.append(len(self._stack))
            case "TUPLE":
                push(tuple(self._above_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple([pop() for _ in range(_TUPLES[name])][::-1]))
            case "APPEND" | "ADDITEMS" | "APPENDS" | "SETITEM" | "SETITEMS":
                self._extend(name)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "GLOBAL":
                push(self._global(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = pop(), pop()
                push(self._global(module, attribute))
            case "BINPERSID":
                push(storage(pop()))
            case "NEWOBJ":
                arguments, cls = pop(), pop()
                push(self._instance(cls, arguments))
            case "REDUCE":
                arguments, function = pop(), pop()
                push(call(function, arguments))
            case "BUILD":
                state = pop()
                set_state(self._stack[-1], state)
            case _:
                raise RefusedPickleError(f"it uses the pickle opcode {name}, which no published checkpoint needs")

    def _above_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _extend(self, name: str) -> None:
        single = {"APPEND": 1, "SETITEM": 2}.get(name)
        items = [self._stack.pop() for _ in range(single)][::-1] if single else self._above_mark()
        target = self._stack[-1]
        match name, target:
            case "APPEND" | "APPENDS", list():
                target.extend(items)
            case "ADDITEMS", set() if all(isinstance(item, str) for item in items):
                target.update(items)
            case "SETITEM" | "SETITEMS", dict() if all(_is_name(key) for key in items[::2]):
                target.update(zip(items[::2], items[1::2], strict=True))
            case _:
                raise RefusedPickleError(f"it fills {told(target)} by {name}, which no published checkpoint needs")

    def _global(self, module: object, attribute: object) -> Global:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise RefusedPickleError(f"it refers to {told(attribute)} of {told(module)} by name")
        name = f"{'builtins' if module == '__builtin__' else module}.{attribute}"
        if name not in self._classes and name not in CALLS and name not in STORAGES:
            shown = name if name.isprintable() else repr(name)
            raise RefusedPickleError(f"it refers to {shown}, which no published checkpoint needs")
        return Global(name)

    def _instance(self, cls: object, arguments: object) -> Record:
        if not isinstance(cls, Global) or cls.name not in self._classes or arguments != ():
            raise RefusedPickleError(f"it builds {told(cls)} from {told(arguments)}")
        return Record(cls.name, {})


def _is_name(key: object) -> bool:
    return isinstance(key, int) or (isinstance(key, str) and key.isprintable())  # errors show it on the terminal
