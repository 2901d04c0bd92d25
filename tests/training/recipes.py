"""The tuned recipe's values for tests that build a Recipe without Hydra."""

from typing import Any

RECIPE: dict[str, Any] = {
    "batch_size": 64,
    "normalization": "centred",
    "normalization_rows": 1000,
    "initial_codebooks": "kmeans",
    "kmeans_rows": 2000,
    "kmeans_iterations": 10,
    "kmeans_split_empty": True,
    "codebook_noise": 0.0,
    "network_init": "exact",
    "optimizer": "adamw",
    "lr": 1e-3,
    "muon_factor": 4.0,
    "weight_decay": 0.1,
    "clip_value": 0.1,
    "schedule": "cosine",
    "warmup_epochs": 0.3,
    "cosine_reach": 1.0,
    "lr_floor": 1e-3,
    "plateau_epochs": 10,
    "patience_epochs": 10,
    "dead_codewords": "split",
    "split_every_batches": 5,
    "narrow_share": 0.0,
    "replay_after": 0,
    "mix_below_rows": 0,
    "search_precision": "fast",
}
