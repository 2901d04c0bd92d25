"""What an index is made of: opened, checked to belong together, and known by its checksums."""

import hashlib
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from qinco_lit.codec import Codec
from qinco_lit.encoding.decode_file import as_codec, check_codec
from qinco_lit.search.build.coded_rows import FirstCodes, SampledRows, given_rows, sample_sha256, store_sha256
from qinco_lit.search.build.user_ids import UserIds
from qinco_lit.search.decoders.pairwise import tables_too_large
from qinco_lit.vectors import CodeStore, VectorFile, as_vectors_file, open_codes
from qinco_lit.vectors.code_info import check_centroids_reading, check_reading, input_facts
from qinco_lit.vectors.neighbours import Metric

log = logging.getLogger(__name__)

# A cell that no training vector falls into says nothing. Tables of bytes are always fitted: pairs of codes that depend
# on each other leave most cells empty, and what gains nothing is dropped.
_ALWAYS_CELLS = 256**2
_CELLS_PER_VECTOR = 4
# Lists of a plain codec where nothing is asked for: so many times the square root of the database's rows, the number
# that is recommended for 1M and for 1B rows alike, but no fewer rows to train on than these for each.
_LISTS_PER_ROOT = 4
_LEAST_ROWS_PER_LIST = 32


@dataclass(frozen=True)
class IndexData:
    """What an index takes of a data module, made of vectors that are there: `name`, `metric` and rows, as read."""

    name: str
    metric: Metric
    train_vectors: Any
    val_vectors: Any
    database: VectorFile

    @property
    def is_sampled(self) -> bool:
        """Whether training and validation vectors are rows of the database, with the codes that they have there."""
        return isinstance(self.train_vectors, SampledRows)

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.database.shape[1]

    def prepare_data(self) -> None:
        """Nothing: the vectors are there."""

    def setup(self, stage: str) -> None:
        """Nothing: the vectors are open."""


@dataclass(frozen=True)
class IndexInputs:
    """What an index is made of.

    Attributes:
        codec: of as many steps as the index has.
        whole: the codec that it was cut from, or itself: what finds codes.
        codes: of the database; None: they have to be found.
        searched: codes that the search for them is after, as far as the codec in its folder has so many steps.
        data: data module, or `IndexData`.
        database: its vectors, where codes or lists have to be found for them; None: they are not looked at.
        sampled: whether training and validation vectors are rows of the database, with the codes that they have there.
        training_codes: of the first training vectors, where they are given.
        ids: the user's own.
        num_training: vectors that the decoders are fitted to.
        num_lists: lists that k-means of the training vectors makes for a plain codec; None: `centroids` are there.
        centroids: of the lists, raw space; None until they are made.
        metric: of the index.
    """

    codec: Codec
    whole: Codec
    codes: FirstCodes | None
    searched: int
    data: Any
    database: VectorFile | None
    sampled: bool
    training_codes: FirstCodes | None
    ids: UserIds | None
    num_training: int
    num_lists: int | None
    centroids: Float32[np.ndarray, "lists dim"] | None
    metric: Metric

    @property
    def by_residual(self) -> bool:
        """Whether the codes are of what the centroids leave; those of a plain codec say all of a vector."""
        return self.codec.num_lists is not None

    @property
    def coded(self) -> FirstCodes:
        """The codes of the database, which are there by now."""
        assert self.codes is not None
        return self.codes

    @property
    def lists(self) -> Float32[np.ndarray, "lists dim"]:
        """The centroids, which are there by now."""
        assert self.centroids is not None
        return self.centroids

    @property
    def num_vectors(self) -> int:
        """Of the database."""
        if self.codes is not None:
            return len(self.codes)
        assert self.database is not None
        return len(self.database)


