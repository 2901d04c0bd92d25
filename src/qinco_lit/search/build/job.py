"""The job of building an index: codes, lists, decoders, parts, and the directory of all of it; a kill costs little."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int64

from qinco_lit.coarse.centroids import train_centroids
from qinco_lit.coarse.list_assigner import graphs_kept
from qinco_lit.devices import threads
from qinco_lit.environment import environment
from qinco_lit.locks import check_place, only_writer
from qinco_lit.options import Count, Range, check_ranges
from qinco_lit.progress import Progress, duration
from qinco_lit.search.build.coded_rows import CodedRows, FirstCodes, SampledCodes, encode_rows, spaced_rows_file
from qinco_lit.search.build.fit import fit_decoders
from qinco_lit.search.build.inputs import IndexInputs, job_of, pairwise_options, warn_of_other_searches
from qinco_lit.search.build.plain_lists import NearestLists
from qinco_lit.search.build.work import Fit, IndexWork, remove_work
from qinco_lit.search.index import bundle as bundles
from qinco_lit.search.index.faiss_index import list_sizes
from qinco_lit.search.index.lists import fill_lists, merge_in_memory, merge_on_disk
from qinco_lit.search.index.part_folders import is_in_parts, part_folder
from qinco_lit.vectors import CodeStore, VectorFile, as_vectors_file

log = logging.getLogger(__name__)

ListSizes = Int64[np.ndarray, " lists"]

MAX_VALIDATION_ROWS = 10_000
_LISTS_FILE = "lists.ivfdata"


@dataclass(frozen=True)
class BuildOptions:
    """How an index is built; `build_index` says what each means.

    Attributes:
        part: build this range of `parts` only, and stop; for machines that share the folder of the output.
        merge: into one index; else each part is an index of its own in the output, for `qinco_lit.search.parts`.
    """

    pairwise: bool | None = None
    num_tables: Count | None = None
    num_list_codes: Annotated[int, Range(0)] = 5
    pairwise_dtype: str = "float16"
    parts: Count = 1
    part: int | None = None
    merge: bool = True
    on_disk: bool = False
    num_threads: Count | None = None
    progress: bool | None = None

    def check(self, output: Path) -> None:
        """Raise ValueError or FileNotFoundError for what can be refused without the vectors."""
        check_ranges(self)
        if self.part is not None and not 0 <= self.part < self.parts:
            raise ValueError(f"part={self.part}: parts={self.parts} are numbered 0 to {self.parts - 1}")
        if self.pairwise_dtype not in ("float32", "float16"):
            raise ValueError(f"pairwise_dtype={self.pairwise_dtype}: give float32 or float16")
        if not output.name:
            raise ValueError(f"output={output}: name a folder of its own")
        check_place(output, "output=")


def build(inputs: IndexInputs, output: Path, options: BuildOptions) -> dict[str, Any] | None:
    """Write an index directory; what an earlier call for the same work has finished is kept.

    Until it is complete the work lies in `OUTPUT.work`. The lists take one pass over the codes.

    Returns:
        The content of report.json; None when there was nothing to do, or only a part.
    """
    pairwise = pairwise_options(
        inputs.codec, inputs.num_training, options.pairwise, options.num_tables, options.num_list_codes,
        options.pairwise_dtype,
    )  # fmt: skip
    job = job_of(inputs, pairwise, options.on_disk)
    part, parts = options.part, options.parts
    # parts may be built side by side, but not beside what ends the work and removes its folder
    with only_writer(output, shared=part is not None):
        if _is_complete(output, job, None if options.merge else parts):
            return None
        warn_of_other_searches(inputs)
        work = IndexWork(output, job)
        with threads(options.num_threads), Progress("vectors", show=options.progress is not False) as progress:
            with work.alone(), graphs_kept():  # parts started together share what the first of them makes
                inputs = _with_codes_and_lists(inputs, work, options, progress)
                fit = work.fit(inputs.codec.codebook_size) or _fit(inputs, work, pairwise, options, progress)
            for number in range(parts) if part is None else [part]:
                with work.alone(number, parts):
                    _build_part(inputs, work, fit, number, parts, progress)
            if part is not None:
                _say_what_is_missing(work, part, parts)
                return None
            if options.merge:
                progress.start("joining the lists, writing the index", None)
                return _finish(inputs, work, fit, job, output, options)
            progress.start("writing the parts", None)
            return _finish_parts(inputs, work, fit, job, output, options)


def _is_complete(output: Path, job: dict[str, Any], parts: int | None) -> bool:
    """Whether the output is there already, in so many parts. Raises ValueError when it is of other work."""
    if not output.exists():
        return False
    in_parts = is_in_parts(output)
    try:
        config = bundles.read_config(part_folder(output, 0) if in_parts else output)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"output={output} exists and is no index: name another one") from None
    there, asked = config.get("inputs") or {}, {**job, "parts": parts}
    different = [name for name in asked if there.get(name) != asked[name]]
    if different:
        raise ValueError(f"output={output} is an index of other work: {', '.join(different)} differ; name another one")
    remove_work(output)  # of a job killed at its very end
    log.info("%s is complete already%s", output, "" if in_parts else f": {config['num_vectors']:,} vectors")
    return True


def _with_codes_and_lists(
    inputs: IndexInputs, work: IndexWork, options: BuildOptions, progress: Progress
) -> IndexInputs:
    """The inputs with what was not given: codes of the database, the centroids of a plain codec, its vectors' lists."""
    if inputs.codes is None:
        assert inputs.database is not None
        store = _encode(inputs, work, inputs.database, "database", options)
        inputs = replace(inputs, codes=FirstCodes(store, inputs.codec.num_steps))
    if inputs.by_residual:
        return inputs
    if inputs.centroids is None:
        assert inputs.num_lists is not None
        device = inputs.codec.device
        centroids = train_centroids(
            inputs.database if inputs.sampled else as_vectors_file(inputs.data.train_vectors, "training"),
            inputs.num_lists,
            output=work.folder / "centroids.npy",
            device=str(device) if device.type in ("cpu", "cuda") else "cpu",
            num_threads=options.num_threads,
            progress=options.progress,
        )
        inputs = replace(inputs, centroids=centroids)
    assert inputs.database is not None
    lists = NearestLists(inputs.database, inputs.lists, work.folder / "lists", progress)
    return replace(inputs, codes=FirstCodes(inputs.coded.store, inputs.coded.num_steps, lists))


