"""How do QINCo2, PQ, OPQ, RQ, LSQ and RaBitQ of equal bytes compare on embeddings of sentences (`data=docs_text`)?

    .venv/bin/python benchmarks/text_vectors.py [--bytes 16] [--methods rabitq pq opq rq qinco2]
        [--epochs 4] [--seeds 0 1 2] [--options "" "lr=2e-3" "embed_dim=256,lr=2e-3"] [--output outputs/text_vectors]

All are trained on the same 75,000 unit vectors and measured on the 20,000 of the database: squared error (a unit
vector's share that is lost), recall of the true nearest neighbour by cosine among the first 1, 10 and 100 of an
exhaustive search, and the root mean square error of the inner products of all queries and all database vectors, 0.01
being a hundredth of a cosine. RaBitQ has one bit a dimension and 8 bytes of factors, whatever the bytes asked for, and
ranks by its own estimates of inner products. `--options` of QINCo2 are those of `qinco_lit.train`, a model per string.

Results are kept in the output folder, and trainings there go on: what is done is not done again.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qinco_lit as ql  # before faiss, for whose kernels it sees

# isort: split
import faiss
import numpy as np
import torch
from measuring import heading, line, machine

from datamodules.docs_text import docs_text
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.evaluation.baselines import Baseline
from qinco_lit.metrics import RECALL_AT, recall_at
from qinco_lit.search.points.faiss_engines import SETTINGS
from qinco_lit.vectors import exact_neighbours

BASELINES = ("pq", "opq", "rq", "lsq")
MODEL = "qinco2_tiny"
SEARCHES = {"": {}, " T=48": {"beam_size": 24, "candidate_budget": 48}}  # as trained, and three times as wide


class Vectors:
    """Unit float32 rows to train on, for validation, of the database and of queries; ids of the true neighbours."""

    def __init__(self, root: str) -> None:
        data = VectorDataModule(docs_text(root=root), metric="cosine", num_val=3_000)
        data.prepare_data()
        data.setup()
        parts = data.train_vectors, data.val_vectors, data.database, data.queries
        self.train, self.val, self.database, self.queries = (np.asarray(rows[:]) for rows in parts)
        self.truth = data.ground_truth
        self.products = self.queries @ self.database.T


def figures(vectors: Vectors, x_hat: np.ndarray) -> dict[str, float]:
    """Of reconstructions (database rows, dim)."""
    _, found = exact_neighbours(vectors.queries, x_hat, max(RECALL_AT), metric="ip")
    squared = float(((vectors.database - x_hat) ** 2).sum(1, dtype=np.float64).mean())
    return {"mse": squared, **search_figures(vectors, found, vectors.queries @ x_hat.T)}


def search_figures(vectors: Vectors, found: np.ndarray, products: np.ndarray) -> dict[str, float]:
    recalls = recall_at(found, vectors.truth, RECALL_AT)
    error = float(np.sqrt(((products - vectors.products) ** 2).mean(dtype=np.float64)))
    return {**{f"recall_at_{k}": recalls[k] for k in RECALL_AT}, "product_rmse": error}


def rabitq(vectors: Vectors) -> dict[str, float]:
    """Of one list, after a random rotation."""
    dim = vectors.train.shape[1]
    rotation = faiss.RandomRotationMatrix(dim, dim)
    rotation.init(SETTINGS["rabitq"]["rotation_seed"])
    codes = faiss.IndexRaBitQ(dim, faiss.METRIC_INNER_PRODUCT)
    codes.qb = SETTINGS["rabitq"]["query_bits"]
    index = faiss.IndexPreTransform(rotation, codes)
    index.train(vectors.train)
    index.add(vectors.database)
    scores, ids = index.search(vectors.queries, len(vectors.database))
    products = np.empty_like(scores)
    np.put_along_axis(products, ids, scores, axis=1)
    return {"bytes": codes.code_size, **search_figures(vectors, ids[:, : max(RECALL_AT)], products)}


def baseline(vectors: Vectors, method: str, num_bytes: int) -> dict[str, float]:
    quantizer = Baseline.train(method, vectors.train, num_bytes)
    codes = np.concatenate([quantizer.encode(rows) for rows in np.array_split(vectors.database, 20)])
    return {"bytes": num_bytes, **figures(vectors, quantizer.decode(codes))}


def trained(vectors: Vectors, num_bytes: int, folder: Path, given: argparse.Namespace, **options: Any) -> ql.Codec:
    return ql.train(
        vectors.train, model=MODEL, num_steps=num_bytes, max_epochs=given.epochs, val=vectors.val, run_dir=folder,
        devices="cpu", **options,
    )  # fmt: skip


def parsed(options: str) -> dict[str, Any]:
    """`lr=2e-3,embed_dim=256`, as Python reads the values."""
    return {name: json.loads(value) for name, value in (pair.split("=") for pair in options.split(",") if pair)}


def kept(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the file says; it is measured and written where there is none."""
    if not path.is_file():
        start = time.perf_counter()
        result = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**result, "wall_s": time.perf_counter() - start}) + "\n")
    result = json.loads(path.read_text())
    return dict(result)