def open_inputs(
    codec: Codec | str | Path,
    codes: CodeStore | str | Path | None,
    data: Any,
    *,
    num_steps: int | None,
    num_training: int | None,
    training_codes: str | Path | None,
    ids: Any,
    num_lists: int | None,
    centroids: Any,
    device: str,
) -> IndexInputs:
    """Open what an index is made of, the codec on its device.

    Args:
        data: data module, or `IndexData`; the other arguments are those of `build_index`.

    Raises:
        FileNotFoundError: no codec, no store, or a file is missing.
        ValueError: inputs that do not belong together.
    """
    store = open_codes(codes) if isinstance(codes, str | Path) else codes
    if store is not None and not isinstance(store, CodeStore):
        raise ValueError(
            f"codes is of type {type(codes).__name__}: give a store, as encode_file makes, or leave codes out"
        )
    codec = as_codec(codec, device=device)
    if store is None:
        steps = _checked_steps(codec.name, codec.num_steps, num_steps)
    else:
        steps = _checked_steps(store.path, store.shape[1], num_steps)
        check_codec(store, codec, num_steps=steps)
    data.prepare_data()
    data.setup("predict")
    if data.dim != codec.dim and isinstance(data, IndexData):
        raise ValueError(f"x has dimension {data.dim}, the codec {codec.dim}")
    if data.dim != codec.dim:
        raise ValueError(f"{codec.name} encodes vectors of dimension {codec.dim}, data set {data.name} has {data.dim}")
    if store is not None:
        fix = f"encode them with `qinco encode data=CHOICE data.metric={data.metric}`"
        check_reading(f"codes={store.path}", asdict(store.info), data.database, data, fix)
    own = codec.coarse_centroids
    if own is not None and (num_lists is not None or centroids is not None):
        raise ValueError(f"{codec.name} has {len(own)} lists of its own: leave num_lists and centroids out")
    database = None
    if own is None or isinstance(data, IndexData):
        database = as_vectors_file(data.database, "database")
    if own is None:
        own, num_lists = _lists_of_plain(num_lists, centroids, database, data)
    if store is not None and database is not None:
        _check_database(
            store, database, "x" if isinstance(data, IndexData) else f"the database of data set {data.name}"
        )
    cut = codec if steps == codec.num_steps else codec.truncated(steps)
    num_rows = len(data.train_vectors)
    training = None
    if training_codes is not None:
        training = _training(training_codes, codec, cut, data, own)
        num_training = len(training)
    return IndexInputs(
        codec=cut,
        whole=codec,
        codes=None if store is None else FirstCodes(store, steps),
        searched=steps if store is None else min(_searched(store), codec.num_steps),
        data=data,
        database=database,
        sampled=isinstance(data, IndexData) and data.is_sampled,
        training_codes=training,
        ids=None if ids is None else UserIds(ids, len(data.database) if store is None else len(store)),
        num_training=min(num_rows, num_training or num_rows),
        num_lists=num_lists if cut.num_lists is None else None,
        centroids=own,
        metric=data.metric,
    )


def _checked_steps(where: Any, stored: int, num_steps: int | None) -> int:
    if num_steps is not None and not 1 <= num_steps <= stored:
        raise ValueError(f"num_steps={num_steps}: {where} has codes of {stored} steps, give 1 to {stored}")
    return num_steps or stored


