"""Which run folder the codec of an evaluation came from."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePath

from qinco_lit.reports.compare.folders import TRAINING
from qinco_lit.reports.compare.records import Evaluation

# Of a path that is no longer there, at least so many last parts must be found: RUN/codec.
_LEAST_PARTS = 2


def training_folder(evaluation: Evaluation) -> Path | None:
    """Return the run folder whose codec was measured; None when it is not there, or the codec is no run's.

    `codec.path` is taken as it stands, then relative to the folders above the evaluation: outputs may have been moved
    or copied as a whole. A codec of other options than the evaluation recorded is not taken.
    """
    facts = evaluation.record.get("codec")
    if not isinstance(facts, dict) or not isinstance(facts.get("path"), str):
        return None
    for codec in _places(PurePath(facts["path"]), evaluation.folder):
        folder = codec.parent
        if (folder / TRAINING).is_file() and _same_model(codec / "config.json", facts):
            return folder
    return None


def _places(path: PurePath, evaluation: Path) -> Iterator[Path]:
    yield Path(path)
    parts = path.parts[1:] if path.is_absolute() else path.parts
    for first in range(len(parts) - _LEAST_PARTS + 1):
        for folder in evaluation.resolve().parents:
            yield folder.joinpath(*parts[first:])
    yield evaluation.parent / path.name  # inside of its run folder, however that is called now


def _same_model(config: Path, facts: dict[str, object]) -> bool:
    try:
        record = json.loads(config.read_bytes())
    except (OSError, ValueError):
        return False
    model = facts.get("model")
    ours = record.get("model", record) if isinstance(record, dict) else None
    if not isinstance(model, dict) or not isinstance(ours, dict):
        return False
    return all(ours[name] == value for name, value in model.items() if name in ours)
