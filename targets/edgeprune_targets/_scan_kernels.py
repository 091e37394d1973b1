"""Launches of a recurrence: a selective scan in chunks, or a loop that starts its body's kernels for every token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.costs import trips
from edgeprune.core.scans import is_selective_scan
from edgeprune_targets.lowering.scan_chunks import Operands, default_chunk

if TYPE_CHECKING:
    import onnx_ir as ir

_FP32 = 4  # a scan computes in fp32 whatever the engine's precision


def is_recurrence(node: ir.Node) -> bool:
    """Whether a node is a selective scan, or a loop."""
    return is_selective_scan(node) or (node.op_type in {"Scan", "Loop"} and not node.domain)


def chunked_bytes(node: ir.Node) -> tuple[int, ...]:
    """Bytes that each launch of a selective scan moves, in chunks: its result is never held for all states.

    Seven launches, as TensorRT-RTX 1.7 makes them of `lowering/scan_chunks.py`: the operands in chunks; the steps of
    each chunk and what each step of it gives; the steps between pairs of chunks; what is handed on; the steps up to
    each token; what comes of what was handed on; and the sum of both results. The operands are as large as the tokens,
    what is handed on as the chunks' ends.
    """
    scan = Operands.of(node)
    chunks = -(-scan.tokens // default_chunk(scan.tokens))
    tokens = scan.batch * scan.tokens * scan.channels
    rows = scan.batch * scan.tokens * scan.states
    ends, pairs = scan.batch * chunks * scan.channels * scan.states, scan.batch * chunks * chunks * scan.channels
    inside = 3 * tokens + 2 * rows + ends
    if chunks == 1:
        return (_FP32 * inside,)
    launches = (
        4 * tokens,
        inside,
        tokens // chunks + pairs,
        pairs + 2 * ends,
        2 * tokens,
        2 * tokens + rows + ends,
        3 * tokens,
    )
    return tuple(_FP32 * size for size in launches)


def body_of(node: ir.Node) -> tuple[int, tuple[ir.Node, ...]]:
    """How often a loop's body runs, and its nodes."""
    return trips(node), tuple(node.attributes["body"].as_graph())
