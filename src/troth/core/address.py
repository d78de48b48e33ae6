"""IP addresses as rules know them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address
_LONGEST = 64


def read_address(value: object) -> Address | None:
    """An address, also of a text; None if it is none.

    An IPv4 address that is written as one of IPv6 (RFC 4291, section 2.5.5.2) is the IPv4 address,
    so that no list of networks is passed by in disguise, and a zone (RFC 4007) means nothing
    elsewhere.
    """
    if isinstance(value, str) and len(value) <= _LONGEST:
        try:
            value = ip_address(value)
        except ValueError:
            return None
    if isinstance(value, IPv6Address):
        if value.ipv4_mapped is not None:
            return value.ipv4_mapped
        return IPv6Address(int(value)) if value.scope_id else value
    return value if isinstance(value, IPv4Address) else None
