"""One line of the diagnosis."""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the diagnosis."""

    status: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


def ok(text: str) -> Finding:
    """Make a finding that asks for nothing."""
    return Finding(status="ok", text=text)


def warn(text: str, remedy: str) -> Finding:
    """Make a finding that a run survives."""
    return Finding(status="warn", text=text, remedy=remedy)


def fail(text: str, remedy: str) -> Finding:
    """Make a finding that no run survives."""
    return Finding(status="fail", text=text, remedy=remedy)
