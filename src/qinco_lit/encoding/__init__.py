"""Vectors to stores of codes with Lightning, in shards that survive a kill; and back."""

from qinco_lit.encoding.module import Encoding
from qinco_lit.encoding.shards import ShardFolder, default_shard_rows

__all__ = ["Encoding", "ShardFolder", "default_shard_rows"]
