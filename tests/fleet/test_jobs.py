"""Jobs of a Ray that is elsewhere: addresses, and logs that come over more than one connection."""

from __future__ import annotations

import socket

import pytest

from msbd_dist.errors import ClusterError, InputError
from msbd_dist.fleet.ray_jobs import Jobs, _Told, dashboard_url


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://head:8265", "http://head:8265"),
        ("http://head:8265/", "http://head:8265"),
        ("head", "http://head:8265"),
        ("head:80", "http://head:80"),
        ("https://ray.example.org", "https://ray.example.org"),
        ("https://example.org/ray/", "https://example.org/ray"),
        ("http://[::1]", "http://[::1]:8265"),
    ],
)
def test_the_dashboards_address_may_be_short(given: str, url: str) -> None:
    assert dashboard_url(given) == url


@pytest.mark.parametrize("given", ["auto", "ray://head:10001", "http://head:port", "http://", ""])
def test_other_addresses_are_refused(given: str) -> None:
    with pytest.raises(InputError, match="http://HEAD:8265"):
        dashboard_url(given)


def test_where_nobody_listens_is_said_in_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"no Ray dashboard at {address}: ") as error:
            Jobs(address)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3


def test_what_was_handed_on_is_not_repeated_after_a_lost_connection() -> None:
    heard: list[str] = []
    told = _Told(heard.append)
    for connection in (["one\ntw"], ["one\n", "two\nth", "ree\n"], ["one\n", "two\nthree\nfour\n"]):
        told.begin()
        for text in connection:
            told.hear(text)
    assert "".join(heard) == "one\ntwo\nthree\nfour\n"
