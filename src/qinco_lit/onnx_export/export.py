"""A codec as a file of ONNX: its decoder, or an encoder with one search."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

from qinco_lit.atomic import write_atomically
from qinco_lit.codec import Codec
from qinco_lit.options import checked
from qinco_lit.quantizers.beam import checked_num_steps
from qinco_lit.vectors.code_packing import packed_bits

Kind = Literal["decoder", "encoder"]


@checked
def export_onnx(
    codec: Codec,
    path: str | Path,
    *,
    what: Kind = "decoder",
    num_steps: int | None = None,
    beam_size: int | None = None,
    num_candidates: int | None = None,
    candidate_budget: int | None = None,
) -> None:
    """Write `Codec.decode` or `Codec.encode` as a graph of ONNX (opset 18), which onnxruntime runs without torch.

    The number of vectors is left open, all other sizes are fixed. The arithmetic is float32 for any precision of the
    codec. The file appears whole or not at all; the same codec gives the same bytes with one version of onnx. Its
    metadata name the codec, the sizes and the search (docs/onnx.md).

    Args:
        codec: of any family, on any device.
        path: an existing file is replaced.
        what: `decoder`: codes (n, num_steps), in the codec's type, to x_hat (n, dim) float32. `encoder`: x (n, dim)
            float32 to codes. An IVF codec's list_ids (n,) int32 are an input of the one, an output of the other.
        num_steps: codes that are decoded or found, 1 to the codec's; None: all.
        beam_size, num_candidates, candidate_budget: of an encoder, as in `Codec.encode`; None takes the model's.

    Raises:
        ValueError: the package onnx is missing; a search for a decoder or one that the model cannot do; steps that
            there are not; more weights than the 2 GB that a file can hold; a path that is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"{target} is a folder: name a file, {target / f'{what}.onnx'}")
    if importlib.util.find_spec("onnx") is None:
        raise ValueError("files of ONNX are written by the package onnx: pip install 'qinco_lit[onnx]'")
    from qinco_lit import __version__
    from qinco_lit.onnx_export.decoder import decoder
    from qinco_lit.onnx_export.encoder import encoder

    wanted, dtype = checked_num_steps(num_steps, codec.num_steps), codec.code_dtype.name
    options = {"beam_size": beam_size, "num_candidates": num_candidates, "candidate_budget": candidate_budget}
    metadata: dict[str, Any] = {
        "what": what,
        "codec_sha256": codec.identity,
        "dim": codec.dim,
        "num_steps": wanted,
        "codebook_size": codec.codebook_size,
        "num_lists": codec.num_lists,
        "bytes_per_vector": (packed_bits(wanted, codec.codebook_size) + 7) // 8,  # without the list id
    }
    if what == "decoder":
        given = [f"{name}={value}" for name, value in options.items() if value is not None]
        if given:
            raise ValueError(f"a decoder searches nothing: leave out {', '.join(given)}, or export an encoder")
        graph = decoder(codec.quantizer, wanted, dtype)
    else:
        search = codec.quantizer.search_for(**options)
        metadata |= search.record()
        graph = encoder(codec.quantizer, search, wanted, dtype)
    write_atomically(target, graph.model(f"qinco_lit {what}", __version__, metadata))
