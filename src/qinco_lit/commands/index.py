"""`index`: from codes to an index that answers queries: decoders, lists, and the directory that holds them."""

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from qinco_lit.devices import chosen_device
from qinco_lit.encoding.progress import duration
from qinco_lit.environment import environment
from qinco_lit.locks import only_writer
from qinco_lit.reports.search import index_table
from qinco_lit.search.build.fit import fit_decoders
from qinco_lit.search.build.inputs import Inputs, job_of, open_inputs, pairwise_options, warn_of_other_searches
from qinco_lit.search.build.progress import lines_of_progress, say_what_is_missing
from qinco_lit.search.build.training_codes import CodedRows, encoded_rows
from qinco_lit.search.build.work import Fit, IndexWork, remove_work
from qinco_lit.search.index import bundle as bundles
from qinco_lit.search.index.faiss_index import list_sizes
from qinco_lit.search.index.lists import fill_lists, merge_in_memory, merge_on_disk
from qinco_lit.threads import threads

log = logging.getLogger(__name__)

MAX_VALIDATION_ROWS = 10_000
_LISTS_FILE = "lists.ivfdata"


def index(
    *,
    codec_dir: Path,
    codes: Path,
    data: Any,
    output: Path,
    num_steps: int | None = None,
    num_training: int | None = 200_000,
    training_codes: Path | None = None,
    ids: Path | None = None,
    pairwise: bool | None = None,
    num_tables: int | None = None,
    num_list_codes: int = 5,
    pairwise_dtype: str = "float16",
    parts: int = 1,
    part: int | None = None,
    on_disk: bool = False,
    device: str = "auto",
    num_threads: int | None = None,
) -> dict[str, Any] | None:
    """Build an index directory from stored codes; what an earlier call with the same arguments has finished is kept.

    Until it is complete the work lies in `OUTPUT.work`. The lists take one pass over the codes.

    Args:
        codec_dir: the codec of the codes; it has lists.
        codes: a complete store, of the database.
        data: a data module (docs/architecture.md): its training and validation vectors fit the decoders.
        output: the directory; one that is there is not overwritten.
        num_steps: of the codes of each vector, the first so many; the index holds the codec cut to them. None: all.
        num_training: training vectors, evenly spaced, that are encoded to fit the decoders; None: all.
        training_codes: store of the codes of the first training vectors instead: its row k is training vector k; or of
            all rows of their file, validation vectors included.
        ids: file of the ids of the vectors, one integer each; None: their positions in the store.
        pairwise: fit a pairwise decoder; None: where its tables, codebook_size^2 rows each, are not too large, neither
            for the memory nor for the training vectors.
        num_tables: of the pairwise decoder; None: twice the number of steps.
        num_list_codes: codes of a list id in it.
        pairwise_dtype: of its tables: float32 or float16.
        parts: row ranges whose lists are built one after the other, each kept when it is complete.
        part: build this one only (0 to parts - 1), and stop; for machines that share the folder of the output.
        on_disk: leave the lists in a file that is mapped into memory; takes the memory of one part.
        device: of the codec and the fits: auto, cpu, cuda, cuda:1.
        num_threads: of torch and faiss; None: as many as each takes by itself, all cores.

    Returns:
        The content of report.json; None when there was nothing to do, or only a part.

    Raises:
        FileNotFoundError: no codec, no store, or a file of the data set is missing.
        ValueError: inputs that do not belong together, impossible options, bad vectors or ids, or another process
            works on the output.
        OSError: the disk is full; what is finished is kept.
    """
    _check_options(output, num_training, parts, part, num_threads, num_tables, num_list_codes, pairwise_dtype)
    chosen = str(chosen_device(device))
    inputs = open_inputs(codec_dir, codes, data, num_steps, num_training, training_codes, ids, chosen)
    options = pairwise_options(inputs.codec, inputs.num_training, pairwise, num_tables, num_list_codes, pairwise_dtype)
    job = job_of(inputs, options, on_disk)
    # parts may be built side by side, but not beside what ends the work and removes its folder
    with only_writer(output, shared=part is not None):
        if _is_complete(output, job):
            return None
        warn_of_other_searches(inputs)
        work = IndexWork(output, job)
        with threads(num_threads):
            fit = work.fit(inputs.codec.codebook_size)
            if fit is None:
                with work.alone():  # parts that are started together share what the first of them fits
                    fit = _fit(inputs, work, options, chosen, num_threads)
            for number in range(parts) if part is None else [part]:
                with work.alone(number, parts):
                    _build_part(inputs, work, fit, number, parts)
            if part is not None:
                say_what_is_missing(work, part, parts)
                return None
            return _finish(inputs, work, fit, job, output, parts, on_disk)


def _is_complete(output: Path, job: dict[str, Any]) -> bool:
    """Whether the output is there already. Raises ValueError when it is of other work."""
    if not output.exists():
        return False
    try:
        config = bundles.read_config(output)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"output={output} exists and is no index: name another one") from None
    there = config.get("inputs") or {}
    different = [name for name in job if there.get(name) != job[name]]
    if different:
        raise ValueError(f"output={output} is an index of other work: {', '.join(different)} differ; name another one")
    remove_work(output)  # of a job killed at its very end
    log.info("%s is complete already: %s vectors", output, f"{config['num_vectors']:,}")
    return True


