"""What does not belong together is refused in one line, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.family.members import DATA, Walk, qinco

TRAIN = ("train", *DATA, "logger=none", "trainer.accelerator=cpu", "hydra.run.dir=wrong")
ENCODE = ("encode", "input=base.npy", "output=wrong.h5", "trainer.accelerator=cpu")
DECODE = ("decode", "output=wrong.npy", "device=cpu")
RATES = ("evaluate", "codec=qinco_lr/codec", *DATA, "rate=all", "device=cpu", "hydra.run.dir=wrong")
INDEX = ("index", *DATA, "output=wrong", "device=cpu")

MISTAKES: dict[tuple[str, ...], str] = {
    (*DECODE, "codec=opq_qinco1/codec", "codes=qinco_lr/codes.h5"): "qinco_lr/codes.h5 holds codes of another codec: ",
    (*DECODE, "codec=qinco_lr/codec", "codes=qinco_lr/codes.h5", "num_steps=5"): "num_steps=5: qinco_lr/codes.h5 has ",
    (*ENCODE, "codec=qinco_lr/codec", "num_steps=5"): "num_steps=5: qinco_lr/codec has 4 steps; give 1 to 4",
    (*INDEX, "codec=ivf_qinco1/codec", "codes=ivf_qinco1/codes.h5", "num_steps=5"): "num_steps=5: ivf_qinco1/codes.h5 ",
    (*INDEX, "codec=ivf_qinco1/codec", "codes=ivf_pq_qinco1/codes.h5"): "ivf_pq_qinco1/codes.h5 holds codes of another",
    (*RATES, "dedicated=[ivf_qinco1]"): "dedicated=ivf_qinco1 has num_lists=6, the codec None: their rates do not ",
    (*RATES, "dedicated=[opq_qinco1,pq_qinco2]"): "dedicated=opq_qinco1/codec and pq_qinco2/codec both have 4 codes: ",
    (*TRAIN, "model=pq_qinco", "model.part_dims=[6,5]"): "part_dims=[6, 5]: give num_parts=2 numbers from 1 that add ",
    (*TRAIN, "model=pq_qinco", "model.num_parts=12"): "num_parts=12 is more than num_steps=8: give at most 8",
    (*TRAIN, "model=pq_qinco", "model.num_parts=12", "model.num_steps=12"): "num_parts=12 is more than dim=10: give ",
    (*TRAIN, "model=pq_qinco", "model.order=parts"): "unknown option model.order; choose from: beam_size, ",
    (*TRAIN, "model=qinco2", "opq=true"): "model.opq=true is for models of parts: give model=pq_qinco or ",
    ("truncate", "pq_qinco2", "--num-steps", "2", "--output", "wrong"): "pq_qinco2 is no codec, but holds one: give ",
}  # fmt: skip
# what a damaged config.json says: the changes to it, and the one line
DAMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "sizes": ({"part_dims": [6, 5]}, "config.json is no codec this version reads: part_dims=[6, 5]: give num_parts=2 "),
    "places": ({"part_dims": [4, 6]}, "weights.safetensors does not fit its config.json: parts.0.data_mean has "),
    "rotation": ({"opq": True}, "weights.safetensors does not fit its config.json: missing ['rotation'], unk"),
    "origin": ({}, "config.json is no codec this version reads: truncated_from=cut lacks weights_sha256 and num_steps"),
}  # fmt: skip


def refused(folder: Path, *arguments: str) -> str:
    """The one line that a command ends in; it may leave nothing."""
    before = sorted(folder.rglob("*"))
    line = qinco(folder, *arguments)
    assert line.startswith("qinco: error: ")
    assert line.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
    return line.removeprefix("qinco: error: ")


@pytest.mark.parametrize("arguments", MISTAKES, ids=lambda arguments: f"{arguments[0]}: {arguments[-1]}")
def test_what_does_not_belong_together(
    arguments: tuple[str, ...], walk_of: Callable[[str], Walk], folder: Path
) -> None:
    for name in ("qinco_lr", "opq_qinco1", "pq_qinco2", "ivf_qinco1", "ivf_pq_qinco1"):
        walk_of(name)
    assert refused(folder, *arguments).startswith(MISTAKES[arguments])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder(damage: str, walk_of: Callable[[str], Walk], folder: Path, tmp_path: Path) -> None:
    codec = tmp_path / "codec"
    shutil.copytree(walk_of("pq_qinco2").path("codec"), codec)
    changes, message = DAMAGES[damage]
    config = json.loads((codec / "config.json").read_text())
    config["model"].update(changes)
    if damage == "origin":
        config["truncated_from"] = "cut"
    (codec / "config.json").write_text(json.dumps(config))
    assert refused(folder, *ENCODE, f"codec={codec}").startswith(f"{codec}/{message}")
