"""Addresses that lead inside."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, strategies as st

from higgsfield_async import Higgsfield, PlatformTransport
from higgsfield_async._addresses import is_inside, is_inside_host


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "https://10.1.2.3",
        "https://192.168.0.1:8443/a",
        "https://172.16.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[fe80::1]/",
        "https://[fd00::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fe80::1%25eth0]/",
        "https://[::127.0.0.1]/",
        "https://[::8.8.8.8]/",
        "https://[::ffff:0:7f00:1]/",
        "https://[64:ff9b:1::a00:1]/",
        "https://[fec0::1]/",
        "https://[3fff::1]/",
        "https://[5f00::1]/",
        "https://192.88.99.1/",
        "https://[2002:c058:6301::]/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://printer.local/",
        "https://db.prod.internal/",
        "https://a.localhost/",
        "https://intranet/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://0177.0.0.1/",
        "https:///a",
        "https://[::1/",
        "nothing",
    ],
)
def test_inside(url: str) -> None:
    assert is_inside(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.higgsfield.ai",
        "http://example.com:8080/a",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
        "https://[::ffff:8.8.8.8]/",
        "https://[64:ff9b::808:808]/",
        "https://[64:ff9b:2::1]/",
        "https://192.88.100.1/",
        "https://d3u0tzju9qaucj.cloudfront.net/x.png",
        "https://localhost.example.com/",
        "https://user:password@example.com/",
    ],
)
def test_outside(url: str) -> None:
    assert not is_inside(url)


@given(st.ip_addresses())
def test_every_ip_address_is_one_or_the_other(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        mapped = isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.sixtofour)
        assert mapped or is_inside_host(str(address))


@given(st.text(max_size=80))
def test_whatever_is_written(text: str) -> None:
    assert is_inside(text) in (True, False)


def test_a_service_inside_may_name_addresses_inside() -> None:
    assert Higgsfield(PlatformTransport("id", "secret", "http://127.0.0.1:1"))._allow_private
    assert not Higgsfield(PlatformTransport("id", "secret"))._allow_private
    assert Higgsfield(PlatformTransport("id", "secret"), allow_private=True)._allow_private
    assert not Higgsfield(PlatformTransport("id", "secret", "http://localhost:1"), allow_private=False)._allow_private
