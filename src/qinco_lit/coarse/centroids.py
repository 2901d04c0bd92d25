"""The centroids of lists by k-means: from vectors to an array, and to a file that a kill does not set back."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float32

from qinco_lit.atomic import write_atomically
from qinco_lit.coarse.kmeans.lloyd import KMeans, choose_method, default_rows, run_kmeans
from qinco_lit.coarse.kmeans.state import StateFile, check_same
from qinco_lit.devices import chosen_device
from qinco_lit.environment import environment
from qinco_lit.locks import check_local, only_writer
from qinco_lit.options import Count, Range, in_range
from qinco_lit.progress import Progress, duration
from qinco_lit.vectors import VectorFile, as_vectors_file, open_vectors, write_vectors
from qinco_lit.vectors.code_info import CENTROIDS_FORMAT, input_facts

log = logging.getLogger(__name__)

_SHARE = Range(0, below=1, advice="a share of the error, at least 0 and below 1")
_ASK_EVERY_S = 1.0  # whether another process has made the file


@in_range
def train_centroids(
    x: Any,
    num_lists: Count,
    *,
    output: str | Path | None = None,
    iterations: Count = 10,
    min_gain: Annotated[float, _SHARE] = 5e-4,
    max_training_rows: Count | None = None,
    method: Literal["auto", "exact", "grouped"] = "auto",
    seed: int = 0,
    device: str = "auto",
    num_threads: Count | None = None,
    progress: bool | None = None,
    makes_output: bool = True,
) -> Float32[np.ndarray, "lists dim"]:
    """Find `num_lists` centroids by k-means; with `output` they are kept, with a record of what was measured.

    A call that was stopped goes on from OUTPUT.state.npz to the same bytes; one that finds its work done reads it.
    The bytes depend on neither the threads nor interruptions.

    Args:
        x: (num_rows, dim) to train on: an array, a path or a VectorFile.
        num_lists: centroids.
        output: npy file; its record is the json file of the same name. None: nothing is written.
        iterations: at most so many updates of all centroids.
        min_gain: stop when an update lowers the mean squared error by a smaller share.
        max_training_rows: evenly spaced runs of so many rows; None: 256 per list, or all of a million.
        method: of assignment; auto: exact where that takes some minutes, grouped for more.
        seed: of the start.
        device: auto, cpu, cuda, cuda:1.
        num_threads: on a CPU; None: as many as faiss takes, all cores.
        progress: False: nothing is shown of it.
        makes_output: False: another process of the same job makes the output, wait for it.

    Returns:
        (num_lists, dim) in the space of x.

    Raises:
        FileNotFoundError: no folder for the output.
        ValueError: impossible options, an output that belongs to other work or that another process writes, fewer rows
            than lists, or a row with NaN.
        OSError: the disk is full; the passes before are kept.
    """
    vectors, path = as_vectors_file(x), None if output is None else Path(output)
    if path is not None:
        check_output(path)
    place = chosen_device(device)
    if place.type not in ("cpu", "cuda"):
        raise ValueError(f"device={device}: k-means runs on cpu or cuda")
    num_rows = min(len(vectors), max_training_rows or default_rows(num_lists))
    check_num_rows(vectors, num_lists, num_rows)
    chosen = method
    if chosen == "auto":
        chosen = choose_method(num_lists, num_rows, vectors.shape[1], iterations, place)
    options = KMeans(num_lists, num_rows, chosen, iterations, min_gain, seed)

    def run(state: StateFile | None) -> tuple[Float32[np.ndarray, "lists dim"], dict[str, Any]]:
        import faiss  # logs how it is loaded: after it was quieted

        used = num_threads or int(faiss.omp_get_max_threads())
        with Progress("rows", show=progress is not False) as shown:
            return run_kmeans(vectors, options, device=place, num_threads=used, state=state, progress=shown)

    if path is None:
        return run(None)[0]
    facts = _facts(vectors, options, place)
    if not makes_output:
        return _awaited(path, facts)
    with only_writer(path):
        state = StateFile(path.with_name(f"{path.name}.state.npz"), facts)
        if _is_complete(path, facts, state.path):
            log.info("%s is complete already: %s centroids", path, f"{num_lists:,}")
        else:
            found, measured = run(state)
            of_input = {"input_path": vectors.path, "input_unit": vectors.is_unit}
            _write(path, found, {"facts": facts, **of_input, **measured})
        state.remove()
    return open_vectors(path)[:]


def check_num_rows(vectors: VectorFile, num_lists: int, num_rows: int) -> None:
    """Raise ValueError where there are fewer rows than lists."""
    if num_rows < num_lists:
        raise ValueError(f"num_lists={num_lists}: {vectors.path} gives {num_rows} training rows, fewer than lists")


def _awaited(path: Path, facts: Mapping[str, Any]) -> Float32[np.ndarray, "lists dim"]:
    """What another process writes, as soon as it is complete; the facts of a file determine its bytes."""
    while True:
        try:
            if json.loads(path.with_suffix(".json").read_text())["facts"] == facts:
                return open_vectors(path)[:]
        except (OSError, ValueError, KeyError):  # not yet, or of an earlier job
            pass
        time.sleep(_ASK_EVERY_S)


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


def check_output(output: Path) -> None:
    """Raise ValueError or FileNotFoundError unless centroids can be written under this name."""
    if output.suffix != ".npy":
        raise ValueError(f"output={output}: centroids are written as npy, name a file that ends in .npy")
    check_local(output)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"output={output}: the folder {output.parent} does not exist; make it first")
