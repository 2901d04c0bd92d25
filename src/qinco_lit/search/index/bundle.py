"""An index as a directory: faiss index, codec and decoders, each with its checksum; written whole or not at all."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Int32, Integer
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as safetensors_bytes

from qinco_lit import codec_folder
from qinco_lit.atomic import naming, put_back, replacing_directory
from qinco_lit.coarse.list_assigner import EXACT_LISTS, ListAssigner
from qinco_lit.codec import Codec
from qinco_lit.quantizers.precision import recorded_precision
from qinco_lit.search.decoders.additive import AdditiveDecoder
from qinco_lit.search.decoders.pairwise import PairwiseDecoder
from qinco_lit.search.index.faiss_index import Index, additive_codebooks, is_mapped
from qinco_lit.search.index.files import INDEX_FILE, LISTS_FILE, read_index, write_index
from qinco_lit.search.plain_scan import centroids_of
from qinco_lit.vectors.neighbours import METRICS, Metric, comparison

FORMAT = "qinco_lit index"
VERSION = 1
POSITIONS = "ids_are_positions"  # of a config: since the index was built, too
_CONFIG = "config.json"
_CODEC, _PAIRWISE, _ADDITIVE, _REPORT = "codec", "pairwise", "additive.safetensors", "report.json"
_HASHED_BYTES = 16 << 20  # read at a time


@dataclass
class Bundle:
    """The parts of an index, in memory or mapped.

    Attributes:
        codec: with lists of its own, or a plain one.
        index: IndexIVFResidualQuantizer with the codes of all vectors, of residuals to the centroids where the codec
            has lists (`by_residual`), else of whole vectors; None once a Searcher has taken it.
        additive: decoder whose codebooks the index holds.
        pairwise: decoder, where one was fitted.
        metric: l2, ip or cosine.
        config: plain values of config.json; `encoder` is the search that the codes come from, `inputs` what they were
            made of. Counts and checksums are made anew by `save`.
        report: of the job that built the index; goes into report.json.
        stays_mapped: whether a Searcher leaves lists on the disk that are mapped from it, or takes them into memory.
    """

    codec: Codec
    index: Index
    additive: AdditiveDecoder
    pairwise: PairwiseDecoder | None
    metric: Metric
    config: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    stays_mapped: bool = True

    @property
    def is_mapped(self) -> bool:
        """Whether the lists stay on the disk, and cannot be changed."""
        return is_mapped(self.index)

    @property
    def has_positions(self) -> bool:
        """Whether ids were positions when the index was built, and had stayed so when it was saved."""
        return (self.config.get("inputs") or {}).get("ids") is None and bool(self.config.get(POSITIONS, True))

    def encode(self, x: Any) -> tuple[Int32[np.ndarray, " n"], Integer[np.ndarray, "n steps"]]:
        """Lists and codes of raw vectors (n, dim), found by the same search as those in the index.

        Raises:
            ValueError: as `Codec.encode`.
        """
        search = {name: self.config.get("encoder", {}).get(name) for name in _SEARCH}
        given = None if self._assigner is None else self._assigner(np.asarray(x))
        if self.codec.num_lists is None:  # the lists are not the codec's: its codes do not depend on them
            assert given is not None
            return given, self.codec.encode(np.asarray(x), **search)
        list_ids, codes = self.codec.encode(np.asarray(x), list_ids=given, **search)
        return list_ids, codes

    @cached_property
    def _assigner(self) -> ListAssigner | None:
        """For a plain codec, and for so many lists that brute force would take most of the time."""
        coarse = faiss.downcast_index(self.index.quantizer)
        centroids = self.codec.coarse_centroids
        if centroids is not None and (len(centroids) <= EXACT_LISTS or self.codec.device.type != "cpu"):
            return None
        if centroids is None:
            centroids = centroids_of(coarse)
        # the graph of the index serves where it is by squared L2; building one takes minutes
        return ListAssigner(
            centroids, exact=len(centroids) <= EXACT_LISTS, graph=coarse if self.metric == "l2" else None
        )


_FIRST = ("format", "version", "faiss", "metric", "num_vectors")  # what a reader of config.json wants to see
_ALWAYS = (_ADDITIVE, f"{_CODEC}/{_CONFIG}", f"{_CODEC}/weights.safetensors", INDEX_FILE, _REPORT)
_OWN_CHECKSUM = "config_sha256"
_SEARCH = ("beam_size", "num_candidates", "candidate_budget")


def save(bundle: Bundle, directory: str | Path) -> None:
    """Write an index directory; it appears complete or not at all.

    A directory that holds an earlier state of this index is replaced. Lists that are mapped from a file are linked, or
    copied where the file system has no links; a file of lists is never changed after it was written.

    Raises:
        ValueError: the directory exists and is something else, or the index of another codec; the lists are taken.
        OSError: the disk is full.
    """
    target = Path(directory)
    if bundle.index is None:
        raise ValueError("a Searcher has taken the lists of this bundle: use its save")
    _check_target(target, bundle)
    with naming(target), replacing_directory(target) as temporary:
        # the codec, which may be the caller's own, does not learn of this folder
        codec_folder.write(temporary / _CODEC, bundle.codec.quantizer, bundle.codec.truncated_from)
        if bundle.pairwise is not None:
            bundle.pairwise.save(temporary / _PAIRWISE)
        codebooks = {"codebooks": np.ascontiguousarray(bundle.additive.codebooks)}
        (temporary / _ADDITIVE).write_bytes(safetensors_bytes(codebooks))
        (temporary / _REPORT).write_text(json.dumps(dict(bundle.report), indent=2) + "\n")
        write_index(bundle.index, temporary)
        facts = {**_facts(bundle, temporary), "parts": dict(_checksums(temporary))}
        config = {**{name: facts[name] for name in _FIRST}, **bundle.config, **facts}
        config[_OWN_CHECKSUM] = _config_sha256(config)
        (temporary / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load(directory: str | Path, *, mmap: bool = False, device: str = "cpu", verify: bool | None = None) -> Bundle:
    """Read an index directory.

    Args:
        directory: what `qinco index` or `save` wrote.
        mmap: leave the lists on the disk. Those built with on_disk=true always are.
        device: of the codec.
        verify: compare every file with its checksum (True), or sizes only (False); None: checksums of all but a file of
            lists, which may be far larger than the memory.

    Raises:
        FileNotFoundError: no index there, or a part is missing.
        ValueError: another format, a part that is damaged, or one that belongs to another index.
    """
    source = Path(directory)
    config = read_config(source)
    for name, record in config["parts"].items():
        _check_part(source / name, record, checksum=name != LISTS_FILE if verify is None else verify)
    encoder = recorded_precision(config.get("encoder", {}).get("precision", ""))
    precision = encoder if encoder == "bfloat16" else "auto"  # the other names all give float32's codes
    codec = Codec.load(source / _CODEC, device=device, precision=precision)
    bundle = Bundle(
        codec=codec,
        index=read_index(source, mmap=mmap),
        additive=AdditiveDecoder(_read_codebooks(source / _ADDITIVE)),
        pairwise=PairwiseDecoder.load(source / _PAIRWISE) if (source / _PAIRWISE).is_dir() else None,
        metric=config["metric"],
        config=config,
        report=json.loads((source / _REPORT).read_text()),
    )
    _check_parts_match(source, bundle)
    return bundle


def load_to_search(directory: str | Path, *, mmap: bool, device: str) -> Bundle:
    """`load` for a Searcher: lists that it takes into memory are mapped till then, and so never there twice."""
    bundle = load(directory, mmap=True, device=device)
    bundle.stays_mapped = mmap or LISTS_FILE in bundle.config["parts"]
    return bundle


def read_config(directory: Path) -> dict[str, Any]:
    """Return config.json of an index directory.

    Raises:
        FileNotFoundError: no index there.
        ValueError: another format.
    """
    put_back(directory)
    file = directory / _CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"no index in {directory}: {_CONFIG} is missing (`qinco index` writes one)")
    try:
        config: dict[str, Any] = json.loads(file.read_text())
        if not isinstance(config, dict):
            raise ValueError("it is no table of values")
        if config["format"] != FORMAT or config["version"] != VERSION:
            raise ValueError(f"format {config['format']!r} version {config['version']!r}")
        missing = {"metric", "num_vectors", "codec_sha256", "parts"} - set(config)
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))} missing")
        if config["metric"] not in METRICS:
            raise ValueError(f"metric {config['metric']!r}")
        if not isinstance(config.get("encoder", {}), dict):
            raise ValueError("encoder is no table of values")
        _check_records(config["parts"])
        if _OWN_CHECKSUM in config and config[_OWN_CHECKSUM] != _config_sha256(config):
            raise ValueError(f"it was edited, {_OWN_CHECKSUM} is another")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no index this version reads: {error}") from None
    return config


def _check_records(parts: Any) -> None:
    if not isinstance(parts, dict):
        raise ValueError("parts is no table of files")
    if missing := [name for name in _ALWAYS if name not in parts]:
        raise ValueError(f"parts lacks {', '.join(missing)}")
    for name, record in parts.items():
        if not isinstance(record, dict) or not {"bytes", "sha256"} <= set(record):
            raise ValueError(f"part {name} has no bytes and sha256")


def _config_sha256(config: Mapping[str, Any]) -> str:
    """Of all values but itself: the only thing that tells an index of unit vectors, cosine, from one of others, ip."""
    values = {name: value for name, value in config.items() if name != _OWN_CHECKSUM}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _facts(bundle: Bundle, folder: Path) -> dict[str, Any]:
    index = bundle.index
    num_steps, codebook_size, dim = bundle.additive.codebooks.shape
    return {
        "format": FORMAT,
        "version": VERSION,
        "faiss": f"IVF{index.nlist}_HNSW32,RQ{num_steps}x{index.rq.nbits.at(0)}_Nqint8",
        "metric": bundle.metric,
        "dim": dim,
        "num_vectors": int(index.ntotal),
        "num_lists": int(index.nlist),
        "num_steps": num_steps,
        "codebook_size": codebook_size,
        "codec_sha256": _codec_sha256(folder / _CODEC),
    }


def _codec_sha256(folder: Path) -> str:
    return str(json.loads((folder / _CONFIG).read_text())["weights_sha256"])


def _checksums(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            record = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            yield path.relative_to(folder).as_posix(), record


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_HASHED_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _check_part(file: Path, record: Mapping[str, Any], *, checksum: bool) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: the index is not complete")
    if (found := file.stat().st_size) != record["bytes"]:
        raise ValueError(f"{file} has {found} bytes, {record['bytes']} are expected: it is damaged or of another index")
    if checksum and _sha256(file) != record["sha256"]:
        raise ValueError(f"{file} is damaged or of another index: its SHA-256 is not that of {_CONFIG}")


def _check_target(target: Path, bundle: Bundle) -> None:
    """Refuse to replace what is not an earlier state of this index."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        config = read_config(target)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise ValueError(f"{target} exists and is no index: name another directory") from None
    there, here = config.get("inputs"), bundle.config.get("inputs")
    if there != here:
        raise ValueError(f"{target} holds another index: name another directory, or remove it")


