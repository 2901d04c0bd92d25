"""Is QINCo2 with its defaults ever worse than RQ of the same few vectors?

    .venv/bin/python benchmarks/few_vectors.py [--sets photo_sift docs_text] [--rows 2000 5000 10000]
        [--options "max_epochs=30" "embed_dim=64,hidden_dim=64,num_blocks=1"] [--seeds 0] [--root data]

Mean squared error (of unit vectors for docs_text) of what training never saw: other photographs, the documentation of
other packages. 8 bytes a vector; RQ and PQ are trained on the same rows, RQ encodes with a beam of 32. `--options` are
those of `qinco_lit.train`, a model per string; with none everything is the default, 60 epochs. Ends with 1 where QINCo2
is worse than RQ.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from measuring import heading, line, machine

import qinco_lit as ql
from datamodules.docs_text import docs_text
from datamodules.photo_sift import photo_sift
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.evaluation.baselines import Baseline

SETS = {"photo_sift": (photo_sift, "l2", 10_000), "docs_text": (docs_text, "cosine", 3_000)}
MODEL, NUM_BYTES, SEARCH = "qinco2_tiny", 8, {"beam_size": 48, "candidate_budget": 96}
DATABASE_ROWS = 8_000


def error(codec: "ql.Codec | Baseline", database: np.ndarray, **search: int) -> float:
    x_hat = np.asarray(codec.decode(codec.encode(database, **search)))
    return float(((x_hat - database) ** 2).sum(1, dtype=np.float64).mean())


def figure(value: float) -> str:
    """Four digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--rows", nargs="+", type=int, default=[2_000, 5_000, 10_000])
    parser.add_argument("--options", nargs="+", default=[""])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--root", type=Path, default=Path("data"), help="where the sets are, or are made")
    options = parser.parse_args()
    print(f"{machine(torch.device('cpu'))}\n")
    print(heading("set", "rows", "options", "seed", "QINCo2", "RQ", "PQ", "against RQ", "CPU s"))
    worst = -math.inf
    for name in options.sets:
        source, metric, num_val = SETS[name]
        data = VectorDataModule(source(root=options.root / name), metric=metric, num_val=num_val)
        data.prepare_data()
        data.setup()
        database = np.asarray(data.database[:DATABASE_ROWS], dtype=np.float32)
        for rows in options.rows:
            x = np.asarray(data.train_vectors[:rows])
            rq, pq = (error(Baseline.train(method, x, NUM_BYTES), database) for method in ("rq", "pq"))
            for text in options.options:
                given = yaml.safe_load("{" + text.replace("=", ": ") + "}")
                for seed in options.seeds:
                    began = time.process_time()
                    codec = ql.train(x, val=data.val_vectors, model=MODEL, seed=seed, progress=False, **given)
                    seconds = time.process_time() - began
                    ours = error(codec, database, **SEARCH)
                    worst = max(worst, ours / rq - 1)
                    errors = (figure(each) for each in (ours, rq, pq))
                    ratio, what = f"{ours / rq - 1:+.1%}", (name, f"{rows:,}", text or "–", str(seed))
                    print(line(*what, *errors, ratio, f"{seconds:,.0f}"), flush=True)
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
