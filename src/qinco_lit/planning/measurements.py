"""The measurements behind a plan, and what was measured as plain values."""

import resource
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped

from qinco_lit.coarse.assignment import FrozenLists, list_assigner
from qinco_lit.codec import Codec
from qinco_lit.planning.throughput import Throughput, TrainingSteps, decoding, encoding, reading_per_s, time_by_turns
from qinco_lit.progress import Progress
from qinco_lit.quantizers import build_quantizer
from qinco_lit.quantizers.beam import Search
from qinco_lit.quantizers.chunks import BLOCK_ROWS
from qinco_lit.training.recipe import Recipe
from qinco_lit.vectors.data_facts import DataFacts

_READ_SHARE = 0.3  # of the seconds of a measurement


@dataclass(frozen=True)
class Searched:
    """Throughputs of one kind of work by a search, and by that search with one option doubled.

    Attributes:
        search: the search.
        plain: by it.
        doubled: by option: the throughput with twice its value.
    """

    search: Search
    plain: Throughput
    doubled: Mapping[str, Throughput]


@dataclass(frozen=True)
class Measurements:
    """All measurements of a plan.

    Attributes:
        encode: with the search asked for.
        decode: of random codes.
        training: with the model's own search, narrow for the recipe's share of it.
        batch_size: vectors of a training step.
        fixed_s: seconds of a training step that do not depend on its vectors.
        read: vectors per second from the file; None without one.
        peak_bytes: most memory until the end of the encoding: of the process, on a GPU what was allocated there.
    """

    encode: Searched
    decode: Throughput
    training: Searched
    batch_size: int
    fixed_s: float
    read: float | None
    peak_bytes: int

    @property
    def variation(self) -> dict[str, float]:
        """Of each work, by which share its slow calls are below its fast ones."""
        works = {"encode": self.encode.plain, "decode": self.decode, "training": self.training.plain}
        return {name: throughput.variation for name, throughput in works.items()}

    def record(self) -> dict[str, Any]:
        """Plain values for `plan.json`: seconds, vectors per second."""
        steps = {"batch_size": self.batch_size, "fixed_s": self.fixed_s}
        return {
            "encode": _record(self.encode.plain),
            "decode": _record(self.decode),
            "training": {**_record(self.training.plain), **steps},
            "read_vectors_per_s": self.read,
        }


def measure(
    codec: Codec,
    recipe: Recipe,
    data: DataFacts,
    rows: Shaped[np.ndarray, "n dim"],
    search: Search,
    seconds: float,
    progress: Progress,
) -> Measurements:
    """Measure everything, some `seconds` for each.

    Args:
        codec: on the device.
        recipe: of the training.
        data: whose file is read, where there is one.
        rows: at least a training batch and a block of `qinco encode`.
        search: of the encoding.
        seconds: for each.
        progress: says what is measured.
    """
    device = codec.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    block, searches = rows[:BLOCK_ROWS], _with_doubled(search)
    centroids = codec.coarse_centroids
    assign_lists = None if centroids is None else list_assigner(centroids, rows, device)
    works = {name: encoding(codec, block, each, assign_lists) for name, each in searches.items()}
    progress.start("measuring encoding", None)
    encode = _searched(search, time_by_turns(works, seconds, device))
    peak_bytes = _peak_bytes(device)
    codes = decoding(codec, BLOCK_ROWS, np.random.default_rng(0))
    progress.start("measuring training steps", None)
    lists = None if centroids is None else FrozenLists(centroids, assign_lists, device)
    training, fixed_s = _training(codec, recipe, rows, seconds, lists)
    progress.start("measuring decoding and reading", None)
    return Measurements(
        encode=encode,
        decode=time_by_turns({"decode": codes}, seconds, device)["decode"],
        training=training,
        batch_size=recipe.batch_size,
        fixed_s=fixed_s,
        read=None if data.rows is None else reading_per_s(data.rows, _READ_SHARE * seconds),
        peak_bytes=peak_bytes,
    )


def _training(
    codec: Codec,
    recipe: Recipe,
    rows: Shaped[np.ndarray, "n dim"],
    seconds: float,
    lists: FrozenLists | None,
) -> tuple[Searched, float]:
    copy = build_quantizer(codec.dim, **recipe.trained_model(codec.quantizer.config))
    copy.load_state_dict(codec.quantizer.state_dict(), strict=False)  # times do not depend on new pre-selectors
    steps = TrainingSteps(copy, recipe, rows, codec.device, lists)
    own = codec.quantizer.default_search
    searches, share = _with_doubled(own), recipe.narrow_share
    works = {name: steps.by(search) for name, search in searches.items()}
    if share > 0:
        works |= {f"narrow {name}": steps.by(search.narrowed()) for name, search in searches.items()}
    taken = time_by_turns(works, seconds, codec.device)
    fixed_s = steps.fixed_s()
    steps_of = {name: each.for_batches(recipe.batch_size, fixed_s) for name, each in taken.items()}
    found = {name: steps_of[name] for name in searches}
    if share > 0:
        found = {name: each.mixed(steps_of[f"narrow {name}"], share) for name, each in found.items()}
    return _searched(own, found), fixed_s


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


def _searched(search: Search, found: dict[str, Throughput]) -> Searched:
    return Searched(search, found.pop(""), found)


def _record(throughput: Throughput) -> dict[str, float]:
    slowest, fastest = throughput.spread
    return {
        "rows": throughput.rows,
        "repeats": len(throughput.call_s),
        "seconds": sum(throughput.call_s),
        "vectors_per_s": throughput.vectors_per_s,
        "slowest_vectors_per_s": slowest,
        "fastest_vectors_per_s": fastest,
    }


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