def _check_parts_match(source: Path, bundle: Bundle) -> None:
    codec, index, config = bundle.codec, bundle.index, bundle.config
    codebooks = bundle.additive.codebooks
    found: dict[str, tuple[Any, Any, str]] = {
        "weights": (_codec_sha256(source / _CODEC)[:12], str(config["codec_sha256"])[:12], _CODEC),
        "vectors": (int(index.ntotal), config["num_vectors"], INDEX_FILE),
        "lists": (int(index.nlist), codec.num_lists or int(index.nlist), INDEX_FILE),
        "lists of residuals": (bool(index.by_residual), codec.num_lists is not None, INDEX_FILE),
        "dimension": (int(index.d), codec.dim, INDEX_FILE),
        "metric": ("l2" if index.metric_type == faiss.METRIC_L2 else "ip", comparison(bundle.metric), INDEX_FILE),
        "codebooks of shape": (codebooks.shape, (codec.num_steps, codec.codebook_size, codec.dim), _ADDITIVE),
    }
    for what, (there, expected, part) in found.items():
        if there != expected:
            raise ValueError(f"{source / part} does not fit the other parts: {what} {there}, expected {expected}")
    if int(index.rq.M) != codec.num_steps or not np.array_equal(
        additive_codebooks(index, codec.codebook_size), codebooks
    ):
        raise ValueError(
            f"{source / INDEX_FILE} does not fit the other parts: its codebooks are not those of {_ADDITIVE}"
        )
    pairwise = bundle.pairwise
    if pairwise is not None and (
        len(pairwise.list_codes) != int(index.nlist) or not np.array_equal(pairwise.additive.codebooks, codebooks)
    ):
        raise ValueError(f"{source / _PAIRWISE} does not fit the other parts: its additive decoder is not {_ADDITIVE}")


def _read_codebooks(path: Path) -> np.ndarray:
    try:
        return load_file(path)["codebooks"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} holds no additive codebooks: {' '.join(str(error).split())}") from None