def show(name: str, result: dict[str, Any]) -> None:
    mse = f"{result['mse']:.4f}" if "mse" in result else "–"
    recalls = (f"{100 * result[f'recall_at_{k}']:.1f}" for k in RECALL_AT)
    wall = f"{result['wall_s']:,.0f}"
    print(line(str(result["bytes"]), name, mse, *recalls, f"{result['product_rmse']:.4f}", wall), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, nargs="+", default=[16])
    methods = ("rabitq", *BASELINES, "qinco2")
    quick = [method for method in methods if method != "lsq"]  # which takes longer than all others together
    parser.add_argument("--methods", nargs="+", choices=methods, default=quick)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--options", nargs="+", default=[""], help="of QINCo2, NAME=VALUE,...; a model per string")
    parser.add_argument("--output", type=Path, default=Path("outputs/text_vectors"))
    parser.add_argument("--root", default="data/docs_text", help="where docs_text lies or is made")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    vectors = Vectors(given.root)
    counts = f"{len(vectors.train):,} to train on, {len(vectors.database):,} in the database"
    print(f"{machine(torch.device('cpu'))}; {counts}, {len(vectors.queries):,} queries\n")
    print(heading("bytes", "method", "MSE", *(f"R@{k}" for k in RECALL_AT), "error of products", "wall, s"))
    if "rabitq" in given.methods:
        show("RaBitQ", kept(given.output / "rabitq.json", lambda: rabitq(vectors)))
    for num_bytes in given.bytes:
        for method in (each for each in BASELINES if each in given.methods):
            path = given.output / f"{num_bytes}-{method}.json"
            show(method.upper(), kept(path, lambda m=method, b=num_bytes: baseline(vectors, m, b)))
        for options in given.options if "qinco2" in given.methods else []:
            for seed in given.seeds:
                name = f"{MODEL} {options or 'tuned'}, {given.epochs} epochs, seed {seed}"
                folder = given.output / f"{num_bytes}-{name}".replace(", ", "_").replace(" ", "_")
                show_codec(vectors, num_bytes, name, folder, given, {"seed": seed, **parsed(options)})


def show_codec(
    vectors: Vectors, num_bytes: int, name: str, folder: Path, given: argparse.Namespace, options: dict[str, Any]
) -> None:
    for label, search in SEARCHES.items():

        def measure(search: dict[str, int] = search) -> dict[str, Any]:
            codec = trained(vectors, num_bytes, folder, given, **options)
            x_hat = codec.decode(codec.encode(vectors.database, **search))
            return {"bytes": num_bytes, **figures(vectors, np.asarray(x_hat))}

        show(name + label, kept(folder.with_name(f"{folder.name}{label.replace(' ', '_')}.json"), measure))


if __name__ == "__main__":
    main()
