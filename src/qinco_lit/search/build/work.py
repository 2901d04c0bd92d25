"""The work folder of an index that is being built: what the job is, the decoders, the parts of the lists."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import faiss

from qinco_lit.atomic import naming, replacing_directory, write_atomically
from qinco_lit.locks import locked
from qinco_lit.search.decoders.additive import AdditiveDecoder
from qinco_lit.search.decoders.pairwise import PairwiseDecoder
from qinco_lit.search.index.faiss_index import Index, additive_codebooks
from qinco_lit.search.index.lists import faiss_file_errors, write_lists

_JOB, _EMPTY, _REPORT, _PAIRWISE = "job.json", "empty.faiss", "report.json", "pairwise"
_FIT, _FIRST_FIT = "fit", "additive"  # with all decoders, and before the pairwise one
_ID = "id.txt"  # of a fit: parts made with another one are made again


@dataclass
class Fit:
    """What is fitted before lists are built.

    Attributes:
        index: without vectors; it holds the additive codebooks.
        additive, pairwise: the decoders; the first fit has no pairwise one yet.
        report: figures of the fits, plain values.
    """

    index: Index
    additive: AdditiveDecoder
    pairwise: PairwiseDecoder | None
    report: dict[str, Any]


class IndexWork:
    """`OUTPUT.work`: every file in it appears whole, so that a killed job goes on with what is there.

    Args:
        output: of the job.
        job: plain values that say what it is; work on another job is refused.

    Raises:
        ValueError: the folder is of another job, or no work folder.
    """

    def __init__(self, output: Path, job: Mapping[str, Any]) -> None:
        self.folder = work_folder(output)
        file = self.folder / _JOB
        is_other = self.folder.exists() and any(path.suffix != ".tmp" for path in self.folder.iterdir())
        if file.is_file():  # asked last: another part may begin at this moment
            there = json.loads(file.read_text())
            different = [name for name in job if there.get(name) != job[name]]
            if different:
                raise ValueError(
                    f"{self.folder} belongs to other work: {', '.join(different)} differ; name another output=, "
                    "or remove the folder"
                )
        elif is_other:
            raise ValueError(f"{self.folder} exists and is no work folder of an index: name another output=")
        write_atomically(file, json.dumps(job, indent=2) + "\n")

    def alone(self, part: int | None = None, parts: int = 1) -> AbstractContextManager[bool]:
        """Wait until no other process fits the decoders, or builds a part, inside such a block; keep them out."""
        what = "fits the decoders" if part is None else f"builds part={part} of parts={parts}"
        name = "fit" if part is None else self.part_file(part, parts).stem
        return locked(
            self.folder / f"{name}.lock", busy=f"another process {what} in {self.folder}: waiting for it", wait=True
        )

    def fit(self, codebook_size: int, *, first: bool = False) -> Fit | None:
        """Return the decoders, or the first of them; None where they are not fitted yet."""
        folder = self.folder / (_FIRST_FIT if first else _FIT)
        if not folder.is_dir():
            return None
        with faiss_file_errors(folder / _EMPTY):
            index = faiss.read_index(str(folder / _EMPTY))
        assert isinstance(index, faiss.IndexIVFResidualQuantizer)
        pairwise = PairwiseDecoder.load(folder / _PAIRWISE) if (folder / _PAIRWISE).is_dir() else None
        report = json.loads((folder / _REPORT).read_text())
        return Fit(index, AdditiveDecoder(additive_codebooks(index, codebook_size)), pairwise, report)

    def save_fit(self, fit: Fit, *, first: bool = False) -> None:
        """Keep the decoders, or the first of them until there are all."""
        folder = self.folder / (_FIRST_FIT if first else _FIT)
        with naming(folder), replacing_directory(folder) as temporary:
            with faiss_file_errors(folder / _EMPTY):
                faiss.write_index(fit.index, str(temporary / _EMPTY))
            if fit.pairwise is not None:
                fit.pairwise.save(temporary / _PAIRWISE)
            (temporary / _REPORT).write_text(json.dumps(fit.report, indent=2) + "\n")
            (temporary / _ID).write_text(uuid4().hex)

    def part_file(self, part: int, parts: int) -> Path:
        """The file of the lists of a part."""
        return self.folder / "parts" / f"part-{part:05d}-of-{parts:05d}.lists"

    def part_record(self, part: int, parts: int) -> dict[str, Any] | None:
        """Return what is known of a finished part; None for one that is not, or was made with other decoders."""
        file = self.part_file(part, parts)
        try:
            record: dict[str, Any] = json.loads(file.with_suffix(".json").read_text())
            finished = record["bytes"] == file.stat().st_size and record["fit"] == self._fit_id()
        except (OSError, ValueError, KeyError):
            return None
        return record if finished else None

    def save_part(self, part: int, parts: int, index: Index, seconds: float) -> None:
        """Write the lists of the index as a part; its record, which closes it, comes last."""
        file = self.part_file(part, parts)
        file.parent.mkdir(exist_ok=True)
        write_lists(index, file)
        record = {
            "rows": int(index.ntotal),
            "bytes": file.stat().st_size,
            "fit": self._fit_id(),
            "seconds": seconds,
        }
        write_atomically(file.with_suffix(".json"), json.dumps(record) + "\n")

    def _fit_id(self) -> str:
        return (self.folder / _FIT / _ID).read_text()

    def publish(self, output: Path, save: Callable[[Path], None]) -> None:
        """Let `save` write the result into this folder, give it its name, and remove the folder."""
        finished = self.folder / "bundle"
        if finished.exists():  # of a job killed just before this one would rename it
            shutil.rmtree(finished)
        save(finished)
        finished.rename(output)
        remove_work(output)


def work_folder(output: Path) -> Path:
    """The work folder of an output."""
    return output.with_name(f"{output.name}.work")


def remove_work(output: Path) -> None:
    """Remove the work folder, its manifest last: until then it is known for what it is."""
    folder = work_folder(output)
    if not (folder / _JOB).is_file():
        return
    for path in _but(folder, _JOB):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / _JOB).unlink()
    folder.rmdir()


def _but(folder: Path, name: str) -> Iterator[Path]:
    return (path for path in list(folder.iterdir()) if path.name != name)
