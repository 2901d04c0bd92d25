"""`index`: from codes to an index that answers queries: decoders, lists, and the directory that holds them."""

from pathlib import Path
from typing import Any

from rich.console import Console

from qinco_lit.devices import chosen_device
from qinco_lit.options import Count, in_range
from qinco_lit.reports.search import index_table
from qinco_lit.search.build.inputs import open_inputs
from qinco_lit.search.build.job import BuildOptions, build
from qinco_lit.search.index.bundle import read_config
from qinco_lit.search.index.part_folders import part_folder


@in_range
def index(
    *,
    codec_dir: Path,
    codes: str | Path,
    data: Any,
    output: Path,
    num_steps: int | None = None,
    num_lists: int | None = None,
    centroids: Path | None = None,
    num_training: Count | None = 200_000,
    training_codes: str | Path | None = None,
    ids: str | None = None,
    pairwise: bool | None = None,
    num_tables: int | None = None,
    num_list_codes: int = 5,
    pairwise_dtype: str = "float16",
    parts: int = 1,
    part: int | None = None,
    merge: bool = True,
    on_disk: bool = False,
    device: str = "auto",
    num_threads: int | None = None,
) -> dict[str, Any] | None:
    """Build an index directory from stored codes; what an earlier call with the same arguments has finished is kept.

    Args:
        codec_dir: the codec of the codes.
        codes: a complete store, of the database.
        data: a data module (docs/architecture.md): its training and validation vectors fit the decoders.
        output: the directory; one that is there is not overwritten.
        num_steps: of the codes of each vector, the first so many; the index holds the codec cut to them. None: all.
        num_lists, centroids: of the lists of a codec that has none, as of `build_index`.
        num_training: training vectors, evenly spaced, that are encoded to fit the decoders; None: all.
        training_codes: store of the codes of the first training vectors instead: its row k is training vector k; or of
            all rows of their file, validation vectors included.
        ids: file of the ids of the vectors, one integer each, or a column of tables (`emb/*.parquet:id`); None: their
            positions in the store.
        pairwise, num_tables, num_list_codes, pairwise_dtype, parts, on_disk, num_threads: as of `build_index`.
        part: build this one only (0 to parts - 1), and stop; for machines that share the folder of the output.
        merge: the parts into one index; false: each is an index of its own in the output, with the decoders of all, for
            machines that have one part each (`qinco_lit.ray.ShardedSearcher`).
        device: of the codec and the fits: auto, cpu, cuda, cuda:1.

    Returns:
        The content of report.json; None when there was nothing to do, or only a part.

    Raises:
        FileNotFoundError: no codec, no store, or a file of the data set is missing.
        ValueError: inputs that do not belong together, impossible options, bad vectors or ids, or another process
            works on the output.
        OSError: the disk is full; what is finished is kept.
    """
    options = BuildOptions(
        pairwise=pairwise, num_tables=num_tables, num_list_codes=num_list_codes, pairwise_dtype=pairwise_dtype,
        parts=parts, part=part, merge=merge, on_disk=on_disk, num_threads=num_threads,
    )  # fmt: skip
    options.check(output)
    chosen = str(chosen_device(device))
    inputs = open_inputs(
        codec_dir,
        codes,
        data,
        num_steps=num_steps,
        num_training=num_training,
        training_codes=training_codes,
        ids=ids,
        num_lists=num_lists,
        centroids=centroids,
        device=chosen,
    )
    report = build(inputs, output, options)
    if report is not None:
        folders = [output] if merge else [part_folder(output, number) for number in range(parts)]
        files = {f"{folder}/{name}": file for folder in folders for name, file in read_config(folder)["parts"].items()}
        Console().print(index_table(report, files))
    return report
