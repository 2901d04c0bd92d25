"""The run-time half of the jaxtyping checks; as in PEP 484, an int may stand where a float is asked."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
