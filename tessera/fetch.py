"""Fetching a URL without letting it reach our own network (server-side request forgery).

Every connection resolves the name once, checks EVERY answer, and dials the address it checked, so
a name that changes its answer in between (rebinding) gains nothing. Redirects are followed one by one,
each checked again. Bytes are counted as they arrive, and one deadline covers the whole fetch: it
bounds each wait, for the name, the connection, and every part of a response.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urljoin, urlsplit

from tessera.errors import FetchError

if TYPE_CHECKING:
    import ssl

    import httpcore2
    import httpx2

Result = TypeVar("Result")
MAX_REDIRECTS = 3
PUBLIC_PORTS = (80, 443)
MAX_LEFT_ALONE = 64  # look-ups and dials at once: they cannot be cancelled, only abandoned until the system gives up
SPARE_BYTES = 2**20  # allowed beyond twice the body: heads, chunk sizes, trailers
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all IPv6 addresses assigned to internet hosts
# Networks that `ipaddress.is_global` accepts on Python 3.11, though they are internal or multicast. At 192.0.0.192 and
# 168.63.129.16 clouds serve metadata to their machines.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in ("2002::/16", "3fff::/20", "192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "224.0.0.0/4")
)


class Stop:
    """A cancellation signal: ends at once whatever abandoned work is waiting for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actions: list[Callable[[], object]] = []
        self.is_set = False

    def set(self) -> None:
        with self._lock:
            self.is_set = True
            for action in self._actions:
                action()

    @contextmanager
    def ending(self, action: Callable[[], object]) -> Iterator[None]:
        """Call `action`, which must not block, if stopped within this block; never after it."""
        with self._lock:
            self._actions.append(action)
            if self.is_set:
                action()
        try:
            yield
        finally:
            with self._lock:
                self._actions.remove(action)


class _Limit:
    """The seconds and bytes that one fetch has left."""

    def __init__(self, timeout_s: float, max_wire_bytes: int) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._bytes_left = max_wire_bytes

    def left_s(self) -> float:
        """Seconds left, more than 0; raises TimeoutError past the deadline."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def count(self, data: bytes) -> bytes:
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise OverflowError
        return data


def fetch(
    url: str,
    *,
    max_bytes: int,
    timeout_s: float,
    allow_private_addresses: bool = False,
    check_host: Callable[[str], None] | None = None,
    proxy: str | None = None,
    stop: Stop | None = None,
) -> bytes:
    """Fetch the body of an http(s) URL; raises FetchError in our own words, never with an address.

    `check_host` may refuse the host of the URL, and of every redirect, by raising. With a `proxy` names are
    resolved there, so the proxy decides what is private; only literal addresses are checked here.
    """
    import httpx2

    stop = stop or Stop()
    limit = _Limit(timeout_s, 2 * max_bytes + SPARE_BYTES)
    open_connections = _Connections()
    # A new connection for each redirect, so that an idle one need not be checked.
    limits = httpx2.Limits(max_keepalive_connections=0)
    transport = httpx2.HTTPTransport(verify=_certificates(), trust_env=False, proxy=proxy, limits=limits)
    # httpx2 has no public argument for the network backend; a test fails if this stops working.
    transport._pool._network_backend = _guarded_backend(
        allow_private_addresses or proxy is not None, limit, open_connections
    )
    headers = {"Accept-Encoding": "identity", "User-Agent": "tessera"}
    try:
        with (
            stop.ending(open_connections.shut),
            httpx2.Client(transport=transport, trust_env=False, timeout=timeout_s, headers=headers) as client,
        ):
            for _ in range(MAX_REDIRECTS + 1):
                host = _check_url(url, allow_private_addresses)
                if check_host is not None:
                    check_host(host)
                if proxy is not None and not allow_private_addresses:
                    _check_literal(host)
                with client.stream("GET", url) as response:
                    if response.has_redirect_location:
                        url = urljoin(url, response.headers.get("location", ""))
                        continue
                    body = _read_body(response, url, max_bytes)
                    if stop.is_set:  # a body without a length seems complete when its connection is shut
                        raise FetchError(f"{_show(url)} was not read to its end: its request was cancelled.")
                    return body
    except OverflowError as error:
        raise _too_large(url, max_bytes) from error
    except (httpx2.TimeoutException, TimeoutError) as error:
        raise _too_slow(url, timeout_s) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise FetchError(f"{_show(url)} could not be fetched; check the address, or send the file.") from error
    raise FetchError(f"{_show(url)} redirects more than {MAX_REDIRECTS} times; use its final address.")


@cache
def _certificates() -> ssl.SSLContext:
    """Read the authorities that the machine trusts, once: it takes 20 ms."""
    import httpx2

    return httpx2.create_ssl_context(trust_env=False)


def is_public(address: str) -> bool:
    """Return True for a public internet address, also in IPv4-mapped form."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if isinstance(ip, ipaddress.IPv6Address) and ip not in GLOBAL_UNICAST:
        return False
    return ip.is_global and not any(ip in network for network in NOT_PUBLIC if network.version == ip.version)


def _check_url(url: str, allow_private_addresses: bool) -> str:
    """Check a URL and return its host."""
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


