"""Is QINCo2 with its defaults ever worse than RQ or PQ of the same few vectors?

    .venv/bin/python benchmarks/few_vectors.py [--sets photo_sift docs_text] [--rows 2000 5000 10000]
        [--options "max_epochs=30" "embed_dim=64,hidden_dim=64,num_blocks=1"] [--seeds 0] [--root data]

Mean squared error (of unit vectors for docs_text) of what training never saw: other photographs, the documentation of
other packages. RQ and PQ are trained on the same rows; RQ encodes with a beam of 32, and so does QINCo2 (T=64), but for
the second of its figures (T=96, B=48). `--options` are those of `qinco_lit.train`, a model per string; with none
everything is the default, 60 epochs. `codec` is what the training ended with: a best epoch, or a baseline. Ends with 1
where QINCo2 is worse than RQ or PQ by more than rounding.
"""

import argparse
import math
import sys
import tempfile
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
from qinco_lit.training.run_log import read_summary

SETS = {"photo_sift": (photo_sift, "l2", 10_000), "docs_text": (docs_text, "cosine", 3_000)}
MODEL = "qinco2_tiny"
AS_RQ, WIDE = {"beam_size": 32, "candidate_budget": 64}, {"beam_size": 48, "candidate_budget": 96}
DATABASE_ROWS = 8_000
ROUNDING = 1e-4


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
    parser.add_argument("--bytes", type=int, default=8, help="of a code")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--root", type=Path, default=Path("data"), help="where the sets are, or are made")
    options = parser.parse_args()
    print(f"{machine(torch.device('cpu'))}\n")
    names = ("set", "rows", "options", "seed", "codec", "QINCo2", "T=96, B=48", "RQ", "PQ", "against RQ", "PQ", "CPU s")
    print(heading(*names))
    worst = -math.inf
    for name in options.sets:
        source, metric, num_val = SETS[name]
        data = VectorDataModule(source(root=options.root / name), metric=metric, num_val=num_val)
        data.prepare_data()
        data.setup()
        database = np.asarray(data.database[:DATABASE_ROWS], dtype=np.float32)
        for rows in options.rows:
            x = np.asarray(data.train_vectors[:rows])
            rq, pq = (error(Baseline.train(method, x, options.bytes), database) for method in ("rq", "pq"))
            for text in options.options:
                given = yaml.safe_load("{" + text.replace("=", ": ") + "}")
                for seed in options.seeds:
                    given |= {"model": MODEL, "num_steps": options.bytes, "seed": seed, "progress": False}
                    began = time.process_time()
                    with tempfile.TemporaryDirectory() as folder:
                        codec = ql.train(x, val=data.val_vectors, run_dir=folder, **given)
                        summary = read_summary(Path(folder))
                    seconds = time.process_time() - began
                    ended = (summary.get("baseline") or f"epoch {summary['best_epoch'] + 1}").upper()
                    ours, wide = error(codec, database, **AS_RQ), error(codec, database, **WIDE)
                    worst = max(worst, ours / rq - 1, ours / pq - 1)
                    what = (name, f"{rows:,}", text or "–", str(seed), ended)
                    ratios = f"{ours / rq - 1:+.1%}", f"{ours / pq - 1:+.1%}"
                    print(line(*what, *map(figure, (ours, wide, rq, pq)), *ratios, f"{seconds:,.0f}"), flush=True)
    return int(worst > ROUNDING)


if __name__ == "__main__":
    sys.exit(main())
