"""What an engine does, read from its bytes: the compiler inside TensorRT leaves its schedule there as text.

No device is needed, unlike for the engine inspector. Found in plans of TensorRT-RTX 1.7.1: each launch is one entry of
the schedule with its kernel and the ONNX nodes that went into it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_FUSED_MARK = b"struct _gemm_mha_v2_callback {"  # one per fused attention; kernel names are shared by equal shapes
_FUSED = re.compile(r"_gem[mv]_mha_v\d")  # gemv: of a single query, as tail elimination leaves it in the last block
_NAME = re.compile(rb"(__myl_[A-Za-z0-9]+|_gem[mv]_mha_v\d)(_0x[0-9a-f]{8,})?")
_LAUNCH = re.compile(rb'\n  (\w+)=\{ name=(?:"([^"\n]*)"|(\S+)) (?:fqn=(\S+) )?[^\n]*? layers="([^"\n]*)"')
_GRAPH = re.compile(rb"header \{\n(.*?)\n\}\n.*?(\nmain \{\n.*?\n\}\n)", re.DOTALL)
_INSIDE_A_FUSION = b"accelerators={*}"  # what a kernel is generated from on the device is such a graph again
_LAYER = re.compile(r"\[ONNX Layer: ([^\]\x1f]*)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One kernel that runs once in an inference.

    Attributes:
        kind: the schedule's word: 'function' (generated), 'fully_connected' and 'runtime_fusion' (matrix products).
        name: of the kernel; of a matrix product it is what it computes.
        nodes: names of the ONNX nodes whose work it does.
    """

    kind: str
    name: str
    nodes: tuple[str, ...]


def count_fused_attentions(plan: bytes) -> int:
    """Attentions that one kernel computes whole: by the schedule, or by the text of the kernels where there is none."""
    schedule = launches(plan)
    return sum(1 for launch in schedule if _FUSED.match(launch.name)) if schedule else plan.count(_FUSED_MARK)


def kernel_names(plan: bytes) -> tuple[str, ...]:
    """Distinct kernels by name, sorted; one that has both a plain name and names with a digest counts by the latter."""
    plain: set[str] = set()
    exact: set[str] = set()
    for match in _NAME.finditer(plan):
        (exact if match[2] else plain).add(match[0].decode())
    bare = plain - {name.rpartition("_0x")[0] for name in exact}
    return tuple(sorted(exact | {name for name in bare if not _FUSED.match(name)}))


def unfused(attentions: Iterable[str], plan: bytes) -> tuple[str, ...]:
    """Those of the named attention nodes that no fused kernel computes."""
    fused = {node for launch in launches(plan) if _FUSED.match(launch.name) for node in launch.nodes}
    return tuple(name for name in attentions if name not in fused)


def launches(plan: bytes) -> tuple[Launch, ...]:
    """The schedule of one inference, in order; empty where the engine has no such text."""
    found = []
    mains = (main for head, main in _GRAPH.findall(plan) if _INSIDE_A_FUSION not in head)
    for kind, quoted, word, exact, layers in (entry for main in mains for entry in _LAUNCH.findall(main)):
        nodes = tuple(_LAYER.findall(layers.decode("utf-8", "replace")))
        found.append(Launch(kind=kind.decode(), name=(exact or quoted or word).decode("utf-8", "replace"), nodes=nodes))
    return tuple(found)
