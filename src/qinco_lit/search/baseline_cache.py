"""Trained baselines and their results, kept on disk: they depend on the data and the settings, not on the codec."""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qinco_lit.atomic import replacing
from qinco_lit.search.baselines import SETTINGS, Baseline, TrainingRows, faiss_version, training_rows

_FINGERPRINT_BYTES = 64 << 20


def fingerprint(vectors: TrainingRows) -> str:
    """Hash of all rows, their dtype and shape; read once, in blocks. Two names for the same vectors are the same."""
    digest = hashlib.blake2b(digest_size=16)
    num_rows, dim = (int(size) for size in vectors.shape)
    step = max(1, _FINGERPRINT_BYTES // (8 * dim))
    digest.update(f"{num_rows} {dim}".encode())
    for start in range(0, num_rows, step):
        rows = np.ascontiguousarray(vectors[start : start + step])
        digest.update(rows.dtype.str.encode())
        digest.update(rows.data)
    return digest.hexdigest()


@dataclass(frozen=True)
class CachedBaseline:
    """A trained baseline, the facts of its training, and where results measured with it are kept."""

    baseline: Baseline
    num_training_rows: int
    train_s: float
    folder: Path

    def read_results(self, circumstances: dict[str, Any]) -> dict[str, Any] | None:
        """Return results measured under the same circumstances (data, threads, machine as plain values), or None."""
        path = self._results_path(circumstances)
        if not path.is_file():
            return None
        stored: dict[str, Any] = json.loads(path.read_text())
        results: dict[str, Any] = stored["results"]
        return results

    def write_results(self, circumstances: dict[str, Any], results: dict[str, Any]) -> None:
        """Keep results for `read_results`."""
        text = json.dumps({"circumstances": circumstances, "results": results}, indent=2)
        with replacing(self._results_path(circumstances)) as temporary:
            temporary.write_text(text + "\n")

    def _results_path(self, circumstances: dict[str, Any]) -> Path:
        return self.folder / f"results-{_key(circumstances)}.json"


def trained_baseline(
    method: str, train_vectors: TrainingRows, num_bytes: int, *, max_training_rows: int, cache_dir: Path
) -> CachedBaseline:
    """Take a baseline from the cache, or train it on evenly spaced rows and keep it there.

    Args:
        method: one of `baselines.METHODS`.
        train_vectors: (n, dim) raw vectors.
        num_bytes: rate, bytes per vector.
        max_training_rows: rows used at most.
        cache_dir: a folder per trained quantizer is made in it; the key is a hash of the training rows, the method with
            its settings, the rate and the version of faiss.

    Raises:
        ValueError: see `Baseline.train`.
    """
    rows = training_rows(train_vectors, max_training_rows)
    identity = {
        "method": method,
        "settings": SETTINGS.get(method),
        "num_bytes": num_bytes,
        "training_rows": fingerprint(rows),
        "faiss": faiss_version(),
    }
    folder = cache_dir / f"{method}-{num_bytes}-{_key(identity)}"
    index_path, facts_path = folder / "index.faiss", folder / "facts.json"
    if not facts_path.is_file():
        started = time.perf_counter()
        baseline = Baseline.train(method, rows, num_bytes)
        facts = {**identity, "train_s": time.perf_counter() - started}
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(index_path) as temporary:
            baseline.save(temporary)
        # the facts come last: where they are, the index is complete
        with replacing(facts_path) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")
    # also right after training: what is measured is what a later run loads
    baseline = Baseline.load(method, index_path, int(rows.shape[1]))
    return CachedBaseline(baseline, len(rows), float(json.loads(facts_path.read_text())["train_s"]), folder)


def _key(values: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()
