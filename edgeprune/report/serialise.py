"""Reports as JSON: fields in the order of their declaration, the gist on top; equal reports give equal bytes.

JSON has no infinity. An infinite drift, which stands for an output that is no number, is written as the largest float,
so that it still is past every limit.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgeprune.core.errors import DataError

T = TypeVar("T")


def to_json(value: object) -> bytes:
    """Serialise a report, an inspection, or a list of such; ends in a newline."""
    plain = _finite(msgspec.to_builtins(value, order="deterministic", enc_hook=_plain))
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"


def from_json(data: bytes, kind: type[T]) -> T:
    """Read what `to_json` wrote as a value of `kind`.

    Raises:
        DataError: if the bytes are no JSON, or not of that kind.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        msg = f"not a {kind.__name__} of this version of edgeprune: {error}"
        raise DataError(msg, hint="write it again with this version of edgeprune") from error


def schema_of(kind: type[object]) -> dict[str, Any]:
    """JSON Schema of a kind of report, made from its types; of each docstring the first line."""
    schema = msgspec.json.schema(kind)
    for definition in schema["$defs"].values():
        if "description" in definition:
            definition["description"] = definition["description"].partition("\n")[0]
    return schema


def _plain(value: object) -> str:
    """Write what JSON has no form for.

    Raises:
        TypeError: for a kind that no report holds.
    """
    if isinstance(value, Path):
        return str(value)
    msg = f"a report cannot hold a {type(value).__name__}"
    raise TypeError(msg)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and math.isinf(value):
        return math.copysign(sys.float_info.max, value)
    return value
