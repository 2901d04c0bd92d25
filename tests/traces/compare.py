"""Compare two traces of a family: to the bit where they were taken alike, within what rounding may do elsewhere.

The bounds were measured over all families, 50 steps each, on a Xeon with AVX-512, as the largest change of a figure:

| what is changed                                                | a step's loss | MSE    | recall |
|----------------------------------------------------------------|---------------|--------|--------|
| two threads                                                    | 0             | 0      | 0      |
| kernels: ATEN_CPU_CAPABILITY=default or avx2, MKL_CBWR, SSE    | 2e-7          | 6e-8   | 0      |
| vectors by 1e-6 of their value, as a tie that falls otherwise  | 6e-2          | 1.6e-2 | 0.05   |
| vectors by 1e-5 of their value                                 | 5e-2          | 2.8e-2 | 0.1    |
| the seed, in the family that it changes least                  | 0.17          | 1.8e-2 | 0.05   |

So another processor mostly agrees in six digits; where k-means or a rotation meets a tie, a training goes another way,
as good as the first. The bounds are above that, and for losses below another seed: the rows still come in their order.
"""

from collections.abc import Iterator
from typing import Any

LOSS, ERROR, RECALL = 0.1, 0.05, 0.15  # relative, relative, absolute
_SHOWN = 12


def changes(recorded: Any, now: Any, name: str = "") -> Iterator[str]:
    """Every value of a trace that is another one to the bit, as `name: before -> after`."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for key in [*recorded, *(key for key in now if key not in recorded)]:
            yield from changes(recorded.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        for index, (before, after) in enumerate(zip(recorded, now, strict=True)):
            yield from changes(before, after, f"{name}[{index}]")
    elif recorded != now:
        yield f"{name}: {recorded} -> {now}"


def beyond_rounding(recorded: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Figures that differ by more than rounding may change them; no hash, no code, no distance."""
    # made without rounding: were the vectors others, nothing could be compared
    for name in ("options", "vectors_sha256"):
        yield from changes(recorded[name], now[name], name)
    here, there = figures(recorded), figures(now)
    yield from changes(sorted(here), sorted(there), "figures")
    for name in sorted(here.keys() & there.keys()):
        before, after = here[name], there[name]
        bound = RECALL if "recall" in name else (LOSS if name.startswith("losses") else ERROR) * abs(before)
        if not abs(after - before) <= bound:  # nor may it be NaN
            yield f"{name}: {before} -> {after}, by more than {bound:.4g}"


def figures(trace: dict[str, Any]) -> dict[str, float]:
    """What a user reads of a trace: losses, errors, recalls."""
    told: dict[str, Any] = {"decode_mse": trace["decode_mse"]}
    told |= {f"losses[{step}]": loss for step, loss in enumerate(trace["losses"])}
    for epoch in trace["validation"]:
        told |= {f"{name} of epoch {epoch['epoch']}": epoch[name] for name in epoch if name.startswith("val/mse")}
    evaluated = trace["evaluate"]
    told |= {f"evaluate.{name}": evaluated[name] for name in evaluated if name == "mse" or name.startswith("recall")}
    told |= {f"evaluate.mse_per_step[{step}]": mse for step, mse in enumerate(evaluated["mse_per_step"])}
    if "index" in trace:
        fitted = trace["index"]["report"]["validation_mse"]
        told |= {f"index.validation_mse.{name}": fitted[name] for name in fitted}
        for point, searched in trace["search"].items():
            measured = searched["point"]
            told |= {f"search.{point}.{name}": measured[name] for name in measured if name.startswith("recall")}
    return told


def shortened(lines: Iterator[str]) -> str:
    """For a failing test: the first lines, and how many there are."""
    told = list(lines)
    left = [f"... and {len(told) - _SHOWN} more"] if len(told) > _SHOWN else []
    return "\n".join(line if len(line) < 200 else f"{line[:200]}..." for line in told[:_SHOWN] + left)
