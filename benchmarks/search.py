"""What does a breadth of search cost, and what does it gain?

One codec, the same vectors: MSE (raw space, sum over dimensions) and vectors/s for candidates per hypothesis (A x B
pairs a step, the papers' search) and for a budget of pairs over the whole beam (T pairs a step).

    .venv/bin/python benchmarks/search.py [RUN_DIR/codec]
"""

import time

import numpy as np
from demo_codec import codec_and_vectors

SEARCHES = [
    {"beam_size": 4, "num_candidates": 4},
    {"beam_size": 8, "num_candidates": 8},
    {"beam_size": 16, "num_candidates": 8},
    {"beam_size": 16, "num_candidates": 16},
    {"beam_size": 32, "num_candidates": 16},
    {"beam_size": 4, "candidate_budget": 16},
    {"beam_size": 8, "candidate_budget": 16},
    {"beam_size": 16, "candidate_budget": 32},
    {"beam_size": 16, "candidate_budget": 64},
    {"beam_size": 32, "candidate_budget": 64},
    {"beam_size": 32, "candidate_budget": 128},
    {"beam_size": 32, "candidate_budget": 256},
]


def main() -> None:
    codec, x = codec_and_vectors(__doc__.splitlines()[0], rows=2048)
    print("| B | A per hypothesis | T over the beam | pairs a step | MSE | vectors/s |\n|---|---|---|---|---|---|")
    for search in SEARCHES:
        codec.encode(x[:64], **search)  # warm-up
        start = time.perf_counter()
        codes = codec.encode(x, **search)
        speed = len(x) / (time.perf_counter() - start)
        mse = np.square(codec.decode(codes) - x.astype(np.float32)).sum(1).mean()
        per_hypothesis, budget = search.get("num_candidates", "–"), search.get("candidate_budget", "–")
        pairs = codec.quantizer.search_for(**search).pairs_per_vector
        print(
            f"| {search['beam_size']} | {per_hypothesis} | {budget} | {pairs} | {mse:,.0f} | {speed:,.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
