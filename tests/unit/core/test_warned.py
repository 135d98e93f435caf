from __future__ import annotations

import warnings

from silofold.core import warned


def test_each_kind_is_told_once_in_one_line() -> None:
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warned.settle(told.append)
        for number in range(50):
            warnings.warn(f"number {number}\n\x1b[31m", stacklevel=1)
            warnings.warn(f"number {number}", RuntimeWarning, stacklevel=1)
        warned.settle(lambda _: told.append("again"))
        for _ in range(2):
            warnings.warn("another", stacklevel=1)
    assert [line.split(": ", 1)[1] for line in told[:2]] == [
        f"{kind}Warning: number 0 (others of this kind are not told)" for kind in ("User", "Runtime")
    ]
    assert told[2:] == ["again"]
