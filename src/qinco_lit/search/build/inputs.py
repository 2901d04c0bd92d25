"""What `index` is made of: opened, checked to belong together, and known by its checksums."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from qinco_lit.codec import Codec
from qinco_lit.encoding.decode_file import check_codec
from qinco_lit.search.build.first_codes import FirstCodes
from qinco_lit.search.build.training_codes import given_rows, sample_sha256, store_sha256
from qinco_lit.search.build.user_ids import UserIds
from qinco_lit.search.decoders.pairwise import tables_too_large
from qinco_lit.vectors import CodeStore, open_codes
from qinco_lit.vectors.metric import Metric
from qinco_lit.vectors.readings import check_reading

log = logging.getLogger(__name__)

# A cell that no training vector falls into says nothing. Tables of bytes are always fitted: pairs of codes that depend
# on each other leave most cells empty, and what gains nothing is dropped.
_ALWAYS_CELLS = 256**2
_CELLS_PER_VECTOR = 4


@dataclass(frozen=True)
class Inputs:
    """What an index is made of.

    Attributes:
        codec: of as many steps as the index has.
        codec_dir: its folder, or that of the codec that it was cut from.
        codes: of the database.
        searched: codes that the search for them was after, as far as the codec in its folder has so many steps.
        data: data module.
        training_codes: of the first training vectors, where they are given.
        ids: the user's own.
        num_training: vectors that the decoders are fitted to.
        centroids: of the lists, raw space.
        metric: of the index.
    """

    codec: Codec
    codec_dir: Path
    codes: FirstCodes
    searched: int
    data: Any
    training_codes: FirstCodes | None
    ids: UserIds | None
    num_training: int
    centroids: Float32[np.ndarray, "lists dim"]
    metric: Metric


def open_inputs(
    codec_dir: Path,
    codes: Path,
    data: Any,
    num_steps: int | None,
    num_training: int | None,
    training_codes: Path | None,
    ids: Path | None,
    device: str,
) -> Inputs:
    """Open what `index` is given, the codec on its device.

    Raises:
        FileNotFoundError: no codec, no store, or a file of the data set is missing.
        ValueError: inputs that do not belong together.
    """
    store = open_codes(codes)
    codec = Codec.load(codec_dir, device=device)
    steps = _checked_steps(codes, store.shape[1], num_steps)
    check_codec(store, codec, num_steps=steps)
    centroids = codec.coarse_centroids
    if centroids is None:
        raise ValueError(f"{codec_dir} has no lists, so there is nothing to index by: train one with coarse=ivf")
    data.prepare_data()
    data.setup("predict")
    if data.dim != codec.dim:
        raise ValueError(f"{codec_dir} encodes vectors of dimension {codec.dim}, data set {data.name} has {data.dim}")
    fix = f"encode them with `qinco encode data=CHOICE data.metric={data.metric}`"
    check_reading(f"codes={codes}", asdict(store.info), data.database, data, fix)
    num_rows = len(data.train_vectors)
    cut = codec if steps == codec.num_steps else codec.truncated(steps)
    training = None if training_codes is None else _training(training_codes, codec, cut, data, centroids)
    return Inputs(
        codec=cut,
        codec_dir=codec_dir,
        codes=FirstCodes(store, steps),
        searched=min(_searched(store), codec.num_steps),
        data=data,
        training_codes=training,
        ids=None if ids is None else UserIds(ids, len(store)),
        num_training=min(num_rows, len(training) if training is not None else num_training or num_rows),
        centroids=centroids,
        metric=data.metric,
    )


def _checked_steps(codes: Path, stored: int, num_steps: int | None) -> int:
    if num_steps is not None and not 1 <= num_steps <= stored:
        raise ValueError(f"num_steps={num_steps}: {codes} has codes of {stored} steps, give 1 to {stored}")
    return num_steps or stored


def _training(
    path: Path, whole: Codec, codec: Codec, data: Any, centroids: Float32[np.ndarray, "lists dim"]
) -> FirstCodes:
    """Codes that are given for the training vectors."""
    store, steps = open_codes(path), codec.num_steps
    if store.shape[1] < steps:
        raise ValueError(f"training_codes={path} has codes of {store.shape[1]} steps, the index needs {steps}")
    check_codec(store, whole, num_steps=steps)
    codes = FirstCodes(store, steps)
    given_rows(path, codes, data, centroids).check(codec)
    return codes


def _searched(store: CodeStore) -> int:
    """Codes that the search for those of a store was after."""
    return store.info.encoded_num_steps or store.shape[1]


def warn_of_other_searches(inputs: Inputs) -> None:
    """Say so where training vectors have codes of a search for another number of steps than the database's."""
    store, training, steps = inputs.codes.store, inputs.training_codes, inputs.codes.num_steps
    searched = _searched(store)
    if training is not None and (other := _searched(training.store)) != searched:
        log.warning(
            "training_codes=%s are of a search for %d codes, those of %s of one for %d: without training_codes= the "
            "codes of training vectors would be found as the database's were",
            training.store.path, other, store.path, searched,
        )  # fmt: skip
    if training is None and inputs.searched < searched:
        log.warning(
            "%s holds the first of %d codes, the codec in %s has %d steps: training vectors are encoded with these; "
            "codec=DIR of all steps and num_steps=%d would find their codes as the database's were found",
            store.path, searched, inputs.codec_dir, inputs.searched, steps,
        )  # fmt: skip


