"""What the launches of a TensorRT-RTX engine read and write, from the schedule that its plan holds as text."""

from __future__ import annotations

import re

_BYTES = {b"half": 2, b"bool": 1, b"int8": 1, b"int64": 8}
_TENSOR = re.compile(rb'tensor=\{[^\n]*?dims=\{([^}]*)\}[^\n]*?name=("?)([^"\s]+)\2[^\n]*?type=(\w+) \}')
_MAIN = re.compile(rb"\nmain \{\n.*?\n\}\n", re.DOTALL)
_LAUNCH = re.compile(rb"\n  (\w+)=\{ name=[^\n]*? args=\{([^}]*)\}[^\n]*")
_WAITS = {b"signal", b"wait"}


def traffic(plan: bytes, scans: bytes = b"") -> list[int]:
    """Bytes of the operands of each launch, each counted once; only launches with a node whose name holds `scans`."""
    sizes: dict[bytes, int] = {}
    for match in _TENSOR.finditer(plan):
        size = _BYTES.get(match[4].lower(), 4)
        for dim in match[1].split():
            size *= int(dim)
        sizes.setdefault(match[3], size)
    main = _MAIN.search(plan)
    found = _LAUNCH.finditer(main[0]) if main else ()
    return [
        sum(sizes.get(word.strip(b'"'), 0) for word in match[2].split())
        for match in found
        if match[1] not in _WAITS and scans in match[0]
    ]