def _fit(inputs: Inputs, work: IndexWork, pairwise: dict[str, Any] | None, device: str, num_threads: int | None) -> Fit:
    """Encode training and validation vectors, and fit the decoders to their codes; what is there is taken."""
    fit = work.fit(inputs.codec.codebook_size)
    if fit is not None:  # of another process, which this one has waited for
        return fit
    began = time.monotonic()

    def encoded(vectors: Any, num_rows: int, name: str) -> CodedRows:
        log.info("%s: encoding %s vectors as the database was", name, f"{num_rows:,}")
        return encoded_rows(
            vectors,
            num_rows,
            work.folder,
            name,
            codec_dir=inputs.codec_dir,
            like=inputs.codes.store.info,
            searched=inputs.searched,
            num_steps=inputs.codes.num_steps,
            centroids=inputs.centroids,
            device=device,
            num_threads=num_threads,
        )

    train_vectors, val_vectors = inputs.data.train_vectors, inputs.data.val_vectors
    if inputs.training_codes is None:
        training = encoded(train_vectors, inputs.num_training, "training")
    else:
        training = CodedRows(train_vectors, inputs.training_codes, inputs.centroids)
    validation = encoded(val_vectors, min(MAX_VALIDATION_ROWS, len(val_vectors)), "validation")
    encode_s = time.monotonic() - began
    fit = fit_decoders(
        training,
        validation,
        codec=inputs.codec,
        codes=inputs.codes,
        centroids=inputs.centroids,
        metric=inputs.metric,
        pairwise=pairwise,
        num_available=len(train_vectors if inputs.training_codes is None else training),
        first=work.fit(inputs.codec.codebook_size, first=True),
        keep=partial(work.save_fit, first=True),
    )
    fit.report["seconds"] = {"training codes": encode_s, **fit.report["seconds"]}
    work.save_fit(fit)
    return fit


def _build_part(inputs: Inputs, work: IndexWork, fit: Fit, part: int, parts: int) -> None:
    if work.part_record(part, parts) is not None:
        log.info("part=%d is complete already", part)
        return
    total = len(inputs.codes)
    start, stop = part * total // parts, (part + 1) * total // parts
    began = time.monotonic()
    fill_lists(
        fit.index,
        inputs.codes,
        start,
        stop,
        codebook_size=inputs.codec.codebook_size,
        ids=inputs.ids,
        progress=lines_of_progress(stop - start, "lists" if parts == 1 else f"lists, part={part} of parts={parts}"),
    )
    work.save_part(part, parts, fit.index, time.monotonic() - began)
    fit.index.reset()


def _finish(
    inputs: Inputs, work: IndexWork, fit: Fit, job: dict[str, Any], output: Path, parts: int, on_disk: bool
) -> dict[str, Any]:
    """Merge the parts, write the bundle, and say what it is."""
    began = time.monotonic()
    records = [work.part_record(part, parts) for part in range(parts)]
    files = [work.part_file(part, parts) for part in range(parts)]
    if on_disk:
        merge_on_disk(fit.index, files, work.folder / _LISTS_FILE)
    else:
        merge_in_memory(fit.index, files)
    assert fit.index.ntotal == len(inputs.codes)
    seconds = {
        **fit.report["seconds"],
        "lists": sum(record["seconds"] for record in records if record is not None),
        "merge": time.monotonic() - began,
    }
    report = {**_figures(inputs, fit), **fit.report, "seconds": seconds, "parts": parts, **environment()}
    info = inputs.codes.store.info
    encoder = {name: getattr(info, name) for name in ("beam_size", "num_candidates", "candidate_budget", "precision")}
    config = {"encoder": encoder, "on_disk": on_disk, "inputs": job}
    bundle = bundles.Bundle(inputs.codec, fit.index, fit.additive, fit.pairwise, inputs.metric, config, report)
    work.publish(output, lambda folder: bundles.save(bundle, folder))
    Console().print(index_table(report, bundles.read_config(output)["parts"]))
    log.info("%s: %s vectors, in %s", output, f"{len(inputs.codes):,}", duration(sum(seconds.values())))
    return report


def _figures(inputs: Inputs, fit: Fit) -> dict[str, Any]:
    sizes = list_sizes(fit.index)
    num_vectors, codes = int(fit.index.ntotal), -(-inputs.codec.bits_per_vector // 8)
    return {
        "num_vectors": num_vectors,
        "num_lists": len(sizes),
        "empty_lists": int((sizes == 0).sum()),
        "longest_list": int(sizes.max()),
        "metric": inputs.metric,
        "bytes": {
            "per_vector": {"codes": codes, "norm": int(fit.index.code_size) - codes, "id": 8},
            "lists": num_vectors * (int(fit.index.code_size) + 8),
            "centroids": int(inputs.centroids.nbytes),
            "pairwise": 0 if fit.pairwise is None else int(fit.pairwise.num_bytes),
        },
    }


def _check_options(
    output: Path,
    num_training: int | None,
    parts: int,
    part: int | None,
    num_threads: int | None,
    num_tables: int | None,
    num_list_codes: int,
    pairwise_dtype: str,
) -> None:
    counts = {"num_training": num_training, "parts": parts, "num_threads": num_threads, "num_tables": num_tables}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    if num_list_codes < 0:
        raise ValueError(f"num_list_codes={num_list_codes}: give at least 0")
    if part is not None and not 0 <= part < parts:
        raise ValueError(f"part={part}: parts={parts} are numbered 0 to {parts - 1}")
    if pairwise_dtype not in ("float32", "float16"):
        raise ValueError(f"pairwise_dtype={pairwise_dtype}: give float32 or float16")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"output={output}: the folder {output.parent} does not exist; make it first")
