"""Which addresses lead inside: to this machine, or to the network that it is in."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

# Names that no public name server knows: https://www.iana.org/assignments/special-use-domain-names, and `.internal`
# (https://www.icann.org/en/board-activities-and-meetings/materials/approved-resolutions-special-meeting-of-the-icann-board-29-07-2024-en).
_INSIDE = (".localhost", ".local", ".internal", ".home.arpa")
# As old programs write an IPv4 address: in one number, in hexadecimal, or with parts left out.
_NUMBERS = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?")


def is_inside(url: str) -> bool:
    """Whether an address leads inside as far as it tells by itself: its name is not looked up.

    What is no address is taken for one that does.
    """
    try:
        host = (urlsplit(url).hostname or "").lower()
    except ValueError:
        return True
    return is_inside_host(host)


def is_inside_host(host: str) -> bool:
    """As `is_inside`, of a host: an IP address, or a name."""
    try:
        return not _is_global(ipaddress.ip_address(host))
    except ValueError:
        name = host.rstrip(".")
        return "." not in name or name.endswith(_INSIDE) or _NUMBERS.fullmatch(name) is not None


def _is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        # An IPv4 address in other clothes leads where that one leads.
        if (inner := address.ipv4_mapped or address.sixtofour) is not None:
            return _is_global(inner)
        if address in _NAT64:
            return _is_global(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast and not any(address in network for network in _NOT_GLOBAL)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What some Pythons take for global, while it leads to this machine, into the network, or nowhere:
# https://www.iana.org/assignments/iana-ipv4-special-registry and https://www.iana.org/assignments/iana-ipv6-special-registry,
# and https://www.iana.org/assignments/ipv6-address-space for what is no longer of use.
_NOT_GLOBAL = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.88.99.0/24",  # relays of 6to4: RFC 7526
            "::/96",  # an IPv4 address, as it was written once: RFC 4291, 2.5.5.1
            "::ffff:0:0:0/96",  # an IPv4 address, translated: RFC 2765
            "64:ff9b:1::/48",  # the same inside a network: RFC 8215
            "3fff::/20",  # documentation: RFC 9637
            "5f00::/16",  # segment routing: RFC 9602
            "fec0::/10",  # site-local: RFC 3879
        ),
    )
)
