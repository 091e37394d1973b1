"""Builders by name: our own, and those that others announce through entry points."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from edgeprune.core.errors import TargetError

if TYPE_CHECKING:
    from edgeprune_targets.builders.protocol import Builder
    from edgeprune_targets.profiles import Target

GROUP = "edgeprune.builders"
_OWN = {
    "tensorrt-rtx": "edgeprune_targets.builders.tensorrt_rtx:RtxBuilder",
    "tensorrt": "edgeprune_targets.builders.tensorrt:TensorRtBuilder",
    "onnxruntime": "edgeprune_targets.builders.onnx_runtime:OrtBuilder",
}


@cache
def builders() -> dict[str, Builder]:
    """All builders by name, each with its defaults.

    Raises:
        TargetError: if two plug-ins claim one name, or one is broken.
    """
    found: dict[str, Builder] = {}
    for name, path in _OWN.items():
        module, _, attribute = path.partition(":")
        found[name] = getattr(import_module(module), attribute)()
    for point in entry_points(group=GROUP):
        if point.name in found:
            msg = f"two plug-ins of `{GROUP}` are named `{point.name}`: one is {point.value}"
            raise TargetError(msg, hint="uninstall one of the two packages")
        found[point.name] = _plugged(point)
    return found


def _plugged(point: EntryPoint) -> Builder:
    try:
        builder: Builder = point.load()()
    except Exception as error:  # a plug-in may fail in any way; the user is told which one it was
        msg = f"plug-in `{point.name}` of {GROUP} ({point.value}) failed: {type(error).__name__}: {error}"
        raise TargetError(msg, hint=f"repair or uninstall the package that brings `{point.name}`") from error
    return builder


def make_builder(name: str) -> Builder:
    """The builder of that name, with its defaults.

    Raises:
        TargetError: for an unknown name, naming the nearest.
    """
    known = builders()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, 1)
    msg = f"unknown builder `{name}`"
    raise TargetError(msg, hint=f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(known))}")


def builder_for(target: Target) -> Builder:
    """The first builder that the profile names and that can build for it on this machine.

    Raises:
        TargetError: if none can, with the reason of each.
    """
    builder, reason = choose_builder(target)
    if builder is None:
        msg = f"no engine for {target.name} can be built on this machine: {reason}"
        raise TargetError(msg, hint="copy deploy/ to the device and run build.sh there")
    return builder


def choose_builder(target: Target) -> tuple[Builder | None, str]:
    """The same builder, or None and the reason of each that the profile names."""
    reasons = []
    for name in target.builders:
        builder = make_builder(name)
        reason = builder.builds_for(target) or builder.lacking()
        if reason is None:
            return builder, ""
        reasons.append(reason)
    return None, "; ".join(reasons)
