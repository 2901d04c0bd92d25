"""What does QINCo do, step by step? The pictures of docs/qinco.md, out of codecs that are trained here.

    .venv/bin/python benchmarks/pictures.py [--output docs] [--epochs 30]

Everything drawn is a number that the library gave: small QINCo2 codecs of made-up vectors, trained in minutes.
"""

import argparse
from pathlib import Path

import faiss
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import qinco_lit as ql

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#c8ced6"
CODEBOOK, STEPS = 16, 6
SMALL = {"embed_dim": 16, "hidden_dim": 64, "batch_size": 256, "codebook_size": CODEBOOK, "progress": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs", metavar="DIR")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    x = spiral(8000)
    flat = ql.train(x, model="qinco2_tiny", num_steps=2, max_epochs=options.epochs, **SMALL)
    save(draw_step(x, flat), options.output / "qinco_step.png")
    x = manifold(12_000)
    codec = ql.train(x, model="qinco2_tiny", num_steps=STEPS, num_lists=16, max_epochs=options.epochs, **SMALL)
    save(draw_encoding(manifold(2000, seed=1), codec), options.output / "qinco_beam.png")
    save(draw_search(manifold(5000, seed=2), manifold(500, seed=3), x, codec), options.output / "qinco_search.png")


def spiral(num: int, *, seed: int = 0) -> np.ndarray:
    """Vectors (num, 2) along a spiral that widens, denser and thinner within."""
    rng = np.random.default_rng(seed)
    turn = 2.2 * np.pi * rng.random(num) ** 0.6 + 0.6
    points = turn[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return (points + 0.06 * turn[:, None] * rng.normal(size=(num, 2))).astype(np.float32)


def manifold(num: int, *, seed: int = 0) -> np.ndarray:
    """Vectors (num, 16) that a few numbers each decide."""
    weights = np.random.default_rng(7)
    first, second = weights.normal(size=(4, 32)), weights.normal(size=(32, 16))
    rng = np.random.default_rng(seed)
    return (np.tanh(rng.normal(size=(num, 4)) @ first) @ second + 0.2 * rng.normal(size=(num, 16))).astype(np.float32)


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100)


def mse(x: np.ndarray, x_hat: np.ndarray) -> float:
    return float(((x - x_hat) ** 2).sum(1).mean())


# --- one step ---------------------------------------------------------------------------------------------------------


def draw_step(x: np.ndarray, codec: ql.Codec) -> Figure:
    """The second codebook where the first code has led, fixed (RQ) and made by a network (QINCo2)."""
    rq = faiss.ResidualQuantizer(2, 2, 4)
    rq.max_beam_size = 1  # trained with faiss' beam of 5 its error is four times as high here
    rq.train(x)
    first, second = faiss.vector_to_array(rq.codebooks).reshape(2, CODEBOOK, 2)
    rq_error = mse(x, rq.decode(rq.compute_codes(x)))
    pairs = np.stack(np.meshgrid(np.arange(CODEBOOK), np.arange(CODEBOOK), indexing="ij"), axis=-1).reshape(-1, 2)
    adapted = codec.decode(pairs.astype(np.uint8)).reshape(CODEBOOK, CODEBOOK, 2)
    starts = codec.decode(np.arange(CODEBOOK, dtype=np.uint8)[:, None])
    figure = Figure(figsize=(10, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw_codebooks(left, x, first, first[:, None] + second[None])
    left.set_title(f"RQ: one second codebook for all, error {rq_error:.3f}", fontsize=10)
    _draw_codebooks(right, x, starts, adapted)
    error = mse(x, codec.decode(codec.encode(x)))
    right.set_title(f"QINCo2: one for each reconstruction so far, error {error:.3f}", fontsize=10)
    return figure


def _draw_codebooks(axis: Axes, x: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
    """Of three first codewords, far from each other, all sixteen reconstructions that a second code can make."""
    axis.scatter(*x[:3000].T, s=2, color=GREY, linewidths=0)
    angles = np.arctan2(starts[:, 1], starts[:, 0])
    chosen = [int(np.argmin(np.abs(angles - angle))) for angle in (-2.1, 0.2, 2.0)]
    for number, colour in zip(chosen, (BLUE, ORANGE, GREEN), strict=True):
        axis.scatter(*ends[number].T, s=18, color=colour, linewidths=0)
        axis.plot(*starts[number], "x", color="black", ms=9, mew=2)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])


# --- beam and budget --------------------------------------------------------------------------------------------------


def draw_encoding(x: np.ndarray, codec: ql.Codec) -> Figure:
    """One vector's hypotheses; the error of all vectors by how many pairs are tried."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_beam(left, x, codec)
    _draw_budget(right, x, codec)
    return figure


def _draw_beam(axis: Axes, x: np.ndarray, codec: ql.Codec) -> None:
    lists, greedy = codec.encode(x, beam_size=1, num_candidates=0)
    _, wide = codec.encode(x, beam_size=4, num_candidates=0, list_ids=lists)
    errors = [((x - codec.decode(codes, list_ids=lists)) ** 2).sum(1) for codes in (greedy, wide)]
    one = int(np.argsort(errors[0] - errors[1])[-20])  # much is gained, but not the most of all
    kept = np.zeros((1, 0), dtype=np.uint8)
    for step in range(1, STEPS + 1):
        ends = np.tile(np.arange(CODEBOOK, dtype=np.uint8), len(kept))
        tried = np.concatenate([np.repeat(kept, CODEBOOK, axis=0), ends[:, None]], axis=1)
        error = _errors(x[one], tried, codec, lists[one])
        best = np.argsort(error, kind="stable")[: min(4, len(tried))]
        axis.plot(np.full(len(tried), step), error, ".", color=GREY, ms=5, zorder=1)
        axis.plot(np.full(len(best), step), error[best], "o", color=BLUE, ms=5, zorder=3)
        kept = tried[best]
    found = [(greedy[one], ORANGE, "the best of each step (beam 1)"), (kept[0], BLUE, "what beam 4 ends with")]
    for codes, colour, name in found:
        path = [_errors(x[one], codes[None, :step], codec, lists[one])[0] for step in range(1, STEPS + 1)]
        axis.plot(range(1, STEPS + 1), path, color=colour, lw=2, label=f"{name}: {path[-1]:.2f}", zorder=2)
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("squared error of one vector")
    axis.set_title("grey: codes that were tried; blue: the four that were kept", fontsize=10)
    axis.legend(fontsize=9)


def _errors(one: np.ndarray, codes: np.ndarray, codec: ql.Codec, list_id: np.integer) -> np.ndarray:
    x_hat = codec.decode(np.ascontiguousarray(codes), list_ids=np.full(len(codes), list_id, dtype=np.int32))
    return ((x_hat - one) ** 2).sum(1)


def _draw_budget(axis: Axes, x: np.ndarray, codec: ql.Codec) -> None:
    per_hypothesis = [(1, 1), (2, 2), (4, 2), (4, 4), (8, 4), (8, 8), (16, 8), (16, 16)]
    budgets = [(2, 1), (4, 2), (8, 4), (16, 8), (32, 16), (64, 32), (128, 64)]
    found = [(a * b, {"num_candidates": a, "beam_size": b}) for a, b in per_hypothesis]
    spread = [(t, {"candidate_budget": t, "beam_size": b}) for t, b in budgets]
    lines = [("A candidates for each of B hypotheses", found, ORANGE), ("a budget of T for the beam", spread, BLUE)]
    for name, searches, colour in lines:
        errors = []
        for _, search in searches:
            lists, codes = codec.encode(x, **search)
            errors.append(mse(x, codec.decode(codes, list_ids=lists)))
        axis.plot([pairs for pairs, _ in searches], errors, "o-", color=colour, label=name)
    axis.set_xscale("log", base=2)
    axis.set_xlabel("pairs of hypothesis and codeword that a network looks at, a step")
    axis.set_ylabel("error of all vectors")
    axis.set_title("what a wider search gains", fontsize=10)
    axis.legend(fontsize=9)


# --- look-ups and stages ----------------------------------------------------------------------------------------------


def draw_search(x: np.ndarray, queries: np.ndarray, training: np.ndarray, codec: ql.Codec) -> Figure:
    """The table that scans all vectors, and how many vectors each stage of a search looks at, for which recall."""
    searcher = ql.build_index(codec, x, training=training, progress=False)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    additive = searcher.bundle.additive.codebooks
    products = queries[0] @ additive.transpose(0, 2, 1)
    image = left.imshow(products, cmap="PuOr", aspect="auto")
    _, codes = codec.encode(x[:1])
    left.plot(codes[0], np.arange(STEPS), "s", mfc="none", mec="black", ms=13, mew=2)
    left.set_xlabel("codeword")
    left.set_ylabel("step")
    left.set_yticks(range(STEPS), [str(step + 1) for step in range(STEPS)])
    left.set_title("products of a query with all codewords, once;\na vector is the sum of its six", fontsize=10)
    figure.colorbar(image, ax=left)
    (point,) = ql.explore(searcher, queries, database=x, nprobe=[8], num_additive=[100], num_pairwise=[20], repeats=1)
    looked_at = [8 / 16 * len(x), 100.0, 20.0]  # 8 of 16 lists, of about the same length
    names = ["additive\n(look-ups)", "pairwise\n(look-ups)", "decode\n(networks)"]
    bars = right.bar(names, looked_at, color=[GREY, ORANGE, BLUE], width=0.6)
    recalls = point.stage_recall_at_1.values()
    labels = [f"{num:,.0f} vectors\nR@1 {100 * recall:.0f} %" for num, recall in zip(looked_at, recalls, strict=True)]
    right.bar_label(bars, labels, fontsize=9)
    right.set_yscale("log")
    right.set_ylim(10, 6 * looked_at[0])
    right.set_ylabel("vectors that a stage looks at, a query")
    right.set_title("each stage reads fewer vectors, more precisely", fontsize=10)
    right.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
