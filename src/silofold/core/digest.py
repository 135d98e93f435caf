"""Digests in hex."""

from __future__ import annotations

import hashlib


def sha256(*parts: bytes | memoryview) -> str:
    """Digest of the parts, one after the other, in hex."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