def job_of(inputs: Inputs, pairwise: dict[str, Any] | None, on_disk: bool) -> dict[str, Any]:
    """What makes two calls the same work; parts, devices and threads do not."""
    training, store = inputs.training_codes, inputs.codes.store
    as_database = training is not None or inputs.searched == _searched(store)
    return {
        "codec": store.info.codec_sha256,
        "codes": store_sha256(store),
        "num_vectors": len(store),
        "num_steps": None if inputs.codes.num_steps == store.shape[1] else inputs.codes.num_steps,
        # of the training vectors, where it is not that of the database; indexes of before this was recorded have none
        "searched": None if as_database else inputs.searched,
        "ids": None if inputs.ids is None else inputs.ids.sha256,
        "metric": inputs.metric,
        "training": sample_sha256(inputs.data.train_vectors),
        "validation": sample_sha256(inputs.data.val_vectors),
        "num_training": inputs.num_training,
        "training_codes": None if training is None else store_sha256(training.store),
        "pairwise": pairwise,
        "on_disk": on_disk,
    }


def pairwise_options(
    codec: Codec, num_training: int, pairwise: bool | None, num_tables: int | None, num_list_codes: int, dtype: str
) -> dict[str, Any] | None:
    """Options of the pairwise decoder of an index; None: there is none.

    Args:
        codec: of the index.
        num_training: vectors that it would be fitted to.
        pairwise: whether there is one; None: where its tables are not too large, neither for the memory nor for the
            training vectors, unless `num_tables` asks for one.
        num_tables, num_list_codes, dtype: of `fit_pairwise`.

    Raises:
        ValueError: tables that are too large for the memory were asked for.
    """
    if pairwise is False:
        return None
    size, asked = codec.codebook_size, bool(pairwise) or num_tables is not None
    too_large = tables_too_large(2 * codec.num_steps if num_tables is None else num_tables, size, codec.dim)
    never = tables_too_large(1, size, codec.dim) is not None
    if too_large is not None and asked:
        raise ValueError(f"{too_large}: give {'' if never else 'fewer num_tables, or '}pairwise=false")
    too_many = None
    if size**2 > max(_ALWAYS_CELLS, _CELLS_PER_VECTOR * num_training):
        too_many = f"a table has {size}^2 = {size**2:,} cells, there are {num_training:,} training vectors"
    if asked or (too_large is None and too_many is None):
        return {"num_tables": num_tables, "num_list_codes": num_list_codes, "dtype": dtype}
    log.info(
        "no pairwise decoder: %s%s", too_large or too_many, "" if never else "; num_tables=N gives one of N tables"
    )
    return None
