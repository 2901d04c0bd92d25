"""What is known of a data set, with or without its files."""

from dataclasses import dataclass

from qinco_lit.vectors.vector_file import VectorFile


@dataclass(frozen=True)
class DataFacts:
    """Size and type of a data set's vectors; None stands for what is not known.

    Attributes:
        name: of the data set.
        dim: of the vectors.
        dtype: of the vectors as they are read, a name of numpy's: uint8, float32.
        num_database: vectors to encode.
        num_train: vectors to train on.
        epoch_size: training vectors per epoch, at most `num_train`.
        database_bytes: size of the file of the database.
        rows: vectors of this set where a file of them is there, those to encode if possible.
    """

    name: str
    dim: int
    dtype: str
    num_database: int | None
    num_train: int | None
    epoch_size: int
    database_bytes: int | None
    rows: VectorFile | None
