"""Were codes and centroids made of vectors as `data.metric` reads them: as stored, or of unit length for cosine."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qinco_lit.vectors.code_info import read_as_unit

CENTROIDS_FORMAT = "qinco_lit centroids"  # of the json file beside centroids
_READING = {False: "vectors as they are stored", True: "vectors of unit length"}


def check_reading(given: str, facts: Mapping[str, Any], vectors: Any, data: Any, fix: str) -> None:
    """Refuse what was made of rows in the other reading; where it is not known, nothing is refused.

    Args:
        given: what was given, `OPTION=PATH`.
        facts: `input_facts` of the rows that it was made of.
        vectors: rows of the data set, from the first of their file on; they decide on facts that do not say.
        data: data module.
        fix: what makes it as it should be.

    Raises:
        ValueError: it is of unit vectors and `data.metric` reads others, or the other way round.
    """
    unit, expected = read_as_unit(facts, vectors), data.metric == "cosine"
    if unit is not None and unit != expected:
        raise ValueError(
            f"{given} are of {_READING[unit]}, with data.metric={data.metric} data set {data.name} has "
            f"{_READING[expected]}: {fix}"
        )


def check_centroids_reading(path: Path, data: Any) -> None:
    """Refuse centroids of rows in the other reading, by the record that `qinco centroids` wrote beside them.

    Raises:
        ValueError: as `check_reading`.
    """
    try:
        record = json.loads(path.with_suffix(".json").read_text())
        if record["format"] != CENTROIDS_FORMAT:
            return
        facts = {**record["facts"], "input_unit": record.get("input_unit")}
    except (OSError, ValueError, KeyError, TypeError):  # of elsewhere: nothing is known of them
        return
    fix = f"make them with `qinco centroids data=CHOICE data.metric={data.metric}`"
    check_reading(f"coarse.centroids={path}", facts, data.train_vectors, data, fix)
