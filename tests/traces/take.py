"""Take the trace of a family: its commands one after the other, and what their files and the Python API say.

Only what users have is used: the command line, the files that it writes, the names of `qinco_lit`. Nothing here may
import a module of the package that the next refactoring could move.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from qinco_lit import Codec, Searcher, cli, open_codes
from tests.traces.families import DATA, FAMILIES, LISTS, ROWS, TRAINING, has_lists, write_vectors

NUM_LOSSES, NUM_CODES, NUM_QUERIES, NEIGHBOURS = 50, 64, 20, 5
CPU = ("device=cpu", "num_threads=1")
# two operating points: every stage leaves something out, or all is decoded
POINTS: dict[str, dict[str, int]] = {
    "narrow": {"nprobe": 1, "ef_search": 8, "num_additive": 10, "num_pairwise": 6},
    "full": {"nprobe": LISTS, "ef_search": 16, "num_additive": ROWS, "num_pairwise": 0},
}
# of an index's report.json: no seconds, no command, no versions
_REPORTED = ("num_vectors", "num_lists", "empty_lists", "longest_list", "metric", "bytes", "validation_mse", "additive")


def take(family: str, folder: Path) -> dict[str, Any]:
    """Run the family's commands in an empty folder; the trace, of plain values that JSON gives back as they are."""
    with contextlib.chdir(folder):
        trace: dict[str, Any] = {"options": [*FAMILIES[family], *TRAINING], "vectors_sha256": write_vectors(Path())}
        if has_lists(family):
            _qinco("centroids", *DATA, *CPU, f"num_lists={LISTS}", "output=centroids.npy")
            trace["centroids_sha256"] = _sha256(np.load("centroids.npy"))
        _qinco("train", *FAMILIES[family], *TRAINING, *DATA, "hydra.run.dir=run")
        _qinco("encode", "codec=run/codec", "input=base.fvecs", "output=codes.h5", "trainer.accelerator=cpu",
               "trainer.devices=1", "num_threads=1", "precision=float32")  # fmt: skip
        _qinco("evaluate", "codec=run/codec", *DATA, *CPU, "precision=float32", "hydra.run.dir=evaluated")
        trace |= _of_training() | _of_codes() | _of_evaluation()
        if has_lists(family):
            _qinco("index", "codec=run/codec", "codes=codes.h5", *DATA, *CPU, "output=index")
            trace |= {"index": _of_index(), "search": {name: _of_search(name) for name in POINTS}}
    return trace


def _qinco(*arguments: str) -> None:
    if code := cli.main(list(arguments)):
        raise SystemExit(code)  # the command has said why


def _of_training() -> dict[str, Any]:
    """Losses are what `train/mse` says of every step: the batch's error after all codes, before the step."""
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["train/mse"] for row in rows if "train/mse" in row}
    timeless = [{name: value for name, value in row.items() if name != "time_s"} for row in rows]
    return {
        "losses": [losses[step] for step in range(1, NUM_LOSSES + 1)],
        "validation": [row for row in timeless if "val/mse" in row],
        "dead_codewords": [row["train/dead_codewords"] for row in rows if "train/dead_codewords" in row],
        "weights_sha256": _sha256(Path("run/codec/weights.safetensors")),
        "codec_config": json.loads(Path("run/codec/config.json").read_text()),
    }


def _of_codes() -> dict[str, Any]:
    """Codes of the store that `qinco encode` wrote, and of `Codec.encode`, and what `Codec.decode` makes of them."""
    x, store, codec = _database(), open_codes("codes.h5"), Codec.load("run/codec", precision="float32")
    codes, found = store[:], codec.encode(x)
    lists = {} if codec.num_lists is None else {"list_ids": store.list_ids()}
    x_hat = codec.decode(codes, **lists)
    trace = {
        "codes": codes[:NUM_CODES].tolist(),
        "codes_sha256": _sha256(codes),
        "encoded_sha256": _sha256(found if codec.num_lists is None else found[1]),
        "decoded_sha256": _sha256(x_hat),
        "decode_mse": float(np.square(np.float64(x) - x_hat).sum(axis=1).mean()),
    }
    return trace if codec.num_lists is None else trace | {"list_ids_sha256": _sha256(store.list_ids())}


def _of_evaluation() -> dict[str, Any]:
    figures = json.loads(Path("evaluated/metrics.json").read_text())["methods"]["codec"]
    return {"evaluate": {name: value for name, value in figures.items() if not name.endswith("_per_s")}}


def _of_index() -> dict[str, Any]:
    """Bytes of all files but report.json, which tells times, and config.json, which holds the hash of that.

    config.json's other hashes are those of files whose bytes are here, and of the inputs: these stay.
    """
    files = sorted(str(path) for path in Path("index").rglob("*") if path.is_file())
    told = {"index/report.json", "index/config.json"}
    config = json.loads(Path("index/config.json").read_text())
    del config["config_sha256"], config["parts"]
    report = json.loads(Path("index/report.json").read_text())
    return {
        "sha256": {file.removeprefix("index/"): _sha256(Path(file)) for file in files if file not in told},
        "config": config,
        "report": {name: report[name] for name in _REPORTED},
    }


def _of_search(name: str) -> dict[str, Any]:
    """One point a command: which points of a grid are skipped depends on measured times."""
    point = POINTS[name]
    searcher = Searcher.load("index", num_threads=1, precision="float32")
    distances, ids = searcher.search(np.load("queries.npy")[:NUM_QUERIES], NEIGHBOURS, **point)
    grid = [f"{key}=[{value}]" for key, value in point.items()]
    # asked for 5, as above: more results would widen the narrow point's stages
    measuring = ("recall_at=[1,5]", "repeats=1", "warmup=0", "latency_queries=0", "num_threads=1", "precision=float32")
    _qinco("search", "index=index", *DATA, *grid, *measuring, f"hydra.run.dir=searched_{name}")
    engine = json.loads(Path(f"searched_{name}/search.json").read_text())["engines"]["qinco"]
    (measured,) = engine["points"]
    timeless = ("parameters", "recall_at_1", "recall_at_5", "stage_recall_at_1")
    return {
        "ids": ids.tolist(),
        "distances": distances.tolist(),
        "bytes_per_vector": engine["bytes_per_vector"],
        "point": {key: measured[key] for key in timeless},
    }


def _database() -> np.ndarray:
    raw = np.fromfile("base.fvecs", "<i4")
    return np.ascontiguousarray(raw.reshape(-1, 1 + raw[0])[:, 1:]).view("<f4")


def _sha256(of: Path | np.ndarray) -> str:
    """Of a file's bytes; of an array's dtype, shape and values."""
    if isinstance(of, Path):
        return hashlib.sha256(of.read_bytes()).hexdigest()
    head = f"{of.dtype.str}{of.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(of).tobytes()).hexdigest()
