"""Reconstructions whose order is defined: equal codes are equal, bit for bit."""

from typing import Any

import numpy as np

from qinco_lit.codec import Codec


def decode_distinct(codec: Codec, codes: Any, **lists: Any) -> Any:
    """Each different code is decoded once, as the rounding of many may depend on their places and on the processor."""
    columns = np.column_stack([*lists.values(), codes])
    _, first, place = np.unique(columns, axis=0, return_index=True, return_inverse=True)
    return codec.decode(codes[first], **{name: ids[first] for name, ids in lists.items()})[place.reshape(-1)]
