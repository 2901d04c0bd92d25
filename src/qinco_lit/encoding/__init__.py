"""Encoding a data set with Lightning: shards that survive a kill, and the store that they end in."""

from qinco_lit.encoding.module import Encoding
from qinco_lit.encoding.shards import ShardFolder, default_shard_rows

__all__ = ["Encoding", "ShardFolder", "default_shard_rows"]
