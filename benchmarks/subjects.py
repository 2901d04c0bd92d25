"""What the benchmarks of the engine run on: trained codecs with their data, or random models with normal vectors."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from datamodules import photo_sift as built
from qinco_lit import Codec
from qinco_lit.data.data_module import VectorDataModule
from qinco_lit.quantizers import Quantizer, build_quantizer
from qinco_lit.quantizers.precision import FLOAT32
from qinco_lit.training.start import init_networks
from qinco_lit.vectors import open_vectors

Pair = tuple[int, int]
MODELS: dict[str, dict[str, Any]] = {
    "S": {"embed_dim": 128, "hidden_dim": 256, "num_blocks": 2},
    "M": {"embed_dim": 384, "hidden_dim": 384, "num_blocks": 4},
    "L": {"embed_dim": 384, "hidden_dim": 384, "num_blocks": 16},
    # of the released QINCo1 sizes the one with two blocks
    "QINCo1": {"embed_dim": None, "hidden_dim": 256, "num_blocks": 2, "num_candidates": 0, "beam_size": 1},
}


class Subject(NamedTuple):
    """A model on a device, and raw vectors for it there: to encode, and others to fit to."""

    name: str
    weights: str
    quantizer: Quantizer
    vectors: Shaped[Tensor, "rows dim"]
    training_vectors: Shaped[Tensor, "more_rows dim"]

    @property
    def label(self) -> str:
        """Model and sizes."""
        depth = f" L={self.quantizer.config['num_blocks']}" if self.name == "QINCo1" else ""
        return f"{self.name}{depth}, D={self.quantizer.dim}, M={self.quantizer.num_steps}, {self.weights}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--device`, `--codec`, `--vectors`, `--root`."""
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--codec", help="a trained model for its sizes; default: the newest demo's, if there is one")
    parser.add_argument("--vectors", help="vector file for that codec; default: photo_sift's database")
    parser.add_argument("--root", default="data/photo_sift", help="where photo_sift lies or is made")


def pair(text: str) -> Pair:
    """Of two numbers: `16,32`."""
    first, second = (int(part) for part in text.split(","))
    return first, second


def device_of(options: argparse.Namespace) -> torch.device:
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU here")
    return device


def trained(options: argparse.Namespace, *, needed: bool) -> Quantizer | None:
    """The codec of the options; None without one, which `needed` makes a mistake."""
    demos = sorted(Path("outputs/demo").glob("*/train/codec"))
    if options.codec is None and not demos:
        if needed:
            raise SystemExit("no codec: run `make demo` first or name one with --codec")
        return None
    return Codec.load(options.codec or demos[-1], device=device_of(options)).quantizer


def name_of(quantizer: Quantizer) -> str:
    """Which of `MODELS` it is, by its networks (QINCo1 whatever their depth); its own sizes if it is none of them."""
    config = quantizer.config
    if not config["outer_skip"]:
        return "QINCo1"
    keys = ("embed_dim", "hidden_dim", "num_blocks")
    same = [name for name, sizes in MODELS.items() if all(config[key] == sizes[key] for key in keys)]
    return same[0] if same else "/".join(str(config[key]) for key in keys)


def trained_subject(quantizer: Quantizer, options: argparse.Namespace, rows: int, training_rows: int) -> Subject:
    """The codec's own data."""
    device = device_of(options)
    if options.vectors:
        everything = open_vectors(options.vectors)
        vectors, training = everything[:rows], everything[-training_rows:]
    else:
        data = photo_sift(options.root)
        data.setup("test")
        data.setup("fit")
        vectors, training = data.database[:rows], data.train_vectors[:training_rows]
    if vectors.shape[1] != quantizer.dim:
        raise SystemExit(f"vectors of {vectors.shape[1]} dimensions, codec of {quantizer.dim}: name its --vectors")
    on_device = (torch.from_numpy(part).to(device) for part in (vectors, training))
    return Subject(name_of(quantizer), "trained", quantizer, *on_device)


def photo_sift(root: str) -> VectorDataModule:
    """The default data set, made if it is not there."""
    data = VectorDataModule(built.photo_sift(root=root), batch_size=512)
    data.prepare_data()
    return data


def random_subject(name: str, dim: int, num_steps: int, device: torch.device, rows: int, training_rows: int) -> Subject:
    """A model of the right size that refines standard normal vectors about as well as such codes can."""
    generator = torch.Generator().manual_seed(0)
    quantizer = random_quantizer(name, dim, num_steps, generator).to(device)
    draws = (torch.randn(number, dim, generator=generator).to(device) for number in (rows, training_rows))
    return Subject(name, "random", quantizer, *draws)


@torch.no_grad()
def random_quantizer(name: str, dim: int, num_steps: int, generator: torch.Generator) -> Quantizer:
    """Codewords of the size that leaves the smallest error, which networks of random weights change by a part."""
    quantizer = build_quantizer(dim, num_steps=num_steps, outer_skip=name != "QINCo1", **MODELS[name])
    part = quantizer.parts[0]
    init_networks(part, "linear", generator)
    size = quantizer.codebook_size
    left = size ** (-2 / dim)  # share of the error that log2(size) bits leave of a normal vector
    std = (1 - left) ** 0.5
    assert part.first_codebook is not None
    part.first_codebook.copy_(std * torch.randn(size, dim, generator=generator))
    for index, step in enumerate(part.residual_steps(), start=1):
        codewords = std * left ** (index / 2) * torch.randn(size, dim, generator=generator)
        for parameter in step.network.concat.parameters():
            parameter.mul_(0.1)  # else what x_hat adds to all candidates is as large as the codewords
        step.codebook.copy_(codewords)
        tables = step.tables(FLOAT32)
        zero = torch.zeros_like(codewords)
        adapted = step.extend(torch.arange(size), zero, tables)
        # on average the network returns the codeword: without projections and with the outer skip it returns some 2c
        step.codebook.div_((adapted * codewords).sum() / codewords.square().sum())
        if step.preselector is not None:
            step.preselector.copy_(codewords)
    return quantizer
