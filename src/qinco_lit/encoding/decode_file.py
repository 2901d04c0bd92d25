"""A store of codes back to vectors."""

import logging
import time
from contextlib import closing
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from qinco_lit.codec import Codec
from qinco_lit.devices import chosen_device, threads
from qinco_lit.locks import only_writer
from qinco_lit.options import Count, in_range
from qinco_lit.progress import Progress, duration
from qinco_lit.quantizers.precision import precision_for
from qinco_lit.vectors import CodeStore, VectorFile, VectorWriter, open_codes, open_vectors
from qinco_lit.vectors.layout import split_path
from qinco_lit.vectors.vector_file import read_ahead

log = logging.getLogger(__name__)


@in_range
def decode_file(
    codec: Codec | str | Path,
    codes: CodeStore | str | Path,
    output: str | Path,
    *,
    num_steps: int | None = None,
    start: int = 0,
    stop: int | None = None,
    batch_size: Count = 16_384,
    device: str = "auto",
    num_threads: Count | None = None,
    progress: bool | None = None,
) -> VectorFile:
    """Write the reconstructions of stored codes as a file of vectors, float32, in flat memory.

    Args:
        codec: that the codes are of, or its folder.
        codes: a complete store.
        output: fvecs, fbin, npy, or file.hdf5:dataset; appears when all of it is written.
        num_steps: decode the first so many codes of each vector only; None: all.
        start, stop: rows start..stop - 1 of the store; None: to its end.
        batch_size: vectors at a time; changes memory and speed.
        device: of a codec that is loaded: auto, cpu, cuda, cuda:1.
        num_threads: of torch and faiss; None leaves them.
        progress: False shows none.

    Returns:
        The file, open.

    Raises:
        FileNotFoundError: no codec, or no store.
        ValueError: a store of another codec, an incomplete store, steps or rows that it does not have, or another
            process writes the output.
        OSError: the disk is full.
    """
    store = codes if isinstance(codes, CodeStore) else open_codes(codes)
    codec = as_codec(codec, device=device)
    steps = store.shape[1] if num_steps is None else num_steps
    last = len(store) if stop is None else stop
    most = store.shape[1]
    if not 1 <= steps <= most:
        raise ValueError(f"num_steps={steps}: {store.path} has codes of {most} steps, give 1 to {most}")
    check_codec(store, codec, num_steps=steps)
    if not 0 <= start < last <= len(store):
        raise ValueError(f"start={start} stop={last}: {store.path} has {len(store)} rows; give 0 <= start < stop")

    def decoded(first: int) -> Float32[np.ndarray, "n dim"]:
        return _decoded(store, codec, range(first, min(first + batch_size, last)), steps)

    began, total = time.monotonic(), last - start
    with (
        threads(num_threads),
        only_writer(split_path(output).file),
        VectorWriter(output, dim=codec.dim, dtype=np.float32, num_rows=total) as writer,
        Progress(show=progress is not False) as shown,
        # the thread decodes, this one writes
        closing(read_ahead(decoded, range(start, last, batch_size))) as batches,
    ):
        shown.start("decoding", total)
        for batch in batches:
            writer.append(batch)
            shown.advance(len(batch))
    taken = duration(time.monotonic() - began)
    log.info("%s: %s vectors, from %d codes each, in %s", output, f"{total:,}", steps, taken)
    return open_vectors(output)


def _decoded(store: CodeStore, codec: Codec, rows: range, num_steps: int) -> Float32[np.ndarray, "n dim"]:
    codes = store[rows.start : rows.stop][:, :num_steps]
    if codec.num_lists is None:
        x_hat = codec.decode(codes)
    else:
        x_hat = codec.decode(codes, list_ids=store.list_ids(rows.start, rows.stop))
    assert isinstance(x_hat, np.ndarray)
    return x_hat


def check_codec(store: CodeStore, codec: Codec, *, num_steps: int | None = None) -> None:
    """Raise ValueError unless a codec is that of a store, whole or cut to `num_steps` at the least.

    Args:
        store: of codes.
        codec: that encoded them, or what `Codec.truncated` made of it; may be one that was cut when the codes are of
            the whole one, and the other way round.
        num_steps: codes of each vector that are used; None: all that the store has.
    """
    there, here = store.info.codec_sha256, codec.identity
    if there != here:
        raise ValueError(
            f"{store.path} holds codes of another codec: its weights have SHA-256 {there[:12]}…, "
            f"those of {codec.name} {here[:12]}…"
        )
    if (num_steps or store.shape[1]) > codec.num_steps:
        which = "this codec" if codec.folder is None else f"the codec in {codec.folder}"
        raise ValueError(
            f"{store.path} has codes of {store.shape[1]} steps, {which} was cut to {codec.num_steps}: "
            f"give num_steps={codec.num_steps}"
        )


def as_codec(codec: Codec | str | Path, *, device: str = "auto", precision: str = "auto") -> Codec:
    """The codec that a user gives: itself, or what is loaded from its folder for a device in a precision.

    Raises:
        FileNotFoundError: no codec there.
        ValueError: as `Codec.load`; another device or precision than that of a codec in memory.
    """
    if not isinstance(codec, Codec | str | PathLike):
        raise ValueError(f"codec is of type {type(codec).__name__}: give a Codec, or its folder")
    if not isinstance(codec, Codec):
        return Codec.load(codec, device=chosen_device(device), precision=precision)
    wanted = codec.device if device == "auto" else chosen_device(device)
    if wanted.type != codec.device.type or wanted.index not in (None, codec.device.index):
        raise ValueError(f"device={device}: this codec is on {codec.device}; codec.to({device!r}) moves it")
    if precision != "auto" and precision_for(precision, codec.device).name != codec.precision:
        raise ValueError(f"precision={precision}: this codec has {codec.precision}: give its folder, or precision=auto")
    return codec
