"""Rules of widths for what Mamba blocks have beside other blocks: the selective scan and the depthwise convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.widths.units import varies

if TYPE_CHECKING:
    from edgeprune.core.widths.call import WidthCall
    from edgeprune.core.widths.units import Units

_CHANNELS = 2
_MATRIX = 2


def selective_scan(call: WidthCall) -> list[Units | None]:
    """Channels run each by itself: step, input and result have them, and A has a row for each."""
    if any(call.units[i] is not None for i in range(_MATRIX + 1, len(call.node.inputs))):
        call.decline("B or C of a scan has the width")
    out = call.meet({i: (call.units[i], call.shape(i)) for i in range(_MATRIX)}, _CHANNELS + 1)
    if any(varies(out, axis) for axis in range(_CHANNELS)):
        call.decline("the width is no channel of the scan")
    call.couple(_MATRIX, out.reshape(-1, 1))
    return [out]


def convolution(call: WidthCall) -> list[Units | None]:
    """One kernel a channel: each channel by itself, with its kernel and its bias."""
    units, kernels = call.data(), call.shape(1)
    others = [axis for axis in range(units.ndim) if axis != 1]
    if call.constant(1) is None or any(varies(units, axis) for axis in others):
        call.decline("the width is convolved")
    if call.attr("group", 1) != call.shape(0)[1] or kernels[:2] != (call.shape(0)[1], 1):
        call.decline("a convolution mixes the width")
    along = units.reshape(-1)
    call.couple(1, along.reshape(-1, *(1,) * (len(kernels) - 1)))
    if call.has(2):
        call.couple(2, along)
    return [units]
