"""The measurements behind a plan, and what was measured as plain values."""

import resource
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped

from qinco_lit.arrays import AssignLists
from qinco_lit.coarse.assignment import list_assigner
from qinco_lit.codec import Codec
from qinco_lit.planning.throughput import Timing, TrainingSteps, decoding, encoding, read_rate, time_by_turns
from qinco_lit.quantizers import build_quantizer
from qinco_lit.quantizers.beam import Search
from qinco_lit.quantizers.chunks import BLOCK_ROWS
from qinco_lit.training.recipe import Recipe
from qinco_lit.vectors.data_facts import DataFacts

_READ_SHARE = 0.3  # of the seconds of a measurement


@dataclass(frozen=True)
class Searched:
    """Timings of one kind of work by a search, and by that search with one option doubled.

    Attributes:
        search: the search.
        plain: by it.
        doubled: by option: the timing with twice its value.
    """

    search: Search
    plain: Timing
    doubled: Mapping[str, Timing]


@dataclass(frozen=True)
class Rates:
    """All measurements of a plan.

    Attributes:
        encode: with the search asked for.
        decode: of random codes.
        training: with the model's own search.
        batch_size: vectors of a training step.
        fixed_s: seconds of a training step that do not depend on its vectors.
        read: vectors per second from the file; None without one.
        peak_bytes: most memory until the end of the encoding: of the process, on a GPU what was allocated there.
    """

    encode: Searched
    decode: Timing
    training: Searched
    batch_size: int
    fixed_s: float
    read: float | None
    peak_bytes: int

    def record(self) -> dict[str, Any]:
        """Plain values for `plan.json`: seconds, vectors per second."""
        steps = {"batch_size": self.batch_size, "fixed_s": self.fixed_s}
        return {
            "encode": _record(self.encode.plain),
            "decode": _record(self.decode),
            "training": {**_record(self.training.plain), **steps},
            "read_vectors_per_s": self.read,
        }


def measure_rates(
    codec: Codec, recipe: Recipe, data: DataFacts, rows: Shaped[np.ndarray, "n dim"], search: Search, seconds: float
) -> Rates:
    """Measure everything, some `seconds` for each timing.

    Args:
        codec: on the device.
        recipe: of the training.
        data: whose file is read, where there is one.
        rows: at least a training batch and a block of `qinco encode`.
        search: of the encoding.
        seconds: for each.
    """
    device = codec.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    block, searches = rows[:BLOCK_ROWS], _with_doubled(search)
    centroids = codec.coarse_centroids
    assign_lists = None if centroids is None else list_assigner(centroids, rows, device)
    works = {name: encoding(codec, block, each, assign_lists) for name, each in searches.items()}
    encode = _searched(search, time_by_turns(works, seconds, device))
    peak_bytes = _peak_bytes(device)
    codes = decoding(codec, BLOCK_ROWS, np.random.default_rng(0))
    training, fixed_s = _training(codec, recipe, rows, seconds, assign_lists)
    return Rates(
        encode=encode,
        decode=time_by_turns({"decode": codes}, seconds, device)["decode"],
        training=training,
        batch_size=recipe.batch_size,
        fixed_s=fixed_s,
        read=None if data.rows is None else read_rate(data.rows, _READ_SHARE * seconds),
        peak_bytes=peak_bytes,
    )


def _training(
    codec: Codec,
    recipe: Recipe,
    rows: Shaped[np.ndarray, "n dim"],
    seconds: float,
    assign_lists: AssignLists | None,
) -> tuple[Searched, float]:
    copy = build_quantizer(codec.dim, **codec.quantizer.config)
    copy.load_state_dict(codec.quantizer.state_dict())
    steps = TrainingSteps(copy, recipe, rows, codec.device, assign_lists)
    own = codec.quantizer.default_search
    works = {name: steps.by(search) for name, search in _with_doubled(own).items()}
    timings = time_by_turns(works, seconds, codec.device)
    fixed_s = steps.fixed_s()
    return _searched(own, {name: t.for_batches(recipe.batch_size, fixed_s) for name, t in timings.items()}), fixed_s


def _with_doubled(search: Search) -> dict[str, Search]:
    """The search under "", and by option of the search the one with twice its value.

    Options that it does not use are left out, and candidates of which there are not twice as many.
    """
    options = ["beam_size"]
    if search.candidate_budget is not None:
        options.append("candidate_budget")
    elif 0 < 2 * search.num_candidates <= search.codebook_size:
        options.append("num_candidates")
    return {"": search, **{name: replace(search, **{name: 2 * getattr(search, name)}) for name in options}}


def _searched(search: Search, timings: dict[str, Timing]) -> Searched:
    return Searched(search, timings.pop(""), timings)


def _record(timing: Timing) -> dict[str, float]:
    slowest, fastest = timing.spread
    return {
        "rows": timing.rows,
        "repeats": len(timing.call_s),
        "seconds": sum(timing.call_s),
        "vectors_per_s": timing.rate,
        "slowest_vectors_per_s": slowest,
        "fastest_vectors_per_s": fastest,
    }


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
