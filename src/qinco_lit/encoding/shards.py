"""The folder of shards of an encoding job: what is finished, what is to do, and how it becomes one store."""

import json
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from qinco_lit.atomic import full_disk_code, replacing, write_atomically
from qinco_lit.locks import check_local
from qinco_lit.mistakes import in_one_line, users_mistake
from qinco_lit.vectors.code_info import CodeInfo, RowsDigest, StoredRows
from qinco_lit.vectors.code_store import CodeFiles, CodeStore, check_shard_file, open_codes, shard_name
from qinco_lit.vectors.code_tables import MissingPartError, Part, is_table_store, write_parts
from qinco_lit.vectors.code_writer import CodeWriter, ShardRecord, virtual_store
from qinco_lit.vectors.layout import HDF5_SUFFIXES, PARQUET_SUFFIX

_MANIFEST = "manifest.json"
# A kill costs a rank the shard it works on: at most a 64th of the rows, or a million (minutes on a GPU); but no shard
# has so few rows that its header counts, or that small jobs become heaps of files.
_MIN_SHARD_ROWS, _MAX_SHARD_ROWS, _SHARDS_PER_JOB = 1 << 16, 1 << 20, 64


def default_shard_rows(num_rows: int) -> int:
    """Rows per shard for a job of so many rows: a multiple of 65,536, at most 1,048,576."""
    steps = -(-num_rows // (_SHARDS_PER_JOB * _MIN_SHARD_ROWS))
    return min(steps * _MIN_SHARD_ROWS, _MAX_SHARD_ROWS)


class OtherRankFailedError(Exception):
    """Another rank of the job has failed and said why; there is no use in going on."""


class ShardFolder:
    """`OUTPUT.shards`: `manifest.json` says what the job is, `shard-00000.h5` holds rows, `shard-00000.json` closes it.

    Every file appears whole under its name. A shard is finished when its json is there: that is written last, with the
    size of the shard's file and the checksum of its rows. Ranks know of each other's work by these files only.
    """

    def __init__(self, output: Path | str, info: CodeInfo) -> None:
        self.output, self.info = output, info
        self.folder = folder_of(output)

    @classmethod
    def open(cls, output: Path | str) -> "ShardFolder | None":
        """Open the shards of an output; None when there are none. Raises ValueError for a foreign folder."""
        manifest = folder_of(output) / _MANIFEST
        if not manifest.is_file():
            # but for the manifest that another rank is about to write
            if manifest.parent.exists() and not all(path.suffix == ".tmp" for path in manifest.parent.iterdir()):
                raise ValueError(f"{manifest.parent} exists and holds no shards of codes: name another output")
            return None
        try:
            return cls(output, CodeInfo.from_values(json.loads(manifest.read_text())))
        except ValueError as error:
            raise ValueError(f"{manifest}: {error}: name another output") from None

    @property
    def command(self) -> str:
        """What makes such shards and goes on with them, to be put between backquotes.

        A store that `qinco truncate` cuts to all of its steps is the same work as the encoding, and has its manifest.
        """
        return "qinco encode` or `qinco truncate" if self.info.encoded_num_steps is None else "qinco truncate"

    def create(self) -> None:
        """Write the manifest. Ranks that start at the same time write the same."""
        write_atomically(self.folder / _MANIFEST, json.dumps(self.info.to_values(), indent=2) + "\n")

    def file(self, shard: int) -> Path:
        """The HDF5 file of a shard."""
        return self.folder / shard_name(shard)

    def _record_file(self, shard: int) -> Path:
        return self.file(shard).with_suffix(".json")

    def record(self, shard: int) -> ShardRecord | None:
        """Size and checksum of a finished shard; None for another one, or one whose file has not that size."""
        try:
            values = json.loads(self._record_file(shard).read_text())
            record = ShardRecord(int(values["file_bytes"]), str(values["sha256"]))
            check_shard_file(self.file(shard), record)
        except (OSError, ValueError, KeyError):
            return None
        return record

    def finished(self) -> set[int]:
        """Return the shards that are finished, by whichever rank."""
        names = (entry.name for entry in os.scandir(self.folder))
        numbers = [name.removeprefix("shard-").removesuffix(".json") for name in names if name.endswith(".json")]
        return {int(number) for number in numbers if number.isdigit()}

    def num_rows(self, shards: Iterable[int]) -> int:
        """Rows that these shards have together."""
        return sum(stop - start for start, stop in map(self.info.shard_range, shards))

    def verify(self, shard: int) -> None:
        """Compare a finished shard with its checksum. Raises ValueError when it is damaged."""
        record = self.record(shard)
        if record is None:
            raise ValueError(f"{self.file(shard)}: shard {shard} is damaged: it has not the size it was written with")
        self._reader().verify_shard(shard, record)

    def _reader(self) -> CodeStore:
        files = [str(self.file(shard).absolute()) for shard in range(self.info.num_shards)]
        return CodeStore(str(self.folder), self.info, [], CodeFiles(files, self.info))

    def unfinished(self, rank: int, num_ranks: int) -> list[int]:
        """Return this rank's shards that are to be encoded: each num_ranks-th, without those finished and undamaged.

        The record of a damaged one is taken away, so that no rank takes it for finished.
        """
        to_do = []
        for shard in range(rank, self.info.num_shards, num_ranks):
            if self._record_file(shard).exists():
                try:
                    self.verify(shard)
                    continue
                except ValueError:
                    self._record_file(shard).unlink(missing_ok=True)
            to_do.append(shard)
        return to_do

    @contextmanager
    def writing(self, shard: int) -> Iterator["ShardWriter"]:
        """Take the rows of a shard inside the block; it is finished when the block ends without an exception.

        Raises OSError, one line, when the disk is full; nothing of this shard is left then.
        """
        _remove_temporary(self.folder, f".{self.file(shard).name}.")
        start, stop = self.info.shard_range(shard)
        try:
            with replacing(self.file(shard)) as temporary:
                with CodeWriter(temporary, self.info, stop - start) as writer:
                    rows = ShardWriter(writer)
                    yield rows
                file_bytes = temporary.stat().st_size
            values = {"rows": stop - start, "file_bytes": file_bytes, "sha256": rows.digest.hexdigest()}
            write_atomically(self._record_file(shard), json.dumps(values) + "\n")
        except (OSError, RuntimeError) as error:
            self._explain(error, self.file(shard))

    def _explain(self, error: OSError | RuntimeError, file: Path | str) -> None:
        """Raise the error again, in one line when the disk is full or another job has taken the file away."""
        code = full_disk_code(error)
        if code is not None:
            raise OSError(
                code, f"{file}: {os.strerror(code)}; {self._kept()}: free some space and run the same command again"
            ) from None
        if isinstance(error, FileNotFoundError) and str(error.filename).startswith(str(file)):
            raise FileNotFoundError(
                f"{file}: its temporary file is gone: does another process write to {self.output}? Run one at a time"
            ) from None
        raise error

    def records(self) -> list[ShardRecord]:
        """Return the records of all shards. Raises ValueError when one is missing."""
        found = [self.record(shard) for shard in range(self.info.num_shards)]
        if None in found:
            done = [shard for shard, record in enumerate(found) if record is not None]
            raise ValueError(
                f"{self.output} is not complete: {len(done)} of {len(found)} shards are finished "
                f"({self.num_rows(done)} of {self.info.num_rows} rows); run the same `{self.command}` again"
            )
        return [record for record in found if record is not None]

    def join(self) -> None:
        """Write the store whose rows stay in the shards. Raises ValueError when a shard is missing."""
        self._remove_stale()
        assert isinstance(self.output, Path)  # of HDF5
        sources = [f"{self.folder.name}/{shard_name(shard)}" for shard in range(self.info.num_shards)]
        try:
            write_atomically(self.output, virtual_store(self.info, sources, self.records()))
        except OSError as error:
            self._explain(error, self.output)

    def merge(self) -> None:
        """Write the store as one file and remove the shards. Raises ValueError for one that is missing or damaged."""
        self._remove_stale()
        assert isinstance(self.output, Path)  # of HDF5
        records = self.records()
        reader, num_rows = self._reader(), self.info.num_rows
        try:
            with replacing(self.output) as temporary, CodeWriter(temporary, self.info, num_rows, records) as writer:
                for shard, record in enumerate(records):
                    for rows in reader.checked_batches(shard, record):
                        writer.append(rows)
        except (OSError, RuntimeError) as error:
            self._explain(error, self.output)
        self.remove()

    def write_tables(self, parts: Sequence[Part], id_name: str | None) -> None:
        """Write the store as Parquet and remove the shards. Raises ValueError for one that is missing or damaged."""
        self._remove_stale()
        reader = self._reader()
        for shard, record in enumerate(self.records()):
            reader.verify_shard(shard, record)
        try:
            write_parts(parts, self.info, reader.stored, id_name, self.folder)
        except (OSError, RuntimeError) as error:
            if isinstance(self.output, str) and full_disk_code(error) is None:  # the server's, or of the vectors' files
                raise OSError(f"{error}; {self._kept()} in {self.folder}: run the same command again") from None
            self._explain(error, self.output)
        self.remove()

    def _kept(self) -> str:
        return f"{self.num_rows(self.finished())} of {self.info.num_rows} rows are finished and kept"

    def _remove_stale(self) -> None:
        """Remove what processes that were killed have left, once no rank writes shards any more."""
        _remove_temporary(self.folder, ".")
        if isinstance(self.output, str):
            return
        _remove_temporary(self.output.parent, f".{self.output.name}.")
        if self.output.is_dir():
            _remove_temporary(self.output, ".")

    def remove(self) -> None:
        """Remove the folder, the manifest last: until then it is known for what it is."""
        for file in self.folder.iterdir():
            if file.name != _MANIFEST:
                file.unlink()
        (self.folder / _MANIFEST).unlink(missing_ok=True)
        self.folder.rmdir()

    def report_failure(self, rank: int, error: BaseException) -> None:
        """Tell the other ranks that this one has failed, unless one has before."""
        message = str(error)
        if users_mistake(error) is None:
            cause = error.__context__ if isinstance(error, SystemExit) and error.__context__ else error  # Lightning's
            message = f"rank {rank} failed: {type(cause).__name__}: {in_one_line(cause)}"
        if not self._failure_file.exists():
            with suppress(OSError):  # a disk so full that not even this fits: the error itself is what counts
                write_atomically(self._failure_file, json.dumps({"rank": rank, "message": message}) + "\n")

    def check_failure(self) -> None:
        """Raise OtherRankFailedError with the message of a rank that has failed."""
        if self._failure_file.exists():
            raise OtherRankFailedError(str(json.loads(self._failure_file.read_text())["message"]))

    def forget_failure(self, before: float) -> None:
        """Remove what a rank has left before that time (Unix, s): another rank of this run may have failed since."""
        with suppress(FileNotFoundError):
            if self._failure_file.stat().st_mtime < before:
                self._failure_file.unlink()

    @property
    def _failure_file(self) -> Path:
        return self.folder / "failure.json"


class ShardWriter:
    """Rows on their way into a shard."""

    def __init__(self, writer: CodeWriter) -> None:
        self._writer, self.digest = writer, RowsDigest()

    def append(self, rows: StoredRows) -> None:
        """Write the next rows."""
        self.digest.add(rows)
        self._writer.append(rows)


def _remove_temporary(folder: Path, prefix: str) -> None:
    for path in folder.iterdir():
        if path.name.startswith(prefix) and path.suffix == ".tmp":
            path.unlink(missing_ok=True)


def local_name(output: Path | str) -> Path:
    """What the work on a store is called here: its path; of a url the last name, in the working directory."""
    return Path(posixpath.basename(output)) if isinstance(output, str) else output


def folder_of(output: Path | str) -> Path:
    """The folder of the shards of a store."""
    name = local_name(output)
    return name.with_name(f"{name.name}.shards")


def finished_store(output: Path | str) -> CodeStore | None:
    """Open a store that is complete; None where there is none, or where a shard must be encoded again.

    Raises:
        ValueError: a file of that name that is no store.
    """
    if isinstance(output, Path) and (
        not output.exists() or (output.is_dir() and not any(output.glob(f"*{PARQUET_SUFFIX}")))
    ):
        return None
    try:
        return open_codes(output)
    except (FileNotFoundError, ValueError) as error:
        # a url may be gone on with by another machine, which has no shards: `claim` tells whether it is its work
        is_begun = isinstance(output, str) and isinstance(error, FileNotFoundError | MissingPartError)
        if not is_begun and ShardFolder.open(output) is None:
            raise
        return None


def check_same(place: Path | str, known: CodeInfo, info: CodeInfo, *, option: str = "output=") -> None:
    """Raise ValueError unless what lies at a place and the work to do are the same; `option` names the output."""
    differences = list(known.differences(info))
    if differences:
        raise ValueError(
            f"{place} belongs to other work: {', '.join(differences)}; name another {option}, or remove it"
        )


def check_output(output: Path | str, *, option: str = "output=", only_hdf5: bool = False) -> None:
    """Raise ValueError or FileNotFoundError unless a store can be written under this name, given as `option`."""
    if isinstance(output, str):
        if not is_table_store(output):
            raise ValueError(
                f"{option}{output}: codes go to urls as Parquet: name a folder, or a file that ends in .parquet"
            )
        if "/" not in output.partition("://")[2]:
            raise ValueError(f"{option}{output}: name a folder in it, {output}/NAME")
        return
    if output.suffix not in HDF5_SUFFIXES and (only_hdf5 or not is_table_store(output)):
        others = "" if only_hdf5 else " or Parquet"
        fix = "a file that ends in .h5" if only_hdf5 else "a file that ends in .h5 or .parquet, or a folder"
        raise ValueError(f"{option}{output}: codes are written as HDF5{others}, name {fix}")
    check_local(output)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{option}{output}: the folder {output.parent} does not exist; make it first")
