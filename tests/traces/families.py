"""The families in small, what is typed for each, and the vectors: a few seconds a family on one core."""

import hashlib
from pathlib import Path

import numpy as np

DIM, LISTS, TRAIN, VAL, ROWS, QUERIES = 16, 8, 2000, 200, 500, 40
DATA = (
    "data=files", "data.train=train.npy", "data.database=base.fvecs", "data.queries=queries.npy",
    f"data.num_val={VAL}", "data_dir=data",
)  # fmt: skip
# 2 epochs of 32 steps. float32: elsewhere `fast` and `auto` may be bfloat16, where the processor has units for it
TRAINING = (
    "model.num_steps=4", "model.codebook_size=16", "model.num_blocks=1", "recipe.batch_size=64",
    "recipe.search_precision=float32", "recipe.narrow_share=0", "recipe.replay_after=0",
    "recipe.mix_below_rows=0", "recipe.baselines_below_rows=0", "seed=3", "logger=none", "trainer.accelerator=cpu",
    "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false",
)  # fmt: skip
IVF = ("coarse=ivf", "coarse.centroids=centroids.npy")
_ADAMW = "recipe.optimizer=adamw"
_QINCO1 = (_ADAMW, "recipe.lr=1e-4")
_QINCO2 = ("model=qinco2_tiny", "model.embed_dim=12", "model.hidden_dim=24", _ADAMW)
FAMILIES: dict[str, tuple[str, ...]] = {
    "qinco1": ("model=qinco1", "model.hidden_dim=24", *_QINCO1),
    "qinco1_paper": ("model=qinco1", "model.hidden_dim=24", "recipe=paper"),
    "qinco2": _QINCO2,
    "qinco2_paper": (*_QINCO2, "recipe=paper", "recipe.warmup_epochs=0.5"),  # 3 of 2 epochs would leave it untrained
    "product": ("model=pq_qinco2", "model.embed_dim=12", "model.hidden_dim=24", _ADAMW, "opq=true"),
    "low_rank": ("model=qinco_lr", "model.hidden_dim=8", *_QINCO1),
    "ivf": (*_QINCO2, *IVF),
}


def has_lists(family: str) -> bool:
    return set(IVF) <= set(FAMILIES[family])


def write_vectors(folder: Path) -> str:
    """The files that DATA names, around some centroids; the sha256 of all their vectors.

    The values are multiples of 1/64, and no matrix product made them: they are the same bits on every machine.
    """
    rng, digest = np.random.default_rng(7), hashlib.sha256()
    centres, scales = 3 * rng.normal(size=(LISTS, DIM)), rng.uniform(0.5, 3.0, size=(LISTS, DIM))
    for name, rows in {"train": TRAIN + VAL, "base": ROWS, "queries": QUERIES}.items():
        near = rng.integers(0, LISTS, rows)
        noise = rng.normal(size=(rows, DIM))
        noise[:, 1:] += 0.7 * noise[:, :-1]  # neighbouring dimensions are correlated: a rotation has something to find
        x = (np.round(64 * (centres[near] + scales[near] * noise)) / 64).astype("<f4")
        digest.update(x.tobytes())
        if name == "base":
            head = np.full((rows, 1), DIM, "<i4")
            (folder / "base.fvecs").write_bytes(np.hstack([head, x.view("<i4")]).tobytes())
        else:
            np.save(folder / f"{name}.npy", x)
    return digest.hexdigest()
