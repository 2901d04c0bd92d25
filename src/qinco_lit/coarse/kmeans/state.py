"""Unfinished k-means on disk: what it belongs to and where it stands, written after each pass."""

import glob
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from qinco_lit.atomic import full_disk_code, replacing


@dataclass(frozen=True)
class Standing:
    """Where k-means stands.

    Attributes:
        centroids: those found so far: while the start is under way, of the groups before `next_group`.
        next_group: None once the start is complete.
        refills: passes after the last iteration, made only for lists without rows.
        passes: of each pass over the rows with all centroids: what it measured.
    """

    centroids: Float32[np.ndarray, "lists dim"]
    next_group: int | None = None
    refills: int = 0
    passes: list[dict[str, Any]] = field(default_factory=list)


class StateFile:
    """`Standing` in an npz file next to the output, with the facts that its work belongs to."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self._facts = path, dict(facts)

    def load(self) -> Standing | None:
        """Return what is stored, None without a file; what a killed process was writing is removed.

        Raises:
            ValueError: a damaged file, or other facts; the message names them.
        """
        self._remove_unfinished()
        if not self.path.exists():
            return None
        try:
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                centroids, text = stored["centroids"], str(stored["state"])
            state = json.loads(text)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path} is damaged or no state of k-means: remove it to begin anew") from error
        check_same(self.path, state.pop("facts"), self._facts)
        return Standing(centroids, **state)

    def save(self, standing: Standing) -> None:
        """Replace what is stored. Raises OSError when the disk is full; what was stored before stays."""
        state = {
            "facts": self._facts,
            "next_group": standing.next_group,
            "refills": standing.refills,
            "passes": standing.passes,
        }
        try:
            with replacing(self.path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, centroids=standing.centroids, state=np.array(json.dumps(state)))
        except OSError as error:
            code = full_disk_code(error)
            if code is None:
                raise
            kept = "the passes before are kept" if self.path.exists() else "nothing was kept"
            raise OSError(
                code, f"{self.path}: {os.strerror(code)}; {kept}: free some space and run the same command again"
            ) from None

    def remove(self) -> None:
        """Remove the file, when there is one."""
        self._remove_unfinished()
        self.path.unlink(missing_ok=True)

    def _remove_unfinished(self) -> None:
        for temporary in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp"):
            temporary.unlink(missing_ok=True)


def check_same(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise ValueError, naming what differs, unless the facts of an existing file are those of this work."""
    names = dict.fromkeys([*there, *here])
    differences = [f"{n} is {there.get(n)} there, {here.get(n)} here" for n in names if there.get(n) != here.get(n)]
    if differences:
        raise ValueError(f"{path} belongs to other work: {', '.join(differences)}; name another output=, or remove it")
