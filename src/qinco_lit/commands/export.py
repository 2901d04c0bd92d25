"""`export`: a codec folder becomes a checkpoint in the QINCo2 repository's layout, or a file of ONNX."""

import argparse
import logging
from pathlib import Path

_log = logging.getLogger(__name__)

_ONNX_ONLY = ("what", "num_steps", "beam_size", "num_candidates", "candidate_budget")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qinco export`."""
    parser.add_argument("codec", metavar="DIR", type=Path, help="codec folder to read")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, required=True,
        help="to write: FILE.onnx, which runs without torch, or a checkpoint, FILE.pt",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    onnx = parser.add_argument_group("of FILE.onnx")
    onnx.add_argument("--what", choices=["decoder", "encoder"], help="codes to vectors (default), or vectors to codes")
    onnx.add_argument("--num-steps", metavar="M", type=int, help="codes of each vector, the first ones (default: all)")
    onnx.add_argument("--beam-size", metavar="B", type=int, help="of an encoder (default: as trained)")
    onnx.add_argument("--num-candidates", metavar="A", type=int, help="of an encoder (default: as trained)")
    onnx.add_argument("--candidate-budget", metavar="T", type=int, help="of an encoder (default: as trained)")


def run(options: argparse.Namespace) -> None:
    """Read the codec and write the file. Raises FileNotFoundError or ValueError for what it cannot use."""
    from qinco_lit.codec import Codec
    from qinco_lit.onnx_export import export_onnx
    from qinco_lit.published import export_checkpoint

    output, given = options.output, {name: getattr(options, name) for name in _ONNX_ONLY}
    given = {name: value for name, value in given.items() if value is not None}
    if given and output.suffix != ".onnx":
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"--output {output} is no FILE.onnx, which alone has {names}")
    if output.is_file() and not options.overwrite:
        raise ValueError(f"--output {output} exists: name another one, or add --overwrite")
    codec = Codec.load(options.codec)
    if output.suffix == ".onnx":
        export_onnx(codec, output, **given)
        _log.info("%s: %s, onnxruntime runs it", output, given.get("what", "decoder"))
    else:
        export_checkpoint(codec, output)
        _log.info("%s: QINCo2 layout, torch.load(..., weights_only=True) reads it", output)
