"""Help that fits a terminal: paragraphs, options in two columns, and command lines that can still be pasted."""

import re
import textwrap
from collections.abc import Iterator
from functools import partial

CONFIG = "All options and their values"  # the config below it is YAML, whose lines stay as they are
_wrapped = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)
_ENTRY = re.compile(r"  (\S.*?) {3,}(\S.*)")


def folded(text: str, width: int) -> str:
    """The text with no line wider than `width` above the config, as far as words allow; what fits stays as it is."""
    above, mark, config = text.partition(CONFIG)
    blocks = (_fit(block.splitlines(), width) for block in above.split("\n\n"))
    return "\n\n".join("\n".join(block) for block in blocks) + mark + config


def _fit(lines: list[str], width: int) -> list[str]:
    if all(len(line) <= width for line in lines):
        return lines
    column = min(2 * width // 5, max((match.start(2) for line in lines if (match := _ENTRY.match(line))), default=0))
    return [folded for line in _joined(lines) for folded in _fold(line, width, column)]


def _joined(lines: list[str]) -> Iterator[str]:
    """Lines with their continuations, which are indented; the lines of a paragraph are one, too."""
    whole = ""
    for line in lines:
        indented, prose = line.startswith(" " * 5), not line.startswith((" ", "qinco ")) and not line.endswith(":")
        if whole and (indented or (prose and not whole.startswith((" ", "qinco ")))):
            whole += f" {line.strip()}"
            continue
        if whole:
            yield whole
        whole = line
    yield whole


def _fold(line: str, width: int, column: int) -> list[str]:
    command = re.fullmatch(r"( *)(qinco .*)", line)
    if command:
        folded = _wrapped(line, width - 2, subsequent_indent=command[1] + " " * 4)
        return [*(f"{each} \\" for each in folded[:-1]), folded[-1]]
    entry = _ENTRY.fullmatch(line)
    if entry is None:
        return _wrapped(line, width)
    name, said = entry.groups()
    told = _wrapped(said, width - column)
    if len(name) + 3 > column:
        return [f"  {name}", *(" " * column + each for each in told)]
    return [f"  {name}".ljust(column) + told[0], *(" " * column + each for each in told[1:])]
