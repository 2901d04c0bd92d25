"""Run by test_ddp.py in processes of its own: `qinco train`, of which every rank writes down what it ends with.

The arguments are those of `qinco`; `RANKS_FOLDER` names the folder of `rank0.pt`, `rank1.pt`, ...
"""

import os
import sys
from pathlib import Path

import torch

from qinco_lit.cli import main
from qinco_lit.training.module import QuantizerTraining


def run(arguments: list[str], folder: str) -> int:
    """The command, with its arguments and the folder of `rank0.pt`, `rank1.pt`, ..."""

    def write_state(module: QuantizerTraining) -> None:
        weights = {name: value.clone() for name, value in module.quantizer.state_dict().items()}
        figures = {name: float(value) for name, value in module.trainer.callback_metrics.items()}
        state = {"weights": weights, "usage": module.statistics.usage_in_epoch, "figures": figures}
        torch.save(state, Path(folder) / f"rank{module.global_rank}.pt")

    QuantizerTraining.on_fit_end = write_state  # type: ignore[assignment]
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], os.environ["RANKS_FOLDER"]))
