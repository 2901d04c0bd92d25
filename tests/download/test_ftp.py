"""The same laws over ftp: one connection a file, resumed by REST where the server knows it."""

import dataclasses

import pytest

from tests.download.conftest import QUICK, some_bytes


def test_bytes_are_those_of_the_server(ftp, fetch):
    ftp.files["pub/my file"] = content = some_bytes(700_000)
    assert fetch(ftp.url("pub/my%20file")).read_bytes() == content
    assert (ftp.sent, ftp.starts) == (700_000, [0])


def test_a_broken_transfer_goes_on_where_it_was(ftp, fetch):
    ftp.files["x"] = content = some_bytes(300_000)
    ftp.drops, ftp.drop_after = 2, 100_000
    assert fetch(ftp.url("x")).read_bytes() == content
    assert (ftp.sent, ftp.starts) == (300_000, [0, 100_000, 200_000])


def test_a_killed_transfer_goes_on_where_it_was(ftp, fetch):
    ftp.files["x"] = content = some_bytes(300_000)
    ftp.drops, ftp.drop_after = 1, 100_000
    with pytest.raises(ValueError, match="closed 200,000 bytes early; gave up after 1 attempts"):
        fetch(ftp.url("x"), settings=dataclasses.replace(QUICK, tries=1))
    assert fetch(ftp.url("x")).read_bytes() == content
    assert (ftp.sent, ftp.starts) == (300_000, [0, 100_000])


def test_without_rest_it_starts_again(ftp, fetch):
    ftp.files["x"] = content = some_bytes(300_000)
    ftp.rest, ftp.drops, ftp.drop_after = False, 1, 100_000
    assert fetch(ftp.url("x")).read_bytes() == content
    assert ftp.starts == [0, 0]


def test_another_date_starts_again(ftp, fetch, recorder):
    ftp.files["x"] = some_bytes(300_000)
    ftp.drops, ftp.drop_after = 1, 100_000
    with pytest.raises(ValueError, match="gave up"):
        fetch(ftp.url("x"), settings=dataclasses.replace(QUICK, tries=1))
    ftp.files["x"] = content = some_bytes(300_000, 1)
    ftp.date = "20250101000000"
    assert fetch(ftp.url("x")).read_bytes() == content


def test_too_many_users_is_tried_again(ftp, fetch):
    ftp.files["x"] = content = some_bytes(1000)
    ftp.busy = 2
    assert fetch(ftp.url("x")).read_bytes() == content


def test_no_such_file(ftp, fetch):
    with pytest.raises(ValueError) as error:
        fetch(ftp.url("x"))
    assert str(error.value) == f"{ftp.url('x')} answers 550 no such file"
