"""A value as a product of factors, each with the axes that it spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.core.graph import PREFIX, constant_of
from edgeprune_passes.scans._views import View, above, view

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx_ir as ir


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A scale and the factors that vary."""

    scale: float
    factors: tuple[View, ...]

    def spanning(self, letters: str) -> tuple[View, ...]:
        """Factors that span one of the letters at least."""
        return tuple(factor for factor in self.factors if factor.letters & set(letters))


def factorised(value: View, mixed: tuple[str, str], sizes: Mapping[str, int]) -> Product:
    """Take a value apart until no factor spans letters of both kinds; the walk passes what only moves axes about.

    Args:
        value: to take apart.
        mixed: two groups of letters; a factor that spans one group alone is one thing, product or not.
        sizes: of all letters.
    """
    scale, factors, stack = 1.0, [], [value]
    while stack:
        seen = topmost(stack.pop(), sizes)
        array = constant_of(seen.value)
        if array is not None and array.size == 1:
            scale *= float(array.reshape(()))
            continue
        both = all(seen.letters & set(letters) for letters in mixed)
        parts = list(_parts(seen, sizes)) if both or _op(seen) == "Neg" or _lifted(seen) else []
        if not parts or None in parts:
            factors.append(seen)
            continue
        scale *= -1.0 if _op(seen) == "Neg" else 1.0
        stack += [part for part in reversed(parts) if part is not None]
    return Product(scale, tuple(factors))


def exponent_of(value: View, sizes: Mapping[str, int]) -> View | None:
    """What a value is the exponential of; None if it is none."""
    seen = topmost(value, sizes)
    if _op(seen) != "Exp":
        return None
    node = seen.value.producer()
    assert node is not None
    inner = node.inputs[0]
    return None if inner is None else view(inner, seen.axes, sizes)


def topmost(seen: View, sizes: Mapping[str, int]) -> View:
    """The view above all that only moves axes about."""
    while constant_of(seen.value) is None and (higher := above(seen, sizes)) is not None:
        seen = higher
    return seen


def _lifted(seen: View) -> bool:
    """Whether a value was written from a loop's body: its factors have the layout that the graph wants, not it."""
    node = seen.value.producer()
    return node is not None and str(node.name).startswith(f"{PREFIX}scan")


def _op(seen: View) -> str:
    node = seen.value.producer()
    return "" if node is None else node.op_type


def _parts(seen: View, sizes: Mapping[str, int]) -> Iterator[View | None]:
    """The factors of one operator; a None among them says that it is no product."""
    node = seen.value.producer()
    if node is None or constant_of(seen.value) is not None:
        return
    inputs = [value for value in node.inputs if value is not None]
    if node.op_type in {"Mul", "Neg"}:
        yield from (view(value, seen.axes, sizes) for value in inputs)
    elif node.op_type == "Einsum":
        yield from _outer(node, inputs, seen, sizes)
    elif node.op_type == "MatMul":
        yield from _one_wide(inputs, seen, sizes)


def _outer(node: ir.Node, inputs: Sequence[ir.Value], seen: View, sizes: Mapping[str, int]) -> Iterator[View | None]:
    """Operands of an Einsum that sums over nothing."""
    terms, _, result = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    axis_of = dict(zip(result, seen.axes, strict=False))
    plain = len(axis_of) == len(result) == len(seen.axes)
    for value, term in zip(inputs, terms.split(","), strict=True):
        yield view(value, [axis_of[i] for i in term], sizes) if plain and set(term) <= set(result) else None


def _one_wide(inputs: Sequence[ir.Value], seen: View, sizes: Mapping[str, int]) -> Iterator[View | None]:
    """Operands of a MatMul whose inner axis has size one: it sums over nothing."""
    left, right = inputs
    rows, columns = left.shape, right.shape
    wide = rows is None or columns is None or len(rows) < 2 or len(columns) < 2 or rows[-1] != 1
    if wide or len(seen.axes) < 2:
        yield None
        return
    yield view(left, (*seen.axes[:-1], ()), sizes)
    yield view(right, (*seen.axes[:-2], (), seen.axes[-1]), sizes)
