"""The folders of the parts of an index: `part-00000`, `part-00001`, … in one folder."""

from collections.abc import Sequence
from pathlib import Path

_PREFIX = "part-"


def part_folder(folder: Path, part: int) -> Path:
    """Where a part lies."""
    return folder / f"{_PREFIX}{part:05d}"


def is_in_parts(folder: Path) -> bool:
    """Whether the parts of an index lie there."""
    return part_folder(folder, 0).is_dir()


def part_folders(parts: str | Path | Sequence[str | Path]) -> list[str]:
    """The folders of parts, absolute, of the folder of all, or of each.

    Raises:
        FileNotFoundError: there are none.
    """
    if not isinstance(parts, str | Path):
        return [str(Path(each).absolute()) for each in parts]
    folder = Path(parts).absolute()
    found = sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())
    if not found:
        raise FileNotFoundError(f"no parts of an index in {parts}: `qinco index parts=P merge=false` writes some")
    return [str(path) for path in found]
