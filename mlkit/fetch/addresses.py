"""Public network addresses, and exceptions for other hosts."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from mlkit.errors import MlkitError

__all__ = ["ALLOW_VARIABLE", "is_public", "parse_allowed"]

ALLOW_VARIABLE = "MLKIT_DOWNLOAD_ALLOW"
"""Environment variable with hosts (``host:port,...``) that are fetched from regardless."""

# The IANA registries "IPv4 Special-Purpose Address Registry" and "IPv6 Special-Purpose Address
# Registry" (RFC 6890 and its updates), blocks that are not globally reachable. They are spelled out
# since `ipaddress.is_global` differs from one patch release of Python to the next.
_SPECIAL_4 = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network; Linux routes 0.0.0.0 to the local host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's platform service, in spite of its public number
        "169.254.0.0/16",  # link-local: metadata services of clouds, with credentials
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)

# Global unicast is 2000::/3; outside are loopback, IPv4-mapped and -compatible, unique local,
# link-local, site-local and multicast addresses.
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL_6 = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries any IPv4 address
        "3fff::/20",  # documentation
    )
)

# The well-known NAT64 prefix: IPv6-only networks reach IPv4 hosts through it (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Return whether an IP address, in the form that sockets take, is globally reachable.

    Strings that are not exactly one IP address are not.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in block for block in _SPECIAL_4)
    if parsed.scope_id is not None:
        return False
    if parsed in _NAT64:
        return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)))
    return parsed in _GLOBAL_6 and not any(parsed in block for block in _SPECIAL_6)


@lru_cache(maxsize=8)
def parse_allowed(text: str) -> frozenset[tuple[str, int]]:
    """Parse ``host:port,...``; hosts are lower-cased.

    Raises:
        MlkitError: an entry has another form.
    """
    return frozenset(_host_and_port(entry.strip()) for entry in text.split(",") if entry.strip())


def _host_and_port(entry: str) -> tuple[str, int]:
    host, _, port = entry.rpartition(":")
    host = host.removeprefix("[").removesuffix("]").lower()
    if not host or "/" in host or not (port.isascii() and port.isdigit()):
        raise MlkitError(
            "invalid entry in the list of allowed hosts",
            where=ALLOW_VARIABLE,
            expected="host:port, as in shop.example:443 or [::1]:8000",
            got=repr(entry),
        )
    return host, int(port)
