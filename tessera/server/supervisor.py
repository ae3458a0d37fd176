"""What a supervisor is told, in systemd's protocol: one datagram to the socket that NOTIFY_SOCKET names.

Source: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import logging
import os
import socket

logger = logging.getLogger(__name__)


def notify(*states: str) -> None:
    """Say for example READY=1; nothing happens where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    path = "\0" + address[1:] if address[0] == "@" else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto("\n".join(states).encode(), path)
    except OSError as error:
        # The server serves all the same; the supervisor notices that it was told nothing.
        logger.warning("NOTIFY_SOCKET cannot be written to (%s)", error.strerror)
