"""Sealing of secrets that a job needs again after a restart, such as passwords of documents.

They lie in the table sealed under a key of the folder for files (0600), so that a copy of the table, a backup of it or
a look into it tells none. Whoever reads the whole folder reads the documents, too. Each is encrypted with HMAC-SHA256
in counter mode under a random number of its own, and signed (encrypt, then MAC): the standard library has no cipher.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping

NONCE, MAC = 16, 32  # bytes


def sealed(key: bytes, values: Mapping[str, str]) -> dict[str, str]:
    """Seal each value under its name."""
    found = {}
    for name, value in values.items():
        data, nonce = value.encode(), secrets.token_bytes(NONCE)
        hidden = _crypted(key, nonce, data)
        found[name] = base64.b64encode(nonce + hidden + _mac(key, name, nonce + hidden)).decode()
    return found


def opened(key: bytes, values: Mapping[str, str] | None) -> dict[str, str]:
    """Open sealed values; one that was changed, moved to another name or sealed with another key is left out."""
    found = {}
    for name, value in (values or {}).items():
        data = base64.b64decode(value)
        body, signature = data[:-MAC], data[-MAC:]
        if hmac.compare_digest(_mac(key, name, body), signature):
            found[name] = _crypted(key, body[:NONCE], body[NONCE:]).decode()
    return found


def _mac(key: bytes, name: str, body: bytes) -> bytes:
    return hmac.digest(_key(key, b"sign"), name.encode() + b"\0" + body, "sha256")


def _crypted(key: bytes, nonce: bytes, data: bytes) -> bytes:
    own = _key(key, b"hide")
    size = hashlib.sha256().digest_size
    stream = b"".join(
        hmac.digest(own, nonce + number.to_bytes(8, "big"), "sha256") for number in range(-(-len(data) // size))
    )
    return bytes(one ^ other for one, other in zip(data, stream, strict=False))


def _key(key: bytes, use: bytes) -> bytes:
    return hmac.digest(key, b"tessera sealing " + use, "sha256")
