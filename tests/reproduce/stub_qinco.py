"""Stands in for `qinco`: writes what a task's command would, at once, or fails, or works until it is stopped.

`STUB_FAILS` and `STUB_WAITS` name parts of folders; `STUB_LOG` is a file that gets each command line.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

SEARCH = {
    "index": {"num_lists": 4},
    "engines": {
        "qinco": {
            "fronts": {"1": [0]},
            "points": [
                {
                    "parameters": {"nprobe": 2, "num_additive": 9, "num_pairwise": 3},
                    "recall_at_1": 0.5,
                    "queries_per_s": 100.0,
                    "stage_recall_at_1": {"additive": 0.2, "pairwise": 0.3, "decode": 0.5},
                },
                {
                    "parameters": {"nprobe": 1, "num_additive": 9, "num_pairwise": 0},
                    "recall_at_1": 0.4,
                    "queries_per_s": 90.0,
                    "stage_recall_at_1": {"additive": 0.1, "decode": 0.4},
                },
            ],
        },
        "ivf_pq": {
            "fronts": {"1": [0]},
            "points": [{"parameters": {"nprobe": 2}, "recall_at_1": 0.1, "queries_per_s": 900.0}],
        },
    },
}


def metrics(baselines: list[str]) -> dict[str, object]:
    def figures(mse: float) -> dict[str, object]:
        return {
            "num_steps": 2,
            "mse": mse,
            "mse_per_step": [2 * mse, mse],
            "recall_at_1": 0.25,
            "recall_at_10": 0.5,
            "recall_at_100": None,
            "encode_vectors_per_s": 1000.0,
            "decode_vectors_per_s": 4000.0,
        }

    methods = {"codec": figures(10.0)}
    for place, name in enumerate(baselines):
        methods[name] = figures(20.0 + place) | {"num_training_rows": 7, "settings": {"kmeans_iterations": 25}}
    return {
        "codec": {"beam_size": 8, "num_candidates": None, "candidate_budget": 16},
        "data": {"num_database": 99},
        "device": "cpu",
        "num_threads": {"torch": 1, "faiss": 2},
        "methods": methods,
    }


def write(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def result_of(command: str, options: dict[str, str], folder: Path, typed: list[str]) -> None:
    if command == "train":
        summary = {"overrides": typed, "best_val_mse": 5.5, "wall_s": 12.0, "epochs": 1, "parameters": 1000}
        for name in ("config.json", "weights.safetensors"):
            write(folder / "codec" / name, {})
        write(folder / "summary.json", summary | {"state": "finished"})
    elif command == "evaluate":
        names = options.get("baselines", "[]")[1:-1]
        write(folder / "metrics.json", metrics(names.split(",") if names else []))
    elif command == "search":
        write(folder / "search.json", SEARCH)
    elif command == "index":
        report = {"num_lists": 4, "num_training": 6, "validation_mse": {"additive": 3.0, "pairwise": 2.0, "full": 1.0}}
        write(Path(options["output"]) / "report.json", report)
        write(Path(options["output"]) / "config.json", {})
    else:
        write(Path(options["output"]), {})


def interrupted(folder: Path, typed: list[str]) -> None:
    write(folder / "checkpoints" / "last.ckpt", {})
    write(folder / "summary.json", {"state": "interrupted", "overrides": typed})


def main() -> int:
    command, *typed = sys.argv[1:]
    with Path(os.environ["STUB_LOG"]).open("a") as log:
        log.write(" ".join(sys.argv[1:]) + "\n")
    options = dict(word.split("=", 1) for word in typed)
    is_resumed = "resume" in options
    folder = Path(options.get("resume") or options.get("hydra.run.dir") or Path(options["output"]).parent)
    typed = [word for word in typed if not word.startswith("hydra.")]
    if is_resumed:
        typed = json.loads((folder / "summary.json").read_text())["overrides"]
    elif "hydra.run.dir" in options:
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)
        (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in typed))
    sys.stdout.write("the stub works\n")
    sys.stdout.flush()
    if (waits := os.environ.get("STUB_WAITS")) and waits in str(folder) and not is_resumed:
        signal.signal(signal.SIGINT, lambda *_: sys.exit(interrupted(folder, typed) or 130))
        interrupted(folder, typed)  # the checkpoint of an earlier epoch
        write(folder / "summary.json", {"state": "running", "overrides": typed})
        Path(os.environ["STUB_LOG"]).with_suffix(".waits").write_text(str(os.getpid()))
        end = Path(os.environ["STUB_LOG"]).with_suffix(".go")
        while not end.exists():
            time.sleep(0.01)
    if (fails := os.environ.get("STUB_FAILS")) and fails in str(folder):
        sys.stdout.write("qinco: error: x is wrong\n")
        return 2
    result_of(command, options, folder, typed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