def _check_literal(host: str) -> None:
    """Refuse a private address, or a name of this machine, before a proxy is sent to it."""
    name = host.rstrip(".").lower()
    try:
        private = not is_public(name)
    except ValueError:  # a name; only the proxy can know if it is private
        # Forms that the resolver reads as an address: 127.1, 2130706433, 0x7f000001.
        private = name == "localhost" or name.endswith(".localhost") or name.rpartition(".")[2][:1].isdigit()
    if private:
        raise _private(host)


def _private(host: str) -> FetchError:
    return FetchError(
        f"the host {host[:80]!r} has a private address, which is not fetched; send the file itself, "
        "or allow private addresses."
    )


class _Connections:
    """The sockets of one fetch; shutting them ends every wait for one, in other threads too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._is_shut = threading.Event()
        self._answers: list[queue.SimpleQueue[Any]] = []

    def add(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.append(connection)
            if self._is_shut.is_set():
                _shut(connection)

    def wait(self, answer: queue.SimpleQueue[Any], timeout_s: float) -> Any:
        """Wait for `answer` to be filled; raises TimeoutError, at once when shut."""
        with self._lock:
            self._answers.append(answer)
            if self._is_shut.is_set():
                answer.put((None, TimeoutError()))
        try:
            return answer.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None

    def shut(self) -> None:
        with self._lock:
            self._is_shut.set()
            for connection in self._sockets:
                _shut(connection)
            for answer in self._answers:
                answer.put((None, TimeoutError()))


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # not connected, or closed already
        connection.shutdown(socket.SHUT_RDWR)


_left_alone = threading.BoundedSemaphore(MAX_LEFT_ALONE)


def _ask_system(call: Callable[[], Result], limit: _Limit, connections: _Connections) -> Result:
    """Make a system call within the limit. It cannot be cancelled, so its thread may outlive it for a while."""
    if not _left_alone.acquire(timeout=limit.left_s()):
        raise TimeoutError
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put((call(), None))
        except Exception as error:
            answer.put((None, error))
        finally:
            _left_alone.release()

    threading.Thread(target=ask, name="tessera-fetch-system", daemon=True).start()
    result, error = connections.wait(answer, limit.left_s())
    if error is not None:
        raise error
    return cast("Result", result)


def _resolve(host: str, port: int, limit: _Limit, connections: _Connections) -> list[Any]:
    try:
        return _ask_system(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), limit, connections)
    except TimeoutError:
        raise
    except (OSError, UnicodeError) as error:
        raise FetchError(f"the host {host[:80]!r} is not known; check the address, or send the file.") from error


def _guarded_backend(any_address: bool, limit: _Limit, connections: _Connections) -> httpcore2.NetworkBackend:
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
            answers = _resolve(host, port, limit, connections)
            if not any_address and not all(is_public(str(answer[4][0])) for answer in answers):
                raise _private(host)
            address, seconds = (str(answers[0][4][0]), port), limit.left_s()
            try:
                connection = _ask_system(lambda: socket.create_connection(address, seconds), limit, connections)
            except TimeoutError:
                raise
            except OSError as error:
                raise httpcore2.ConnectError(str(error)) from error
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections.add(connection)
            return LimitedStream(connection)

    class LimitedStream(httpcore2.NetworkStream):
        """A connection that counts its bytes and ends each wait at the fetch's deadline."""

        def __init__(self, connection: socket.socket) -> None:
            self._connection = connection

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            self._connection.settimeout(limit.left_s())
            try:
                return limit.count(self._connection.recv(max_bytes))
            except TimeoutError:
                raise
            except OSError as error:
                raise httpcore2.ReadError(str(error)) from error

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            self._connection.settimeout(limit.left_s())
            try:
                self._connection.sendall(buffer)
            except TimeoutError:
                raise
            except OSError as error:
                raise httpcore2.WriteError(str(error)) from error

        def close(self) -> None:
            self._connection.close()

        def start_tls(
            self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore2.NetworkStream:
            try:
                self._connection.settimeout(limit.left_s())
                wrapped = ssl_context.wrap_socket(self._connection, server_hostname=server_hostname)
            except TimeoutError:
                self.close()
                raise
            except OSError as error:
                self.close()
                raise httpcore2.ConnectError(str(error)) from error
            connections.add(wrapped)
            return LimitedStream(wrapped)

        def get_extra_info(self, info: str) -> Any:
            return self._connection if info == "socket" else None

    return GuardedBackend()


def _read_body(response: httpx2.Response, url: str, max_bytes: int) -> bytes:
    if response.status_code != 200:
        raise FetchError(
            f"{_show(url)} answered with status {response.status_code}; check the address, or send the file."
        )
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(url, max_bytes)
    return bytes(body)


def _too_large(url: str, max_bytes: int) -> FetchError:
    return FetchError(f"{_show(url)} is larger than {max_bytes:,} bytes, which is the limit; use a smaller image.")


def _too_slow(url: str, timeout_s: float) -> FetchError:
    return FetchError(f"{_show(url)} took longer than {timeout_s:g} s; try again, or send the file itself.")


def _show(url: str) -> str:
    return repr(url if len(url) <= 80 else url[:77] + "...")
