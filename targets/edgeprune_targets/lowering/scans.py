"""Selective scans in standard operators: a loop over the tokens, or chunks of tokens side by side.

A loop is one ONNX `Scan`: little work, and ONNX Runtime runs it well. TensorRT and TensorRT-RTX run it a token at a
time, so for them the recurrence is cut into chunks (scan_chunks.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from edgeprune.core.graph import PREFIX, constant_of, producers
from edgeprune.core.scans import DOMAIN, OPERATOR, selective_scans
from edgeprune.core.tape import Tape
from edgeprune_targets.fp32_rules import HELD, PRODUCTS
from edgeprune_targets.lowering._rewrite import replace, tape_before
from edgeprune_targets.lowering.scan_chunks import Operands, default_chunk, write_chunks
from edgeprune_targets.lowering.scan_loop import write_loop

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.plan import ScanForm

Form: TypeAlias = Literal["loop", "chunked"]


def lower_scans(model: ir.Model, form: Form, chunk: int | None = None) -> int:
    """Write every `edgeprune::SelectiveScan` in standard operators; the model needs the function no more.

    Args:
        model: static shapes.
        form: 'loop' for one `Scan` a scan, 'chunked' for plain operators.
        chunk: tokens of a chunk; None for `default_chunk` of each scan's length.

    Refuses: the chunked form where A is known to hold a positive number: decays over several tokens at once could
        overflow where the loop does not. Such a scan becomes a loop.
    """
    nodes = selective_scans(list(model.graph))
    shared = Tape(model, before=None, prefix=f"{PREFIX}scan")  # for constants, which scans of one length have in common
    known: dict[ir.Node, bool] = {}
    for node in nodes:
        scan, tape = Operands.of(node), tape_before(model, node)
        if form == "loop" or _grows(scan.matrix):
            result = write_loop(tape, shared, scan)
        else:
            result = write_chunks(tape, shared, scan, chunk or default_chunk(scan.tokens))
        _hold(result, scan, known)
        replace(model, node, result)
    if nodes:
        for key in [key for key in model.functions if key[:2] == (DOMAIN, OPERATOR)]:
            del model.functions[key]
        model.graph.opset_imports.pop(DOMAIN, None)
    return len(nodes)


def _grows(matrix: ir.Value) -> bool:
    """Whether a state is known to grow by itself, in some channel."""
    array = constant_of(matrix)
    return array is not None and bool((array > 0).any())


def _hold(result: ir.Value, scan: Operands, known: dict[ir.Node, bool]) -> None:
    """Mark what must compute in fp32 in an engine of fp16: decays, states, and the steps from their Softplus on.

    Steps may be 1e-6, of which fp16 has two digits, and a state adds up hundreds of tokens.

    Args:
        result: of the scan.
        scan: where it begins.
        known: by node in front of scans, whether it is on the way from a Softplus; of scans themselves, that not.
    """
    operands = (scan.step, scan.input, scan.matrix, scan.rows, scan.columns)
    pending = [result]
    while pending:
        value = pending.pop()
        node = value.producer()
        if value in operands or node is None or node in known:
            continue
        known[node] = False
        node.meta[HELD] = True
        pending += [operand for operand in node.inputs if operand is not None]
    for node in filter(None, (scan.step.producer(), scan.input.producer())):
        _from_softplus(node, known)


def _from_softplus(node: ir.Node, known: dict[ir.Node, bool]) -> bool:
    """Whether the node computes from a Softplus, with no matrix product or scan between; it is marked if so."""
    if node not in known:
        known[node] = node.op_type == "Softplus"
        if not known[node] and node.op_type not in PRODUCTS:
            each = [_from_softplus(before, known) for before in producers(node)]  # all of them: each is marked
            known[node] = any(each)
        if known[node]:
            node.meta[HELD] = True
    return known[node]


def standard_scans(model: ir.Model, asked: ScanForm = "auto") -> ir.Model:
    """A copy in standard operators for ONNX Runtime; the model itself where it has no selective scan.

    A loop unless chunks are asked for: on a processor it is the faster one, as it writes no states to memory.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    if not selective_scans(model.graph):
        return model
    copy = model.clone()
    lower_scans(copy, "chunked" if asked == "chunked" else "loop")
    RemoveUnusedNodesPass()(copy)  # A, which lies in the body of its loop now
    return copy