def _lists_of_plain(
    num_lists: int | None, centroids: Any, database: VectorFile | None, data: Any
) -> tuple[Float32[np.ndarray, "lists dim"] | None, int | None]:
    """(centroids where they are given, the number of lists where they are not) of a codec without lists."""
    assert database is not None
    if centroids is not None:
        if num_lists is not None:
            raise ValueError("give num_lists or centroids, not both: the lists are the rows of the centroids")
        if isinstance(centroids, str | Path):
            check_centroids_reading(Path(centroids), data)
        given = np.asarray(as_vectors_file(centroids, "centroids")[:], np.float32)
        if given.shape[1] != data.dim:
            raise ValueError(f"centroids have dimension {given.shape[1]}, the vectors {data.dim}")
        if not np.isfinite(given).all():
            raise ValueError("centroids hold NaN or infinity")
        return given, None
    if num_lists is not None and num_lists < 1:
        raise ValueError(f"num_lists={num_lists}: give at least 1")
    num_rows = len(database if isinstance(data, IndexData) and data.is_sampled else data.train_vectors)
    if num_lists is None:
        wanted = round(np.log2(_LISTS_PER_ROOT * len(database) ** 0.5))
        num_lists = 1 << int(max(0, min(wanted, np.log2(max(1, num_rows // _LEAST_ROWS_PER_LIST)))))
        log.info("num_lists=%s: some %d times the square root of the vectors", f"{num_lists:,}", _LISTS_PER_ROOT)
    if num_lists > num_rows:
        raise ValueError(f"num_lists={num_lists}: there are {num_rows} training vectors, fewer than lists")
    return None, num_lists


def _check_database(store: CodeStore, database: VectorFile, name: str) -> None:
    """Refuse vectors that are not those of the codes, for which lists are found, or that decoders are fitted to."""
    facts = input_facts(database)
    if (len(database), facts["input_sample_sha256"]) != (len(store), store.info.input_sample_sha256):
        raise ValueError(
            f"{store.path} holds codes of other vectors than {name}: row k of one must be row k of the other"
        )


def _training(
    path: str | Path, whole: Codec, codec: Codec, data: Any, centroids: Float32[np.ndarray, "lists dim"] | None
) -> FirstCodes:
    """Codes that are given for the training vectors."""
    store, steps = open_codes(path), codec.num_steps
    if store.shape[1] < steps:
        raise ValueError(f"training_codes={path} has codes of {store.shape[1]} steps, the index needs {steps}")
    check_codec(store, whole, num_steps=steps)
    codes = FirstCodes(store, steps)
    given_rows(path, codes, data, centroids if codec.num_lists is not None else None).check(codec)
    return codes


def _searched(store: CodeStore) -> int:
    """Codes that the search for those of a store was after."""
    return store.info.encoded_num_steps or store.shape[1]


def warn_of_other_searches(inputs: IndexInputs) -> None:
    """Say so where training vectors have codes of a search for another number of steps than the database's."""
    if inputs.codes is None or inputs.sampled:
        return
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
            store.path, searched, inputs.whole.name, inputs.searched, steps,
        )  # fmt: skip


def job_of(inputs: IndexInputs, pairwise: dict[str, Any] | None, on_disk: bool) -> dict[str, Any]:
    """What makes two calls the same work; parts, devices and threads do not."""
    training, codes = inputs.training_codes, inputs.codes
    job: dict[str, Any] = {
        "codec": inputs.codec.identity,
        "codes": None,
        "num_vectors": inputs.num_vectors,
        "num_steps": None,
        "searched": None,
        "ids": None if inputs.ids is None else inputs.ids.sha256,
        "metric": inputs.metric,
        "training": sample_sha256(inputs.data.train_vectors),
        "validation": sample_sha256(inputs.data.val_vectors),
        "num_training": inputs.num_training,
        "training_codes": None if training is None else store_sha256(training.store),
        "pairwise": pairwise,
        "on_disk": on_disk,
    }
    if codes is None:  # found here, as the codec finds them
        assert inputs.database is not None
        job |= {"database": sample_sha256(inputs.database), "num_steps": inputs.codec.num_steps}
    else:
        store = codes.store
        as_database = training is not None or inputs.sampled or inputs.searched == _searched(store)
        job |= {
            "codes": store_sha256(store),
            "num_steps": None if codes.num_steps == store.shape[1] else codes.num_steps,
            # of the training vectors, where it is not that of the database; indexes of before this was recorded have
            # none
            "searched": None if as_database else inputs.searched,
        }
    if not inputs.by_residual:
        given = inputs.centroids
        digest = None if given is None else hashlib.sha256(np.ascontiguousarray(given).tobytes()).hexdigest()
        job["lists"] = {"num_lists": inputs.num_lists, "centroids": digest}
    return job


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
