from __future__ import annotations

import ipaddress
import random

import pytest

from mlkit.errors import MlkitError
from mlkit.fetch.addresses import is_public, parse_allowed


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450::1", "64:ff9b::808:808"],
)
def test_hosts_on_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254"),
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1"),
        *("192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
        *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:7f00:1"),
        *("fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "100::1"),
        *("2001::1", "2001:0:7f00:1::", "2001:db8::1", "2002:7f00:1::", "3fff::1", "5f00::1"),
        *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808", "2606:4700::1%eth0"),
        *("", "localhost", "0177.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "1.1.1.1 ", "1.1.1"),
    ],
)
def test_everything_special_is_not(address: str) -> None:
    assert not is_public(address)


def test_nothing_passes_that_the_standard_library_holds_for_private() -> None:
    draw = random.Random(5)
    sample = [ipaddress.IPv4Address(draw.getrandbits(32)) for _ in range(3000)]
    sample += [ipaddress.IPv6Address(draw.getrandbits(128)) for _ in range(3000)]  # type: ignore[misc]
    wrong = [str(a) for a in sample if is_public(str(a)) and not a.is_global]
    assert wrong == []


def test_allowed_places_are_host_and_port() -> None:
    assert parse_allowed(" Shop.example:443, [::1]:8000 ,,127.0.0.1:80") == {
        ("shop.example", 443),
        ("::1", 8000),
        ("127.0.0.1", 80),
    }
    assert parse_allowed("") == frozenset()


@pytest.mark.parametrize("entry", ["localhost", "http://localhost:80", ":80", "host:port", "a:-1"])
def test_an_allowed_place_without_a_port_is_an_error(entry: str) -> None:
    with pytest.raises(MlkitError, match="invalid entry") as caught:
        parse_allowed(entry)
    assert "MLKIT_DOWNLOAD_ALLOW" in str(caught.value)
