from collections.abc import Callable

import pytest

from qinco_lit.quantizers import Quantizer
from tests.models import random_quantizer


@pytest.fixture
def make_quantizer() -> Callable[..., Quantizer]:
    return random_quantizer
