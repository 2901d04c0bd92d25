"""How a quantizer is trained: every knob of both papers' recipes and of ours, in one typed place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qinco_lit.quantizers.precision import check_precision

_CHOICES = {
    "normalization": ("centred", "standard", "minmax", "none"),
    "initial_codebooks": ("kmeans", "faiss_rq"),
    "network_init": ("paper", "exact", "linear"),
    "optimizer": ("muon", "adamw", "adam"),
    "schedule": ("cosine", "plateau"),
    "dead_codewords": ("split", "redraw", "keep"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training recipe; `conf/recipe/*.yaml` holds the values (docs/training.md, *Recipes*).

    Those with a default came later: a run of before them is gone on with as it began.

    Attributes:
        batch_size: vectors per batch and process.
        normalization: `centred` (mean per dimension, one std of what that leaves), `standard` (the std is that of the
            vectors as they are, which offsets of dimensions make larger; QINCo2), `minmax` (to [-1, 1], no mean;
            QINCo1) or `none` (the vectors as they are; for ablations).
        normalization_rows: training vectors that the normalisation is computed from.
        initial_codebooks: `kmeans` (greedy residual k-means) or `faiss_rq` (faiss' residual quantizer; QINCo1).
        kmeans_rows, kmeans_iterations: its data and Lloyd iterations per step; without any, codebooks are uniform noise
            with the mean and std of what the step has to code.
        kmeans_split_empty: give centroids without vectors a part of the most populated one's.
        codebook_noise: Gaussian noise on the initial codebooks, in standard deviations of the codebook.
        network_init: `paper` (QINCo2: W, b, D zero, the rest Kaiming), `linear` (PyTorch's default; QINCo1), or
            `exact`: as `paper`, but so that the untrained network returns its codeword and training starts from the
            error of the residual k-means.
        optimizer: `adamw`, `adam`, or `muon`: Muon for the matrices of networks and AdamW for all else.
        lr: learning rate at its peak.
        muon_factor: with `muon`, the learning rate of the matrices in multiples of `lr`; null: 4, and 2 for vectors of
            more than 256 dimensions (measured on 128 and on 384).
        weight_decay: AdamW's, on all of its parameters.
        clip_value: gradients are clipped to [-clip_value, clip_value] one by one, but Muon's; null for none.
        schedule: `cosine` per step after a linear ramp, or `plateau` per epoch.
        warmup_epochs: length of the ramp, fractions allowed.
        cosine_reach: share of the quarter wave that the cosine covers at the last epoch; 0 stays at the peak, null is
            the paper's, which divides by all epochs instead of those after the ramp.
        lr_floor: smallest learning rate as a share of `lr`.
        plateau_epochs: epochs without gain before the learning rate is divided by ten (`plateau`).
        patience_epochs: epochs without gain before training stops.
        dead_codewords: what becomes of codewords that were not chosen: `split` (take half of the most chosen one's
            vectors), `redraw` (uniform noise with the mean and std of the step's targets; QINCo2), `keep`.
        split_every_batches: in the first epoch dead codewords are also split every so many batches; 0 for not.
        narrow_share: of the training, from its start, in which codes are searched with a quarter of the model's beam
            and candidates (`Search.narrowed`), where it tries all codewords (QINCo1), with 4 of them, for which
            pre-selectors are trained beside it; 0 for never. Validation has the model's search from the start.
        replay_after: batches after which each batch is trained on a second time, with the next one and the codes found
            the first time; 0: never.
        mix_below_rows: with fewer training vectors than these, each is moved towards a neighbour before it is trained
            on, the further the fewer there are for so many weights (`mixing.mixed_share`); 0: never.
        baselines_below_rows: with fewer training vectors than these, RQ and PQ of them are validated first, and what is
            best of them is the model where no epoch has less error (`baselines`); 0: never.
        search_precision: in which the codes of training vectors are searched (docs/encoding.md): `auto`, `fast`,
            `float32`, `screened` or `bfloat16`. The loss along the codes is trainer.precision's affair.
    """

    batch_size: int
    normalization: str
    normalization_rows: int
    initial_codebooks: str
    kmeans_rows: int
    kmeans_iterations: int
    kmeans_split_empty: bool
    codebook_noise: float
    network_init: str
    optimizer: str
    lr: float
    muon_factor: float | None = 4.0
    weight_decay: float
    clip_value: float | None
    schedule: str
    warmup_epochs: float
    cosine_reach: float | None
    lr_floor: float
    plateau_epochs: int
    patience_epochs: int
    dead_codewords: str
    split_every_batches: int
    narrow_share: float = 0.0
    replay_after: int = 0
    mix_below_rows: int = 0
    baselines_below_rows: int = 0
    search_precision: str

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"recipe.{name}={value!r} is unknown: choose from {', '.join(choices)}")
        check_precision(self.search_precision, "recipe.search_precision")
        for name in ("batch_size", "normalization_rows", "kmeans_rows", "patience_epochs", "plateau_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"recipe.{name}={getattr(self, name)} must be at least 1")
        counts = ("kmeans_iterations", "split_every_batches", "replay_after", "mix_below_rows", "baselines_below_rows")
        for name in (*counts, "warmup_epochs", "codebook_noise", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"recipe.{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.narrow_share <= 1:
            raise ValueError(f"recipe.narrow_share={self.narrow_share}: give 0 (never) to 1 (the whole training)")
        for name in ("lr", "muon_factor"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"recipe.{name}={value} must be positive")

    def factor_of_matrices(self, dim: int) -> float:
        """`muon_factor` for the networks of vectors of `dim` dimensions."""
        if self.muon_factor is not None:
            return self.muon_factor
        return 4.0 if dim <= 256 else 2.0

    def trained_model(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `build_quantizer` with which a model is trained: a narrow search needs pre-selectors."""
        return {**model, "preselector": True} if self.narrow_share > 0 else dict(model)


def cosine_factor(epoch: float, *, warmup_epochs: float, max_epochs: float, reach: float | None, floor: float) -> float:
    """Share of the peak learning rate at a fractional epoch (QINCo2: linear ramp, then a quarter cosine, floor 1e-3).

    It depends on nothing else, so that a resumed run needs no scheduler state.

    Args:
        epoch: epochs done, with the fraction of the current one.
        warmup_epochs: length of the linear ramp.
        max_epochs: epochs of the whole training; a fraction where it ends within one.
        reach: share of the quarter wave covered at `max_epochs`, 0 for a constant rate after the ramp; None is the
            paper's cos((epoch - warmup) / max_epochs * pi/2), which stops short of zero by the length of the ramp.
        floor: smallest share returned.
    """
    if epoch < warmup_epochs:
        return max(floor, epoch / warmup_epochs)
    after = epoch - warmup_epochs
    share = after / max_epochs if reach is None else reach * after / max(max_epochs - warmup_epochs, 1e-9)
    return max(floor, math.cos(min(share, 1.0) * math.pi / 2))
