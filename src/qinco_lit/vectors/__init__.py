"""Files of vectors and of codes: reading in place, atomic writing, exact neighbours."""

from qinco_lit.vectors.code_store import CodeStore, open_codes
from qinco_lit.vectors.neighbours import exact_neighbours
from qinco_lit.vectors.vector_file import VectorFile, as_vectors_file, open_vectors
from qinco_lit.vectors.writers import VectorWriter, write_vectors

__all__ = [
    "CodeStore", "VectorFile", "VectorWriter", "as_vectors_file", "exact_neighbours", "open_codes", "open_vectors",
    "write_vectors",
]  # fmt: skip
