"""Fetching a URL without being turned against the own network (server-side request forgery).

Every connection resolves the name once, checks EVERY answer, and dials the address it checked, so
a name that changes its answer in between (rebinding) gains nothing. Redirects are followed by hand,
each checked anew. Sizes are counted as the bytes arrive, and one deadline covers the whole fetch.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from tessera.errors import FetchError

if TYPE_CHECKING:
    import httpcore2
    import httpx2

MAX_REDIRECTS = 3
PUBLIC_PORTS = (80, 443)
# What `ipaddress.is_global` lets pass on Python 3.11, though it leads inside or to many.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "fec0::/10",
        "192.88.99.0/24",
        "ff00::/8",
        "224.0.0.0/4",
    )
)


def fetch(
    url: str,
    *,
    max_bytes: int,
    timeout_s: float,
    allow_private_addresses: bool = False,
    check_host: Callable[[str], None] | None = None,
) -> bytes:
    """The body behind an http(s) URL; raises FetchError in our own words, never with an address.

    `check_host` may refuse the host of the URL, and of every redirect, by raising.
    """
    import httpx2

    deadline = time.monotonic() + timeout_s
    transport = httpx2.HTTPTransport(trust_env=False)
    # httpx2 has no public argument for the network backend; a test fails if this stops working.
    transport._pool._network_backend = _guarded_backend(allow_private_addresses, deadline)
    headers = {"Accept-Encoding": "identity", "User-Agent": "tessera"}
    with httpx2.Client(transport=transport, trust_env=False, timeout=timeout_s, headers=headers) as client:
        for _ in range(MAX_REDIRECTS + 1):
            host = _check_url(url, allow_private_addresses)
            if check_host is not None:
                check_host(host)
            try:
                with client.stream("GET", url) as response:
                    if response.is_redirect:
                        url = urljoin(url, response.headers.get("location", ""))
                        continue
                    return _read_body(response, url, max_bytes, deadline, timeout_s)
            except httpx2.TimeoutException as error:
                raise _too_slow(url, timeout_s) from error
            except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
                raise FetchError(f"{_show(url)} could not be fetched; check the address, or send the file.") from error
    raise FetchError(f"{_show(url)} redirects more than {MAX_REDIRECTS} times; use its final address.")


def is_public(address: str) -> bool:
    """Whether an IP address lies in the public internet, seen through IPv4-mapped forms."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_global and not any(ip in network for network in NOT_PUBLIC if network.version == ip.version)


def _check_url(url: str, allow_private_addresses: bool) -> str:
    """The host of a URL that may be tried."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise FetchError(f"{_show(url)} is not a valid URL; write http(s)://host/path.") from error
    if parts.scheme not in ("http", "https") or not host:
        raise FetchError(f"{_show(url)} is not an http(s) URL with a host; only those are fetched.")
    if parts.username is not None or parts.password is not None:
        raise FetchError("the URL carries a user name or password; such URLs are not fetched, send the file instead.")
    if port not in (None, *PUBLIC_PORTS) and not allow_private_addresses:
        raise FetchError(
            f"{_show(url)} names port {port}; only 80 and 443 are fetched unless private addresses are allowed."
        )
    return host


def _guarded_backend(allow_private_addresses: bool, deadline: float) -> httpcore2.NetworkBackend:
    import httpcore2

    class GuardedBackend(httpcore2.SyncBackend):
        """Connects only to addresses that were checked."""

        def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore2.NetworkStream:
            try:
                answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                raise FetchError(
                    f"the host {host[:80]!r} is not known; check the address, or send the file."
                ) from error
            addresses = [str(answer[4][0]) for answer in answers]
            if not allow_private_addresses and not all(is_public(address) for address in addresses):
                raise FetchError(
                    f"the host {host[:80]!r} has a private address, which is not fetched; send the file itself, "
                    "or allow private addresses."
                )
            left = max(0.001, deadline - time.monotonic())
            return super().connect_tcp(addresses[0], port, min(left, timeout or left), local_address, socket_options)

    return GuardedBackend()


def _read_body(response: httpx2.Response, url: str, max_bytes: int, deadline: float, timeout_s: float) -> bytes:
    if response.status_code != 200:
        raise FetchError(
            f"{_show(url)} answered with status {response.status_code}; check the address, or send the file."
        )
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > max_bytes:
            raise FetchError(f"{_show(url)} is larger than {max_bytes:,} bytes (max_bytes); use a smaller picture.")
        if time.monotonic() > deadline:
            raise _too_slow(url, timeout_s)
    return bytes(body)


def _too_slow(url: str, timeout_s: float) -> FetchError:
    return FetchError(f"{_show(url)} took longer than {timeout_s:g} s; try again, or send the file itself.")


def _show(url: str) -> str:
    return repr(url if len(url) <= 80 else url[:77] + "...")
