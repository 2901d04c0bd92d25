import numpy as np
import pytest
import torch

from qinco_lit.arrays import as_float32
from qinco_lit.vectors.layout import check_vector_dtype

NUMBERS = [*np.typecodes["AllInteger"], "e", "f", "d", "g", ">f4", "?", "F"]


@pytest.mark.parametrize("code", NUMBERS)
def test_files_hold_vectors_where_the_codec_takes_their_rows(code: str) -> None:
    rows = np.ones((2, 3), code)
    try:
        as_float32(rows, torch.device("cpu"), 0)
    except ValueError:
        with pytest.raises(ValueError, match=r"^x.npy: vectors of dtype \w+ are not supported: give float32 or uint8$"):
            check_vector_dtype(rows.dtype, "x.npy")
    else:
        check_vector_dtype(rows.dtype)
