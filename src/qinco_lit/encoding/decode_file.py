"""`decode`: a store of codes back to vectors."""

import logging
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from qinco_lit.codec import Codec
from qinco_lit.devices import chosen_device
from qinco_lit.encoding.encode_file import original_sha256, read_config
from qinco_lit.encoding.progress import duration, progress_line
from qinco_lit.locks import only_writer
from qinco_lit.vectors import CodeStore, VectorWriter, open_codes
from qinco_lit.vectors.layout import split_path
from qinco_lit.vectors.read_ahead import read_ahead

log = logging.getLogger(__name__)

_LINE_EVERY_S = 15.0


def decode(
    *,
    codec_dir: Path,
    codes: Path,
    output: Path,
    num_steps: int | None = None,
    start: int = 0,
    stop: int | None = None,
    batch_size: int = 16_384,
    device: str = "auto",
    num_threads: int | None = None,
) -> None:
    """Write the reconstructions of stored codes as a file of vectors, float32, in flat memory.

    Args:
        codec_dir: the codec that the codes are of.
        codes: a complete store.
        output: fvecs, fbin, npy, or file.hdf5:dataset; appears when all of it is written.
        num_steps: decode the first so many codes of each vector only; None: all.
        start, stop: rows start..stop - 1 of the store; None: to its end.
        batch_size: vectors at a time; changes memory and speed.
        device: auto, cpu, cuda, cuda:1.
        num_threads: of torch; None leaves them.

    Raises:
        FileNotFoundError: no codec, or no store.
        ValueError: a store of another codec, an incomplete store, steps or rows that it does not have, or another
            process writes the output.
        OSError: the disk is full.
    """
    store = open_codes(codes)
    codec = Codec.load(codec_dir, device=chosen_device(device))
    steps = store.shape[1] if num_steps is None else num_steps
    last = len(store) if stop is None else stop
    if not 1 <= steps <= store.shape[1]:
        raise ValueError(f"num_steps={steps}: {codes} has codes of {store.shape[1]} steps, give 1 to {store.shape[1]}")
    check_codec(store, codec_dir, num_steps=steps)
    if not 0 <= start < last <= len(store):
        raise ValueError(f"start={start} stop={last}: {codes} has {len(store)} rows; give 0 <= start < stop")
    for name, value in {"batch_size": batch_size, "num_threads": num_threads}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    if num_threads is not None:
        torch.set_num_threads(num_threads)

    def decoded(first: int) -> Float32[np.ndarray, "n dim"]:
        return _decoded(store, codec, range(first, min(first + batch_size, last)), steps)

    began = shown = time.monotonic()
    total = last - start
    with (
        only_writer(split_path(output).file),
        VectorWriter(output, dim=codec.dim, dtype=np.float32, num_rows=total) as writer,
        # the thread decodes, this one writes
        closing(read_ahead(decoded, range(start, last, batch_size))) as batches,
    ):
        for batch in batches:
            writer.append(batch)
            if (now := time.monotonic()) - shown > _LINE_EVERY_S:
                shown = now
                log.info(progress_line(writer.num_rows, total, writer.num_rows, now - began))
    taken = duration(time.monotonic() - began)
    log.info("%s: %s vectors, from %d codes each, in %s", output, f"{total:,}", steps, taken)


def _decoded(store: CodeStore, codec: Codec, rows: range, num_steps: int) -> Float32[np.ndarray, "n dim"]:
    codes = store[rows.start : rows.stop][:, :num_steps]
    if codec.num_lists is None:
        x_hat = codec.decode(codes)
    else:
        x_hat = codec.decode(codes, list_ids=store.list_ids(rows.start, rows.stop))
    assert isinstance(x_hat, np.ndarray)
    return x_hat


def check_codec(store: CodeStore, codec_dir: Path, *, num_steps: int | None = None) -> None:
    """Raise ValueError unless the codec in this folder is that of a store, whole or cut to `num_steps` at the least.

    Args:
        store: of codes.
        codec_dir: the codec that encoded them, or what `qinco truncate` made of it; may be one that was cut when the
            codes are of the whole one, and the other way round.
        num_steps: codes of each vector that are used; None: all that the store has.
    """
    there, here = store.info.codec_sha256, original_sha256(codec_dir)
    if there != here:
        raise ValueError(
            f"{store.path} holds codes of another codec: its weights have SHA-256 {there[:12]}…, "
            f"those of {codec_dir} {here[:12]}…"
        )
    used, known = num_steps or store.shape[1], int(read_config(codec_dir)["model"]["num_steps"])
    if used > known:
        raise ValueError(
            f"{store.path} has codes of {store.shape[1]} steps, the codec in {codec_dir} was cut to {known}: "
            f"give num_steps={known}"
        )
