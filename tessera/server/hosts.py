"""Host header checks: a page whose name was rebound to this machine must not read replies.

A server that only this machine can reach accepts this machine's own names, unless the operator sets others.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from tessera.server.listen import is_public
from tessera.server.settings import Settings

LOOPBACK = ("localhost", "*.localhost")
ANY = "*"
_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]*))(:\d*)?")


def host_patterns(settings: Settings) -> tuple[str, ...]:
    """The accepted names; `*.name` matches all subdomains of a name, `*` matches any host."""
    if settings.allowed_hosts:
        return settings.allowed_hosts
    if settings.uds is not None or is_public(settings):
        return (ANY,)
    return (*LOOPBACK, settings.host)


def is_allowed(header: bytes | None, patterns: Sequence[str]) -> bool:
    """Return True if a Host header names this server; browsers always send one."""
    if header is None or ANY in patterns:
        return True
    name = _name(header.decode("latin-1").strip().lower())
    if LOOPBACK[0] in patterns and _is_loopback(name):
        return True
    return any(
        name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern.strip("[]")
        for pattern in map(str.lower, patterns)
    )


def _name(header: str) -> str:
    """Strip the port: `[::1]:8000` becomes `::1`; anything else is unchanged."""
    found = _HOST.fullmatch(header)
    return (found["address"] or found["name"].removesuffix(".")) if found else header


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
