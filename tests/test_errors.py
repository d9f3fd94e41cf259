"""Errors are values: picklable, one line, with an exit code."""

from __future__ import annotations

import pickle

import pytest

from msbd_dist import errors

CLASSES = [c for c in vars(errors).values() if isinstance(c, type)]


@pytest.mark.parametrize("kind", CLASSES)
def test_each_error_crosses_a_process_border_unchanged(kind: type[Exception]) -> None:
    error = pickle.loads(pickle.dumps(kind("got a, wanted b; do c")))
    assert type(error) is kind
    assert str(error) == "got a, wanted b; do c"


def test_bad_input_exits_with_2_and_a_missing_cluster_with_3() -> None:
    assert {c.exit_code for c in CLASSES if issubclass(c, errors.InputError)} == {2}
    assert errors.ClusterError.exit_code == 3
    assert errors.MsbdError.exit_code == 1
