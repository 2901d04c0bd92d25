"""QINCo1 and QINCo2: train, evaluate, encode and search vectors in a few bytes each.

The public names are imported on first use, so that `import qinco_lit` costs nothing.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from qinco_lit.openblas import choose_kernels

if TYPE_CHECKING:
    from qinco_lit.codec import Codec
    from qinco_lit.encoding.encode_file import encode_file
    from qinco_lit.evaluation.evaluate import evaluate
    from qinco_lit.search.build.build_index import build_index
    from qinco_lit.search.points.explore import explore
    from qinco_lit.search.points.operating_points import pareto_front
    from qinco_lit.search.searcher import Searcher
    from qinco_lit.training.train import train
    from qinco_lit.vectors import open_codes, open_vectors

    __version__: str

__all__ = [
    "Codec", "Searcher", "__version__", "build_index", "encode_file", "evaluate", "explore", "open_codes",
    "open_vectors", "pareto_front", "train",
]  # fmt: skip

choose_kernels()  # before faiss is loaded

_HOMES = {
    "Codec": "qinco_lit.codec",
    "Searcher": "qinco_lit.search.searcher",
    "build_index": "qinco_lit.search.build.build_index",
    "explore": "qinco_lit.search.points.explore",
    "pareto_front": "qinco_lit.search.points.operating_points",
    "encode_file": "qinco_lit.encoding.encode_file",
    "evaluate": "qinco_lit.evaluation.evaluate",
    "open_codes": "qinco_lit.vectors",
    "open_vectors": "qinco_lit.vectors",
    "train": "qinco_lit.training.train",
}


if not TYPE_CHECKING:  # else a type checker believes that every name is there

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version("qinco_lit")
        if name not in _HOMES:
            this = sys.modules[__name__]  # lets Python ask: did you mean
            raise AttributeError(f"module 'qinco_lit' has no attribute {name!r}", name=name, obj=this)
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
