"""Values that Hydra cannot read as they were typed: how to quote them, for Hydra and for the shell."""

import os
import re
import shlex

from qinco_lit.mistakes import in_one_line


def quoted(value: str) -> str:
    """A value as Hydra reads it, whatever its characters."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(value.replace("${", r"\${"), Quote.double).with_quotes()


def unreadable(override: str, reason: str) -> ValueError:
    """What to raise for an override that Hydra cannot read: one line that shows how to type it.

    Args:
        override: as Hydra got it.
        reason: what is wrong, in some words.
    """
    key, equals, value = override.partition("=")
    if not equals or re.search(r"[^\w.@/+~:-]", key):
        return ValueError(f"{override} is not of the form KEY=VALUE or GROUP=CHOICE")
    typed = os.path.expanduser(value)  # noqa: PTH111 - no path; in quotes nobody expands `~`
    return ValueError(f"{override} {reason}: quote the value, {key}={shlex.quote(quoted(typed))}")


def explained(error: BaseException) -> ValueError:
    """An error of Hydra's as one line; of a value that it cannot read or reads in several ways, with the quotes."""
    override, text = getattr(error, "override", None), str(error)
    if override is not None:
        return unreadable(str(override), "cannot be read")
    if ambiguous := re.match(r"Ambiguous value for argument '(.*?)'\n", text, re.DOTALL):
        key, _, value = (typed := ambiguous[1]).partition("=")
        one = f"{key}={shlex.quote(quoted(value))}"
        return ValueError(
            f"{typed} could be several values: for a sweep over them add --multirun, for a list give "
            f"{shlex.quote(f'{key}=[{value}]')}, for one text {one}"
        )
    return ValueError(in_one_line(error))