def _encode(inputs: IndexInputs, work: IndexWork, vectors: VectorFile, name: str, options: BuildOptions) -> CodeStore:
    return encode_rows(
        inputs.whole,
        vectors,
        work.folder / f"{name}.h5",
        like=None if inputs.codes is None else inputs.codes.store.info,
        num_steps=inputs.searched,
        num_threads=options.num_threads,
        progress=options.progress,
    )


def _fit(
    inputs: IndexInputs, work: IndexWork, pairwise: dict[str, Any] | None, options: BuildOptions, progress: Progress
) -> Fit:
    """Find codes of training and validation vectors, and fit the decoders to them; what is there is taken."""
    began = time.monotonic()
    centroids = inputs.lists if inputs.by_residual else None

    def encoded(vectors: Any, num_rows: int, name: str) -> CodedRows:
        log.info("%s: encoding %s vectors as the database was", name, f"{num_rows:,}")
        rows = spaced_rows_file(vectors, num_rows, work.folder, name)
        store = _encode(inputs, work, rows, name, options)
        folder = work.folder / f"{name} lists"
        lists = None if inputs.by_residual else NearestLists(rows, inputs.lists, folder, progress)
        return CodedRows(rows, FirstCodes(store, inputs.coded.num_steps, lists), centroids)

    train_vectors, val_vectors = inputs.data.train_vectors, inputs.data.val_vectors
    available = len(train_vectors)
    if inputs.sampled:
        training, validation = (
            CodedRows(rows, SampledCodes(inputs.coded, rows.rows), centroids) for rows in (train_vectors, val_vectors)
        )
        available = len(inputs.coded) - len(val_vectors)
    else:
        training = (
            encoded(train_vectors, inputs.num_training, "training")
            if inputs.training_codes is None
            else CodedRows(train_vectors, _with_lists(inputs, work, progress), centroids)
        )
        if inputs.training_codes is not None:
            available = len(training)
        validation = encoded(val_vectors, min(MAX_VALIDATION_ROWS, len(val_vectors)), "validation")
    encode_s = time.monotonic() - began
    fit = fit_decoders(
        training,
        validation,
        codec=inputs.codec,
        codes=inputs.coded,
        centroids=inputs.lists,
        metric=inputs.metric,
        pairwise=pairwise,
        num_available=available,
        first=work.fit(inputs.codec.codebook_size, first=True),
        keep=partial(work.save_fit, first=True),
        progress=progress,
    )
    progress.stop()
    fit.report["seconds"] = {"training codes": encode_s, **fit.report["seconds"]}
    work.save_fit(fit)
    return fit


def _with_lists(inputs: IndexInputs, work: IndexWork, progress: Progress) -> FirstCodes:
    """Codes that are given for the training vectors, with the lists of these where the codec has none."""
    codes = inputs.training_codes
    assert codes is not None
    if inputs.by_residual:
        return codes
    rows = as_vectors_file(inputs.data.train_vectors, "training")
    lists = NearestLists(rows, inputs.lists, work.folder / "training lists", progress)
    return FirstCodes(codes.store, codes.num_steps, lists)


def _build_part(inputs: IndexInputs, work: IndexWork, fit: Fit, part: int, parts: int, progress: Progress) -> None:
    if work.part_record(part, parts) is not None:
        log.info("part=%d is complete already", part)
        return
    total = len(inputs.coded)
    start, stop = part * total // parts, (part + 1) * total // parts
    began = time.monotonic()
    what = "lists" if parts == 1 else f"lists, part={part} of parts={parts}"
    progress.start(what, stop - start, unit="vectors")
    fill_lists(
        fit.index,
        inputs.coded,
        start,
        stop,
        codebook_size=inputs.codec.codebook_size,
        ids=inputs.ids,
        progress=progress.advance,
    )
    work.save_part(part, parts, fit.index, time.monotonic() - began)
    fit.index.reset()


