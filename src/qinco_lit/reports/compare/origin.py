"""Which run folder the codec of an evaluation came from."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path, PurePath

from qinco_lit.reports.compare.folders import TRAINING
from qinco_lit.reports.compare.records import Evaluation

# Of a path that is no longer there, at least so many last parts must be found: RUN/codec.
_LEAST_PARTS = 2
# `created` is in whole seconds.
_CLOCK_S = 1.0


def training_folder(evaluation: Evaluation, warn: Callable[[str], None]) -> Path | None:
    """Return the run folder whose codec was measured; None when it is not there, or the codec is no run's.

    `codec.path`, where it is relative, is looked for relative to the folders above the evaluation, then as it stands:
    outputs may have been moved or copied as a whole. A codec of other options or other weights than the evaluation
    recorded is not taken; `warn` is told when the weights alone differ, or may.
    """
    facts = evaluation.record.get("codec")
    if not isinstance(facts, dict) or not isinstance(facts.get("path"), str):
        return None
    went_on = None
    for codec in _places(PurePath(facts["path"]), evaluation.folder):
        folder = codec.parent
        config = _config(codec) if (folder / TRAINING).is_file() else None
        if config is None or not _same_model(config, facts):
            continue
        if facts.get("weights_sha256") is None:
            if _is_newer(codec / "weights.safetensors", evaluation):
                warn(f"{evaluation.folder}: {codec} is newer than this evaluation of it: the training may have gone on")
            return folder
        if config.get("weights_sha256") == facts["weights_sha256"]:
            return folder
        went_on = went_on or folder
    if went_on is not None:
        warn(f"{evaluation.folder} stands alone: {went_on} has another codec by now, the training went on since")
    return None


def _places(path: PurePath, evaluation: Path) -> Iterator[Path]:
    if path.is_absolute():
        yield Path(path)
    parts = path.parts[1:] if path.is_absolute() else path.parts
    for first in range(len(parts) - _LEAST_PARTS + 1):
        for folder in evaluation.resolve().parents:
            yield folder.joinpath(*parts[first:])
    yield evaluation.parent / path.name  # inside of its run folder, however that is called now
    # at last: from where `compare` runs it may lead to another training of that name
    yield Path(path)


def _config(codec: Path) -> dict[str, object] | None:
    path = codec / "config.json"
    try:
        config = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def _same_model(config: dict[str, object], facts: dict[str, object]) -> bool:
    model, ours = facts.get("model"), config.get("model", config)
    if not isinstance(model, dict) or not isinstance(ours, dict):
        return False
    return all(ours[name] == value for name, value in model.items() if name in ours)


def _is_newer(weights: Path, evaluation: Evaluation) -> bool:
    created = evaluation.record.get("created")
    try:
        measured = datetime.strptime(str(created), "%Y-%m-%dT%H:%M:%S%z")
        return weights.stat().st_mtime > measured.timestamp() + _CLOCK_S
    except (OSError, ValueError):  # no weights there, or no time in the record
        return False
