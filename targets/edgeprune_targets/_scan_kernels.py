"""Launches of a recurrence: a selective scan in chunks, or a loop that starts its body's kernels for every token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.costs import trips
from edgeprune.core.scans import is_selective_scan
from edgeprune_targets.lowering.scan_chunks import Operands
from edgeprune_targets.lowering.scans import default_chunk

if TYPE_CHECKING:
    import onnx_ir as ir

_FP32 = 4  # a scan computes in fp32 whatever the engine's precision


def is_recurrence(node: ir.Node) -> bool:
    """Whether a node is a selective scan, or a loop."""
    return is_selective_scan(node) or (node.op_type in {"Scan", "Loop"} and not node.domain)


def chunked_bytes(node: ir.Node) -> tuple[int, ...]:
    """Bytes that each launch of a selective scan moves, in chunks.

    Four launches, as TensorRT-RTX 1.7 makes them of `lowering/scan_chunks.py`: the steps between all pairs of chunks;
    the states inside chunks and what they hand on; the steps up to each token; the read-out. The states of all tokens
    are written once and read once; the rest is as large as the tokens, or as the pairs of chunks.
    """
    scan = Operands.of(node)
    chunks = -(-scan.tokens // default_chunk(scan.tokens))
    tokens = scan.batch * scan.tokens * scan.channels
    rows = scan.batch * scan.tokens * scan.states
    states, pairs = tokens * scan.states, scan.batch * chunks * chunks * scan.channels
    handed = scan.batch * chunks * scan.channels * scan.states
    inside = 2 * tokens + rows + states
    if chunks == 1:
        return _FP32 * inside, _FP32 * (states + rows + tokens)
    launches = (tokens + pairs, inside + pairs + handed, 2 * tokens, states + handed + rows + 2 * tokens)
    return tuple(_FP32 * size for size in launches)


def body_of(node: ir.Node) -> tuple[int, tuple[ir.Node, ...]]:
    """How often a loop's body runs, and its nodes."""
    return trips(node), tuple(node.attributes["body"].as_graph())
