"""Files of vectors: memory-mapped reading, atomic writing, exact neighbours."""

from qinco_lit.vectors.neighbours import exact_neighbours
from qinco_lit.vectors.vector_file import VectorFile, open_vectors
from qinco_lit.vectors.writers import VectorWriter, write_vectors

__all__ = ["VectorFile", "VectorWriter", "exact_neighbours", "open_vectors", "write_vectors"]
