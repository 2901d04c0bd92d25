from collections.abc import Callable

import pytest

from qinco_lit.quantizers import QINCo
from tests.models import random_quantizer


@pytest.fixture
def make_quantizer() -> Callable[..., QINCo]:
    return random_quantizer
