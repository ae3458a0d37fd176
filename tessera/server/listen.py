"""The server's sockets, bound before a model is loaded, so that an address in use shows at once.

No client is accepted before the model is loaded: a socket that is bound but not listening refuses
connections, which is what a client or load balancer expects of a server that is still starting.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from pathlib import Path

from tessera.errors import TesseraError
from tessera.server.settings import Settings

BACKLOG = 2048  # connections waiting to be accepted, as in uvicorn
SOCKET_MODE = 0o666  # anyone who may enter the folder may connect, as with other servers; keys protect the rest


class AddressError(TesseraError):
    """An address that the server cannot listen on."""


def bind(settings: Settings) -> list[socket.socket]:
    """Bind sockets at the address in the settings; raises AddressError."""
    if settings.uds is not None:
        return [_bind_path(settings.uds)]
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise AddressError(
            f"the host {settings.host!r} is not an address of this machine; use 127.0.0.1, or 0.0.0.0 for all."
        ) from error
    sockets: list[socket.socket] = []
    port, failure = settings.port, OSError()
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            sockets.append(_bind_one(family, (address[0], port)))
            port = sockets[0].getsockname()[1]  # the free port chosen first is used for all addresses of a name
        except OSError as error:
            failure = error
            if error.errno != errno.EADDRNOTAVAIL:  # localhost may resolve to an IPv6 address that this machine lacks
                break
    if not sockets or failure.errno not in (None, errno.EADDRNOTAVAIL):
        for each in sockets:
            each.close()
        raise _refused(settings, failure) from failure
    return sockets


def listen(sockets: list[socket.socket]) -> None:
    """Start listening; raises AddressError if another program has taken the address meanwhile.

    Two programs can both bind an address on which nobody listens yet, and uvloop hides the second one's failure.
    """
    try:
        for each in sockets:
            each.listen(BACKLOG)
    except OSError as error:
        raise AddressError(
            "another program took the address while the model was loaded; stop that, or choose another --port."
        ) from error


def address_of(sockets: list[socket.socket], settings: Settings) -> str:
    """The address to open in a browser or connect to."""
    if settings.uds is not None:
        return f"unix:{settings.uds}"
    host = settings.host
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{sockets[0].getsockname()[1]}"


def is_public(settings: Settings) -> bool:
    """Return True if other machines may be able to connect."""
    return settings.uds is None and not _is_loopback(settings.host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: some systems map the machine's own name to a loopback address
        return False


def _bind_one(family: int, address: tuple[str | int, int]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def _refused(settings: Settings, error: OSError) -> AddressError:
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return AddressError(f"{where} is in use by another program; stop that, or choose another --port.")
    if error.errno == errno.EACCES:
        return AddressError(f"{where} may not be used by this user; choose a --port of 1024 or more.")
    if error.errno == errno.EADDRNOTAVAIL:
        return AddressError(f"{settings.host} is not an address of this machine; use 127.0.0.1, or 0.0.0.0 for all.")
    return AddressError(f"{where} cannot be listened at ({os.strerror(error.errno or 0)}); choose another.")


def _bind_path(path: Path) -> socket.socket:
    """Bind a Unix socket, replacing a stale one."""
    if path.is_symlink() or path.exists():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise AddressError(f"{path} exists and is not a socket; remove it, or choose another --uds.")
        if _is_answered(path):
            raise AddressError(f"{path} is in use by another server; stop that, or choose another --uds.")
        path.unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(str(path))
        path.chmod(SOCKET_MODE)
    except OSError as error:
        made.close()
        raise AddressError(
            f"{path} cannot be made a socket ({error.strerror or 'the path is too long'}); choose another --uds."
        ) from error
    return made


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex(str(path)) == 0
