"""How many workers a cluster holds, and what each takes of a GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msbd_dist.errors import ClusterError
from msbd_dist.fleet.room import Host, shape


@pytest.mark.parametrize(
    ("hosts", "workers", "found", "gpu"),
    [
        ([Host(8, 2)], None, 2, 1.0),
        ([Host(8, 2)], 2, 2, 1.0),
        ([Host(8, 2)], 3, 3, 0.5),  # two thirds each would leave one without a place
        ([Host(8, 3)], 4, 4, 0.5),
        ([Host(8, 1)], 3, 3, 0.3333),
        ([Host(8, 4), Host(8, 1)], 7, 7, 0.5),
        ([Host(2, 4), Host(8, 1)], 4, 4, 0.5),  # the first holds 2, for want of CPUs
        ([Host(8, 0), Host(4, 2)], None, 2, 1.0),  # a head without a GPU takes none
        ([Host(16, 0)], None, 8, 0.0),
        ([Host(3, 0), Host(2, 0)], None, 5, 0.0),
        ([Host(4, 0)], 4, 4, 0.0),
    ],
)
def test_shares_of_gpus_are_whole_parts_that_fit(
    hosts: list[Host], workers: int | None, found: int, gpu: float
) -> None:
    made = shape(hosts, workers, use_gpus=True)
    assert (made.workers, made.gpu) == (found, gpu)


def test_gpus_are_left_alone_where_none_is_wanted() -> None:
    assert shape([Host(4, 2)], None, use_gpus=False).gpu == 0
    assert shape([Host(4, 2)], 4, use_gpus=False).workers == 4


def test_more_workers_than_have_room_are_an_error_that_says_where() -> None:
    with pytest.raises(ClusterError, match="5 workers need as many CPUs, this Ray has 4; ask"):
        shape([Host(4, 0)], 5, use_gpus=True)
    with pytest.raises(ClusterError, match="this Ray has 2 on hosts with a GPU"):
        shape([Host(16, 0), Host(2, 1)], 3, use_gpus=True)


@given(
    hosts=st.lists(st.builds(Host, st.integers(1, 16), st.integers(0, 8)), min_size=1, max_size=5),
    workers=st.integers(1, 40),
)
def test_every_worker_has_its_place(hosts: list[Host], workers: int) -> None:
    try:
        made = shape(hosts, workers, use_gpus=True)
    except ClusterError:
        return
    if made.gpu:
        each = int(1 / made.gpu)  # of a GPU, as Ray places them
        assert each * made.gpu <= 1
        assert sum(min(host.cpus, host.gpus * each) for host in hosts) >= workers
