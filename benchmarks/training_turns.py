"""How fast does this revision train beside another? Both run `qinco train`, and take turns of a few batches.

    git worktree add ../other 7093b36
    .venv/bin/python benchmarks/training_turns.py --other ../other [--threads 2] [--avx2]

Two processes train on the same batches with the same seed, each by its own revision's code: loader, Lightning, search,
loss and optimizer, as for a user. One waits while the other trains, so that both meet the same machine, and the first
turns are not counted. Besides vectors/s the CPU time of all threads is told, which a neighbour changes less.
--avx2 has torch and its libraries use no instructions beyond AVX2; further arguments are those of `qinco train`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measuring import AVX2, heading, line, machine

BATCH_SIZE = 512
FIXED = (
    "model=qinco2_tiny", "data=photo_sift", "logger=none", "trainer.accelerator=cpu", "trainer.devices=1",
    "trainer.max_epochs=100", "trainer.enable_progress_bar=false", "recipe.search_precision=float32",
    f"recipe.batch_size={BATCH_SIZE}",
)  # fmt: skip
# waits before every few batches until it is asked to go on, then says how long they took
TRAINING = """
import json, sys, time
from qinco_lit.cli import main
from qinco_lit.training.module import QuantizerTraining

out, sys.stdout = sys.stdout, sys.stderr
every, arguments = int(sys.argv[1]), sys.argv[2:]
inner, begun = QuantizerTraining.on_train_batch_start, None

def by_turns(self, batch, batch_idx):
    global begun
    if self.trainer.global_step % every == 0:
        if begun is not None:
            took = time.perf_counter() - begun[0], time.process_time() - begun[1]
            print(json.dumps({"wall": took[0], "cpu": took[1]}), file=out, flush=True)
        if not sys.stdin.readline():
            raise KeyboardInterrupt
        begun = time.perf_counter(), time.process_time()
    inner(self, batch, batch_idx)

QuantizerTraining.on_train_batch_start = by_turns
sys.exit(main(["train", *arguments]))
"""


class Training:
    """`qinco train` of one revision in a process of its own."""

    def __init__(self, root: Path, folder: Path, options: argparse.Namespace) -> None:
        threads = {"OMP_NUM_THREADS": str(options.threads)}
        path = os.pathsep.join([str(root / "src"), str(root), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | threads | (AVX2 if options.avx2 else {})
        arguments = [*FIXED, f"data_dir={options.data_dir.resolve()}", f"hydra.run.dir={folder}", *options.overrides]
        self._process = subprocess.Popen(
            [sys.executable, "-c", TRAINING, str(options.batches), *arguments],
            cwd=folder.parent, env=environment | {"PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def turn(self) -> dict[str, float]:
        """Seconds of the next batches."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        took: dict[str, float] = json.loads(self._process.stdout.readline())
        return took

    def end(self) -> None:
        """No more turns."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="folder of the other revision's clone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--batches", type=int, default=20, help="of a turn")
    parser.add_argument("--turns", type=int, default=9, help="that count")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options, options.overrides = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        roots = {"other": options.other.resolve(), "this": here}
        trainings = {name: Training(root, Path(folder) / name, options) for name, root in roots.items()}
        try:
            took: dict[str, list[dict[str, float]]] = {name: [] for name in trainings}
            for number in range(options.turns + 1):
                for name, training in trainings.items():
                    one = training.turn()
                    if number:
                        took[name].append(one)
        finally:
            for training in trainings.values():
                training.end()
    print(f"{machine(torch.device('cpu'))}{', no more than AVX2' if options.avx2 else ''}")
    print(heading("revision", "vectors/s", "CPU seconds per 100k vectors", "times the speed", "of it, by CPU time"))
    vectors = options.batches * BATCH_SIZE
    for name, turns in took.items():
        medians = {clock: statistics.median(turn[clock] for turn in turns) for clock in ("wall", "cpu")}
        ratios = {
            clock: statistics.median(a[clock] / b[clock] for a, b in zip(took["other"], turns, strict=True))
            for clock in medians
        }
        print(
            line(
                name, f"{vectors / medians['wall']:,.0f}", f"{1e5 / vectors * medians['cpu']:.1f}",
                f"{ratios['wall']:.2f}", f"{ratios['cpu']:.2f}",
            )
        )  # fmt: skip


if __name__ == "__main__":
    main()