def _say_what_is_missing(work: IndexWork, part: int, parts: int) -> None:
    """Log how many parts are complete after this one, and which are not."""
    missing = [number for number in range(parts) if work.part_record(number, parts) is None]
    if not missing:
        log.info("all %d parts are complete: the same command without part= ends the work", parts)
        return
    first = [number for number in missing if number - 1 not in missing]
    last = [number for number in missing if number + 1 not in missing]
    runs = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in zip(first, last, strict=True))
    log.info(
        "part=%d is complete, with it %d of %d parts; missing: part=%s; when %s, the same command without part= ends "
        "the work", part, parts - len(missing), parts, runs, "it is" if len(missing) == 1 else "they are",
    )  # fmt: skip


def _finish(
    inputs: IndexInputs, work: IndexWork, fit: Fit, job: dict[str, Any], output: Path, options: BuildOptions
) -> dict[str, Any]:
    """Merge the parts, write the bundle, and say what it is."""
    began = time.monotonic()
    _merge(work, fit, range(options.parts), options)
    assert fit.index.ntotal == len(inputs.coded)
    report = _report(inputs, work, fit, options, list_sizes(fit.index), began)
    work.publish(output, lambda folder: bundles.save(_bundle(inputs, fit, options, job, report), folder))
    _say_what_is_there(output, report)
    return report


def _finish_parts(
    inputs: IndexInputs, work: IndexWork, fit: Fit, job: dict[str, Any], output: Path, options: BuildOptions
) -> dict[str, Any]:
    """Write each part as an index with the decoders of all; the report of all together."""
    began, sizes = time.monotonic(), []

    def save(folder: Path) -> None:
        for part in range(options.parts):
            _merge(work, fit, [part], options)
            sizes.append(list_sizes(fit.index))
            own = {**job, "part": part, "parts": options.parts}
            report = _report(inputs, work, fit, options, sizes[-1], began)
            bundles.save(_bundle(inputs, fit, options, own, report), part_folder(folder, part))

    work.publish(output, save)
    report = _report(inputs, work, fit, options, np.sum(sizes, axis=0), began)
    _say_what_is_there(output, report)
    return report


def _merge(work: IndexWork, fit: Fit, parts: Sequence[int], options: BuildOptions) -> None:
    """Give these parts' lists to the index."""
    files = [work.part_file(part, options.parts) for part in parts]
    if options.on_disk:
        merge_on_disk(fit.index, files, work.folder / f"{parts[0]}-{_LISTS_FILE}")
    else:
        merge_in_memory(fit.index, files)


def _bundle(
    inputs: IndexInputs, fit: Fit, options: BuildOptions, job: dict[str, Any], report: dict[str, Any]
) -> bundles.Bundle:
    info = inputs.coded.store.info
    encoder = {name: getattr(info, name) for name in ("beam_size", "num_candidates", "candidate_budget", "precision")}
    config = {"encoder": encoder, "on_disk": options.on_disk, "inputs": job}
    return bundles.Bundle(inputs.codec, fit.index, fit.additive, fit.pairwise, inputs.metric, config, report)


def _report(
    inputs: IndexInputs, work: IndexWork, fit: Fit, options: BuildOptions, sizes: ListSizes, began: float
) -> dict[str, Any]:
    """What report.json holds of lists of these sizes, whose writing began then."""
    records = [work.part_record(part, options.parts) for part in range(options.parts)]
    seconds = {
        **fit.report["seconds"],
        "lists": sum(record["seconds"] for record in records if record is not None),
        "merge": time.monotonic() - began,
    }
    figures = _figures(inputs, fit, sizes)
    return {**figures, **fit.report, "seconds": seconds, "parts": options.parts, **environment()}


def _say_what_is_there(output: Path, report: dict[str, Any]) -> None:
    log.info("%s: %s vectors, in %s", output, f"{report['num_vectors']:,}", duration(sum(report["seconds"].values())))


def _figures(inputs: IndexInputs, fit: Fit, sizes: ListSizes) -> dict[str, Any]:
    num_vectors, codes = int(sizes.sum()), -(-inputs.codec.bits_per_vector // 8)
    return {
        "num_vectors": num_vectors,
        "num_lists": len(sizes),
        "empty_lists": int((sizes == 0).sum()),
        "longest_list": int(sizes.max()),
        "metric": inputs.metric,
        "bytes": {
            "per_vector": {"codes": codes, "norm": int(fit.index.code_size) - codes, "id": 8},
            "lists": num_vectors * (int(fit.index.code_size) + 8),
            "centroids": int(inputs.lists.nbytes),
            "pairwise": 0 if fit.pairwise is None else int(fit.pairwise.num_bytes),
        },
    }
