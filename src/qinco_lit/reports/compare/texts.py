"""Names and values as text that no terminal, Markdown or page takes for anything else."""

import html
import re
from collections.abc import Callable

_SPACES = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
# C0 and C1, which move cursors and colour terminals; halves of characters that a file's name may hold.
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Beyond, all digits would fill the screen.
_EXPONENT_FROM = 1e15


def plain(text: str) -> str:
    """Return a text on one line, without control characters."""
    return _NOT_SHOWN.sub("", _SPACES.sub(" ", text))


def markdown(text: str) -> str:
    """Return a text on one line that Markdown shows as it is, in cells of tables too."""
    return html.escape(plain(text), quote=False).replace("|", "\\|")


def shown(value: float, show: Callable[[float], str]) -> str:
    """Return a number as `show` does, enormous ones with an exponent."""
    return f"{value:.4g}" if abs(value) >= _EXPONENT_FROM else show(value)
