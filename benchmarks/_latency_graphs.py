"""Kernel lists of the graphs that stand for the published models, kept under build/ and made again where absent."""

from __future__ import annotations

import ast
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir
from _latency_models import make_graph

from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_targets import _launches, attentions, kernels
from edgeprune_targets.kernels import Kernel, kernels_of

if TYPE_CHECKING:
    from _latency_rows import Row

Opened: TypeAlias = dict[tuple[str, tuple[int, ...], int], ir.Model]

_CACHE = Path(__file__).resolve().parents[1] / "build" / "latency"
_FIRST, _SECOND = 2, 3  # batches that a larger one is drawn from: as exact as a graph of its own, and sooner made


def kernels_for(row: Row, opened: Opened) -> tuple[tuple[Kernel, int], ...]:
    """Each kernel of a row's graph once, without names, and how often it is launched.

    Args:
        row: what to make.
        opened: graphs made so far, by model, size and batch, 0 for an open one; filled here.
    """
    if row.batch <= _SECOND:
        return _counted(_kernels(row, row.batch, opened))
    first, second = (_kernels(row, batch, opened) for batch in (_FIRST, _SECOND))
    return _counted([_at(row.batch, *pair) for pair in zip(first, second, strict=True)])


def work_of(kernels: Iterable[tuple[Kernel, int]]) -> float:
    """Multiply-accumulates of a run in 10^9."""
    return sum(kernel.flops * times for kernel, times in kernels) / 2e9


def _at(batch: int, first: Kernel, second: Kernel) -> Kernel:
    """A kernel at a larger batch: whatever grows with the batch grows by the same amount for each further entry."""
    values = {
        name: value + (getattr(second, name) - value) * (batch - _FIRST)
        for name, value in asdict(first).items()
        if isinstance(value, int) and name not in {"block", "flops"}
    }
    shape = values["batch"] * values["m"] * values["n"] * values["k"]
    return replace(first, **values, flops=(4 if first.kind == "attention" else 2) * shape)


def _kernels(row: Row, batch: int, opened: Opened) -> list[Kernel]:
    path = _CACHE / _code() / f"{row.graph}-{'x'.join(map(str, row.size))}-b{batch}-{row.precision}.json"
    if not path.exists():
        model = _canonical(row.graph, row.size, batch, opened)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(kernel) for kernel in kernels_of(model, row.precision)]))
    return [Kernel(**fields) for fields in json.loads(path.read_text())]


def _canonical(graph: str, size: tuple[int, ...], batch: int, opened: Opened) -> ir.Model:
    if (graph, size, 0) not in opened:
        opened.clear()  # rows come sorted by graph
        opened[graph, size, 0] = make_graph(graph, size)
    if (graph, size, batch) not in opened:
        model = opened[graph, size, 0].clone()
        Canonicalize({}, batch).apply(model)
        opened[graph, size, batch] = model
    return opened[graph, size, batch]


def _counted(found: list[Kernel]) -> tuple[tuple[Kernel, int], ...]:
    return tuple(Counter(replace(kernel, node="", block=0) for kernel in found).items())


@cache
def _code() -> str:
    """Names the code that makes the lists, comments and docstrings aside: a change of it makes them again."""
    digest = hashlib.sha256()
    for module in (kernels, _launches, attentions):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:12]
