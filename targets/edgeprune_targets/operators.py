"""Which operators a runtime's parser has, and for which types: `operators.toml`, read once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from edgeprune_targets.runtimes import Runtime

_TABLE = Path(__file__).with_name("operators.toml")
_RTX = "tensorrt-rtx"
_RTX_IS = (11, 0)  # of TensorRT's versions, the one whose parser TensorRT-RTX 1 has


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of ONNX in the parsers.

    Attributes:
        name: in ONNX.
        types: types of the data by the version that they hold from; '' as types where it is refused.
        source: where this is written or was tried.
    """

    name: str
    types: dict[str, str] = field(default_factory=dict)
    source: str

    def types_in(self, runtime: Runtime) -> frozenset[str]:
        """Types that the runtime takes; none where it refuses the operator."""
        if runtime.family == _RTX and _RTX in self.types:
            return frozenset(self.types[_RTX].split())
        limit = _RTX_IS if runtime.family == _RTX else numbers_of(runtime.version)
        known = [version for version in self.types if version != _RTX and numbers_of(version) <= limit]
        return frozenset(self.types[max(known, key=numbers_of)].split()) if known else frozenset()

    @property
    def since(self) -> str:
        """The first version of TensorRT that takes it; '' for none."""
        known = [version for version, types in self.types.items() if version != _RTX and types]
        return min(known, key=numbers_of) if known else ""


@cache
def operators() -> dict[str, Operator]:
    """All operators of the table by name."""
    rows = msgspec.toml.decode(_TABLE.read_bytes())["operators"]
    found: dict[str, Operator] = {}
    for row in rows:
        types = {key: value for key, value in row.items() if key not in {"names", "source"}}
        for name in row["names"].split():
            found[name] = Operator(name=name, types=types, source=row["source"])
    return found


def numbers_of(version: str) -> tuple[int, ...]:
    """Numbers of a version, two at least, so that '11' and '11.0' are one."""
    numbers = tuple(int(part) for part in version.split("."))
    return numbers if len(numbers) > 1 else (*numbers, 0)
