"""Sealing of secrets that a job needs again after a restart, such as passwords of documents.

They lie in the table sealed under a key of the folder for files (0600), so that a copy of the table, a backup of it or
a look into it tells none. Whoever reads the whole folder reads the documents, too.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE = 12  # bytes


def sealed(key: bytes, values: Mapping[str, str]) -> dict[str, str]:
    """Seal each value under its name."""
    cipher = _cipher(key)
    found = {}
    for name, value in values.items():
        nonce = secrets.token_bytes(NONCE)
        found[name] = base64.b64encode(nonce + cipher.encrypt(nonce, value.encode(), name.encode())).decode()
    return found


def opened(key: bytes, values: Mapping[str, str] | None) -> dict[str, str]:
    """Open sealed values; one that was changed, moved to another name or sealed with another key is left out."""
    cipher = _cipher(key)
    found = {}
    for name, value in (values or {}).items():
        data = base64.b64decode(value)
        try:
            found[name] = cipher.decrypt(data[:NONCE], data[NONCE:], name.encode()).decode()
        except InvalidTag:
            continue
    return found


def _cipher(key: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key, b"tessera sealing", "sha256"))
