"""What the work of an encoding is: asked before it begins."""

from collections.abc import Mapping

from qinco_lit.codec import Codec
from qinco_lit.vectors import VectorFile
from qinco_lit.vectors.code_info import CodeInfo, input_facts
from qinco_lit.vectors.layout import check_vector_dtype


def work_of(
    codec: Codec,
    vectors: VectorFile,
    options: Mapping[str, int | None],
    num_steps: int | None,
    packed: bool,
    rows: int,
) -> CodeInfo:
    """What a store of these codes will be: `rows` per shard; the options are those of the search.

    Raises:
        ValueError: vectors that do not fit the codec, or steps that it has not.
    """
    _check_vectors(vectors, codec)
    steps = _checked_num_steps(num_steps, codec)
    search = codec.quantizer.search_for(**options)
    return CodeInfo(
        num_steps=steps,
        codebook_size=codec.codebook_size,
        packed=packed,
        num_lists=codec.num_lists,
        shard_rows=rows,
        codec_sha256=codec.identity,
        beam_size=search.beam_size,
        num_candidates=search.record()["num_candidates"],
        candidate_budget=search.candidate_budget,
        precision=codec.precision,
        **input_facts(vectors),
    )


def _checked_num_steps(num_steps: int | None, codec: Codec) -> int:
    if num_steps is not None and not 1 <= num_steps <= codec.num_steps:
        raise ValueError(
            f"num_steps={num_steps}: {codec.name} has {codec.num_steps} steps; give 1 to {codec.num_steps}"
        )
    return num_steps or codec.num_steps


def _check_vectors(vectors: VectorFile, codec: Codec) -> None:
    if vectors.shape[1] != codec.dim:
        raise ValueError(
            f"{codec.name} encodes vectors of dimension {codec.dim}, {vectors.path} has {vectors.shape[1]}"
        )
    check_vector_dtype(vectors.dtype, vectors.path)
