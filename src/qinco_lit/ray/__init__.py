"""On a Ray cluster that is there already: thin adapters, no scheduler (extra `ray`).

The public names are imported on first use; `Encoder` needs no Ray itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qinco_lit.ray.encoder import Encoder
    from qinco_lit.ray.sharded_searcher import ShardedSearcher

__all__ = ["Encoder", "ShardedSearcher"]

_HOMES = {"Encoder": "qinco_lit.ray.encoder", "ShardedSearcher": "qinco_lit.ray.sharded_searcher"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'qinco_lit.ray' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)
