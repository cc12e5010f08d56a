"""The tree of errors, the table in its documentation, and what is told on the wires: all the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway import errors
from gateway.errors import ConfigError, InterlockError

ROW: Final = re.compile(r"^ [|`].*?-\s(\w+)\s+(\d{3})\s+(-\d{5})", re.MULTILINE)


def tree(error: type[InterlockError]) -> Iterator[type[InterlockError]]:
    for child in error.__subclasses__():
        if child.__module__ == "gateway.errors":
            yield child
            yield from tree(child)


def test_table_lists_every_error_with_its_status_and_code() -> None:
    table = {name: (int(status), int(code)) for name, status, code in ROW.findall(errors.__doc__ or "")}

    assert table == {error.__name__: (error.http_status, error.rpc_code) for error in tree(InterlockError)}


def test_every_error_has_a_code_of_its_own_for_the_record() -> None:
    codes = [error.code for error in tree(InterlockError)]

    assert len(set(codes)) == len(codes)


def test_faults_of_a_configuration_are_told_all_at_once() -> None:
    error = ConfigError([("listen.port", "must be a number"), ("policy", "is missing")])

    assert str(error) == "listen.port: must be a number\npolicy: is missing"
    assert error.faults == (("listen.port", "must be a number"), ("policy", "is missing"))
