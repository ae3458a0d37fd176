"""Notifications to a supervisor in systemd's protocol: one datagram to the socket in NOTIFY_SOCKET.

Source: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import logging
import os
import socket

logger = logging.getLogger(__name__)


def notify(*states: str) -> None:
    """Send a state, for example READY=1; does nothing without a supervisor."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    path = "\0" + address[1:] if address[0] == "@" else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto("\n".join(states).encode(), path)
    except OSError as error:
        # The server keeps running; the supervisor notices the missing message.
        logger.warning("NOTIFY_SOCKET cannot be written to (%s)", error.strerror)
