"""Measured points in a file: each is written as soon as it is known, so that a killed search goes on from there."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qinco_lit.search.points.operating_points import OperatingPoint


class PointFile:
    """`points.jsonl`: what the points depend on in the first line, then a point a line.

    A line that was being written when the process ended is dropped.

    Args:
        path: made with its folder at the first point.
        circumstances: plain values that all points of a file share: index, data, threads, how it is measured.

    Raises:
        ValueError: the file holds points of other circumstances, or is something else.
    """

    def __init__(self, path: Path, circumstances: Mapping[str, Any]) -> None:
        self._path, self._circumstances = path, dict(circumstances)
        self.points: list[OperatingPoint] = []
        lines = _whole_lines(path)
        if not lines:
            return
        try:
            stored = dict(lines[0]["circumstances"])
            self.points = [OperatingPoint.from_record(line) for line in lines[1:]]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} holds no points of a search: choose another folder (hydra.run.dir=DIR)"
            ) from error
        for name in sorted({*stored, *circumstances}):
            before, now = stored.get(name), circumstances.get(name)
            if before != now:
                raise ValueError(
                    f"{path} holds points with {name}={before}, not {now}: choose another folder (hydra.run.dir=DIR)"
                )

    def append(self, point: OperatingPoint) -> None:
        """Write a point; when this returns it is on the disk."""
        if not self.points and not _whole_lines(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"circumstances": self._circumstances})
        self._append(point.to_record())
        self.points.append(point)

    def _append(self, record: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _whole_lines(path: Path) -> list[Any]:
    """Records of the lines that end; what follows the last of them is cut off. ValueError for lines of no JSON."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with path.open("rb+") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    try:
        return [json.loads(line) for line in content[:end].splitlines()]
    except ValueError as error:
        raise _not_ours(path) from error


def _not_ours(path: Path) -> ValueError:
    return ValueError(f"{path} holds no points of a search: choose another folder (hydra.run.dir=DIR)")
