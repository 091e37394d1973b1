"""One node as a width rule sees it: units of its inputs, shapes and constants in; units and edits out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import numpy as np

from edgeprune.core.errors import PassError
from edgeprune.core.flow.call import Declined
from edgeprune.core.graph import constant_of, name_of, static_shape
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.widths.units import Units, aligned, kept_by_axis, sizes_of, squashed, varies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir

    from edgeprune.core.widths.units import Kept, Unions

    Remake: TypeAlias = Callable[[Kept], np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """Input `index` of a node is a constant that follows the width: `remake` gives it anew for the units that stay.

    Attributes:
        node: the node.
        index: which of its inputs.
        axes: axes along which a weight is taken; empty for a literal that names a size.
        remake: the new array by which units stay.
    """

    node: ir.Node
    index: int
    axes: tuple[int, ...]
    remake: Remake


@dataclass(slots=True)
class WidthCall:
    """A node with the units of its inputs, and what its rule says.

    Attributes:
        node: the node.
        units: one an input; None where no unit is.
        unions: told which units belong together.
        edits: constants that must follow.
        tracing: only where units arrive is asked; constants need not follow.
        consumes: whether a product with a constant weight contracts the units here.
    """

    node: ir.Node
    units: tuple[Units | None, ...]
    unions: Unions
    edits: list[Edit] = field(default_factory=list)
    tracing: bool = False
    consumes: bool = False

    def decline(self, reason: str, code: RefusalCode = RefusalCode.WIDTH_BOUND) -> NoReturn:
        """Refuse this node.

        Raises:
            Declined: always.
        """
        raise Declined(Refusal(code, f"{reason} ({self.node.op_type} node)", (name_of(self.node),)))

    def shape(self, index: int) -> tuple[int, ...]:
        """Static shape of an input."""
        value = self.node.inputs[index]
        return self._known(static_shape(value) if value is not None else None)

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """Static shape of an output."""
        return self._known(static_shape(self.node.outputs[index]))

    def _known(self, shape: tuple[int, ...] | None) -> tuple[int, ...]:
        if shape is None:
            self.decline("a shape is not static", RefusalCode.UNKNOWN_SHAPE)
        return shape

    def has(self, index: int) -> bool:
        """Whether the optional input is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def data(self, index: int = 0) -> Units:
        """Units of an input that must have some."""
        units = self.units[index]
        if units is None:
            self.decline("units arrive where none were expected", RefusalCode.NO_RULE)
        return units

    def constant(self, index: int) -> np.ndarray | None:
        """The array of a constant input."""
        return constant_of(self.node.inputs[index]) if self.has(index) else None

    def ints(self, index: int) -> tuple[int, ...]:
        """A constant integer input."""
        array = self.constant(index)
        if array is None:
            self.decline("a shape argument is computed at run time", RefusalCode.UNKNOWN_SHAPE)
        return tuple(int(i) for i in np.asarray(array).reshape(-1))

    def attr(self, name: str, default: int) -> int:
        """An integer attribute."""
        found = self.node.attributes.get(name)
        return default if found is None else found.as_int()

    def attr_ints(self, name: str) -> tuple[int, ...] | None:
        """A list attribute."""
        found = self.node.attributes.get(name)
        return None if found is None else tuple(found.as_ints())

    def axes_argument(self, index: int) -> tuple[int, ...] | None:
        """The `axes` of Squeeze, Reduce and others: an attribute in old opsets, an input in new ones."""
        return self.ints(index) if self.has(index) else self.attr_ints("axes")

    def couple(self, index: int, units: Units) -> None:
        """A constant input has an element for each of these units: it is taken along with them."""
        shape = self.shape(index)
        own = squashed(units)
        axes = tuple(axis for axis in range(own.ndim) if varies(own, axis))
        if not axes:
            return

        def remake(kept: Kept) -> np.ndarray:
            array = self.constant(index)
            assert array is not None
            for axis, mask in enumerate(self.box(own, shape, kept)):
                array = array if mask.all() else np.compress(mask, array, axis=axis)
            return np.ascontiguousarray(array)

        self.edits.append(Edit(self.node, index, axes, remake))

    def literal(self, index: int, remake: Callable[[Kept], Sequence[int]]) -> None:
        """A constant input names sizes: it is written anew from what stays."""
        old = self.constant(index)
        if old is None:
            self.decline("a shape argument is computed at run time", RefusalCode.UNKNOWN_SHAPE)
        dtype, rank = old.dtype, old.ndim

        def made(kept: Kept) -> np.ndarray:
            new = np.asarray(list(remake(kept)), dtype=dtype)
            return new.reshape(()) if rank == 0 else new

        self.edits.append(Edit(self.node, index, (), made))

    def box(self, units: Units, shape: Sequence[int], kept: Kept) -> tuple[Kept, ...]:
        """Which positions of a value stay along each axis.

        Raises:
            PassError: if what stays is no box; units that differ so were to be refused.
        """
        masks = kept_by_axis(units, shape, kept)
        if masks is None:
            msg = f"what stays of the width at {name_of(self.node)} is no box"
            raise PassError(msg, hint="this is a bug in edgeprune; please report it with the model's architecture")
        return masks

    def new_shape(self, units: Units, shape: Sequence[int], kept: Kept) -> tuple[int, ...]:
        """Shape of a value when only some units stay."""
        return sizes_of(self.box(units, shape, kept))

    def meet(self, operands: dict[int, tuple[Units | None, tuple[int, ...]]], rank: int) -> Units:
        """Broadcast operands: units that meet are joined, constants that meet them follow.

        Args:
            operands: units and shape of each operand by input index; shapes may leave out axes in front.
            rank: of the result.
        """
        carried = [aligned(units, rank) for units, _ in operands.values() if units is not None]
        result = carried[0]
        for units in carried[1:]:
            result = self._joined(result, units)
        for index, (own, shape) in operands.items():
            if own is not None:
                continue
            full = (1,) * (rank - len(shape)) + tuple(shape)
            if any(full[axis] > 1 and varies(result, axis) for axis in range(rank)):
                self._follow(index, result, full, len(shape))
        return result

    def _joined(self, a: Units, b: Units) -> Units:
        self.unions.join(a, b)
        return np.array(np.broadcast_arrays(a, b)[0])

    def _follow(self, index: int, units: Units, shape: tuple[int, ...], rank: int) -> None:
        """A value without units is aligned with units: it must be a constant, and is taken along."""
        if self.tracing:
            return
        if self.constant(index) is None:
            self.decline("the width meets a value that is computed elsewhere")
        own = units
        for axis, size in enumerate(shape):
            if size == 1:
                own = own.take([0], axis=axis)
        if any(varies(units, axis) and shape[axis] == 1 for axis in range(len(shape))) and squashed(own).size > 1:
            self.decline("a constant is shared by units that could go one without the other")
        self.couple(index, own.reshape(own.shape[len(shape) - rank :]))
