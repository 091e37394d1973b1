"""Einsum without ellipsis: parsers before TensorRT 10.12 know letters only."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeprune.core.graph import static_shape
from edgeprune_targets.lowering._rewrite import nodes_of, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def spell_out_einsum(model: ir.Model) -> int:
    """Give each axis behind an ellipsis a letter of its own; nodes whose ellipses broadcast are left as they are."""
    done = 0
    for node in nodes_of(model, "Einsum"):
        equation = text_of(node, "equation", "").replace(" ", "")
        shapes = [static_shape(value) for value in node.inputs if value is not None]
        known = [shape for shape in shapes if shape is not None]
        plain = spelled_out(equation, known) if len(known) == len(shapes) else None
        if plain is not None and plain != equation:
            node.attributes["equation"] = ir.AttrString("equation", plain)
            done += 1
    return done


def spelled_out(equation: str, shapes: Sequence[tuple[int, ...]]) -> str | None:
    """The equation without '...' and with an explicit result; None where one has to broadcast."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if "..." not in equation:
        return equation
    hidden = [
        shape[term.index("...") :][: len(shape) - len(term) + 3]
        for term, shape in zip(terms, shapes, strict=True)
        if "..." in term
    ]
    if len(set(hidden)) > 1:
        return None
    free = [letter for letter in string.ascii_letters if letter not in equation]
    word = "".join(free[: len(hidden[0])]) if hidden else ""
    if not arrow:
        letters = [letter for letter in left if letter.isalpha()]
        right = "..." + "".join(sorted({letter for letter in letters if letters.count(letter) == 1}))
    return ",".join(term.replace("...", word) for term in terms) + "->" + right.replace("...", word)
