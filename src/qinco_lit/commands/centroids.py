"""`centroids`: a file of vectors to the centroids of an index's lists, resumable."""

import hashlib
import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from qinco_lit.atomic import write_atomically
from qinco_lit.coarse.kmeans.lloyd import KMeans, choose_method, default_rows, train_centroids
from qinco_lit.coarse.kmeans.state import StateFile, check_same
from qinco_lit.devices import chosen_device
from qinco_lit.encoding.progress import duration, progress_line
from qinco_lit.environment import environment
from qinco_lit.locks import only_writer
from qinco_lit.threads import num_threads_in_use
from qinco_lit.vectors import VectorFile, write_vectors
from qinco_lit.vectors.code_info import input_facts
from qinco_lit.vectors.readings import CENTROIDS_FORMAT

log = logging.getLogger(__name__)

_LINE_EVERY_S, _BAR_EVERY_S = 15.0, 1.0


def centroids(
    *,
    vectors: VectorFile,
    output: Path,
    num_lists: int,
    iterations: int = 10,
    min_gain: float = 5e-4,
    max_training_rows: int | None = None,
    method: Literal["auto", "exact", "grouped"] = "auto",
    seed: int = 0,
    device: str = "auto",
    num_threads: int | None = None,
) -> None:
    """Find `num_lists` centroids by k-means and write them, (num_lists, dim) float32 in raw space, with a record.

    A call that was stopped goes on from OUTPUT.state.npz to the same bytes; one that finds its work done does nothing.
    The bytes depend on neither the threads nor interruptions.

    Args:
        vectors: (num_rows, dim), to train on.
        output: npy file; its record of what was measured is the json file of the same name.
        num_lists: centroids.
        iterations: at most so many updates of all centroids.
        min_gain: stop when an update lowers the mean squared error by a smaller share.
        max_training_rows: evenly spaced runs of so many rows; None: 256 per list, or all of a million.
        method: of assignment; auto: exact where that takes some minutes, grouped for more.
        seed: of the start.
        device: auto, cpu, cuda, cuda:1.
        num_threads: on a CPU; None: as many as faiss takes, all cores.

    Raises:
        FileNotFoundError: no folder for the output.
        ValueError: impossible options, an output that belongs to other work or that another process writes, fewer rows
            than lists, or a row with NaN.
        OSError: the disk is full; the passes before are kept.
    """
    counts = {"num_lists": num_lists, "iterations": iterations, "max_training_rows": max_training_rows}
    check_options(output, {**counts, "num_threads": num_threads}, min_gain)
    place = chosen_device(device)
    if place.type not in ("cpu", "cuda"):
        raise ValueError(f"device={device}: k-means runs on cpu or cuda")
    num_rows = min(len(vectors), max_training_rows or default_rows(num_lists))
    if num_rows < num_lists:
        raise ValueError(f"num_lists={num_lists}: {vectors.path} gives {num_rows} training rows, fewer than lists")
    chosen = method
    if chosen == "auto":
        chosen = choose_method(num_lists, num_rows, vectors.shape[1], iterations, place)
    options = KMeans(num_lists, num_rows, chosen, iterations, min_gain, seed)
    facts = _facts(vectors, options, place)
    with only_writer(output):
        state = StateFile(output.with_name(f"{output.name}.state.npz"), facts)
        if _is_complete(output, facts, state.path):
            log.info("%s is complete already: %s centroids", output, f"{num_lists:,}")
            state.remove()
            return
        progress = _Progress()
        try:
            found, measured = train_centroids(
                vectors,
                options,
                device=place,
                num_threads=num_threads or num_threads_in_use()["faiss"],
                state=state,
                watch=progress,
            )
        finally:
            progress.stop()
        _write(output, found, {"facts": facts, "input_path": vectors.path, "input_unit": vectors.is_unit, **measured})
        state.remove()


def _write(output: Path, found: Float32[np.ndarray, "lists dim"], record: dict[str, Any]) -> None:
    seconds = sum(one["seconds"] for one in record["passes"])
    write_vectors(output, found)
    record |= {"seconds": round(seconds, 3), "centroids_sha256": _sha256(output), **environment()}
    write_atomically(output.with_suffix(".json"), json.dumps({"format": CENTROIDS_FORMAT, **record}, indent=2) + "\n")
    log.info(
        "%s: %s centroids of dimension %d from %s rows, mean squared error %.6g, imbalance %.2f, %d passes in %s",
        output, f"{len(found):,}", found.shape[1], f"{record['training_rows']:,}", record["mean_squared_error"],
        record["imbalance"], len(record["passes"]), duration(seconds),
    )  # fmt: skip


def _facts(vectors: VectorFile, options: KMeans, device: torch.device) -> dict[str, Any]:
    """What the bytes of the output depend on."""
    asked = {
        "num_lists": options.num_lists,
        "max_training_rows": options.num_rows,
        "iterations": options.iterations,
        "min_gain": options.min_gain,
        "method": options.method,
        "seed": options.seed,
        "device": device.type,
    }
    of_input = input_facts(vectors)
    of_input = {name: value for name, value in of_input.items() if name not in ("input_path", "input_unit")}
    return {**asked, **of_input}


def _is_complete(output: Path, facts: Mapping[str, Any], state: Path) -> bool:
    """Is the output there, of the same work? Raises ValueError for files of other work."""
    record_file = output.with_suffix(".json")
    record: dict[str, Any] = {}
    if record_file.exists():
        try:
            record = json.loads(record_file.read_text())
        except ValueError:
            record = {}
        if not isinstance(record, dict) or record.get("format") != CENTROIDS_FORMAT:
            raise ValueError(f"{record_file} is no record of centroids; name another output=, or remove it")
        check_same(record_file, record["facts"], facts)
    if not output.exists():
        return False
    if not record and state.exists():  # killed between the two files: the last pass is made again
        return False
    if not record:
        raise ValueError(f"{output} exists, without a record {record_file.name}; name another output=, or remove it")
    if _sha256(output) != record["centroids_sha256"]:
        raise ValueError(f"{output} is not what {record_file} describes: remove both to begin anew")
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_options(output: Path, counts: Mapping[str, int | None], min_gain: float) -> None:
    """Raise ValueError or FileNotFoundError for what can be refused without the vectors."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    if not 0 <= min_gain < 1:
        raise ValueError(f"min_gain={min_gain}: give a share of the error, at least 0 and below 1")
    if output.suffix != ".npy":
        raise ValueError(f"output={output}: centroids are written as npy, name a file that ends in .npy")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"output={output}: the folder {output.parent} does not exist; make it first")


class _Progress:
    """How far a pass is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._what, self._total, self._done = "", 0, 0
        self._began = self._shown = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def start(self, what: str, num_rows: int) -> None:
        """Another pass begins."""
        self._what, self._total, self._done = what, num_rows, 0
        self._began = self._shown = time.monotonic()
        if sys.stderr.isatty():
            self.stop()
            self._bar = Bar(TextColumn("{task.description}"), BarColumn(), console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(what, total=num_rows)

    def advance(self, num_rows: int) -> None:
        """Count rows, and show how far the pass is when it is time."""
        self._done += num_rows
        now = time.monotonic()
        if now - self._shown < (_LINE_EVERY_S if self._bar is None else _BAR_EVERY_S):
            return
        self._shown = now
        line = f"{self._what}: {progress_line(self._done, self._total, self._done, now - self._began)}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, description=line)
        else:
            log.info(line)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
