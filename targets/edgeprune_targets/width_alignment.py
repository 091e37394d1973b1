"""How wide an MLP and a head may be on a device, so that what is cut is faster and attention still fuses."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

from edgeprune_targets.target import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune_targets.target import Target

# From this many SMs on, tiles of 128 columns still fill the device.
_LARGE = 80
_WHOLE_TILE, _LARGE_TILE = 64, 128
_EIGHT, _SMALLEST_HEAD, _FEWEST_HEADS = 8, 16, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthAlignment:
    """Widths that a device runs without waste.

    Attributes:
        mlp_step: channels of an MLP are multiples of this; of `small_step` where the whole MLP is less than two.
        small_step: the same for small MLPs.
        head_size_step: head sizes are multiples of this, queries', keys' and values' alike.
        smallest_head_size: no head is smaller.
        fewest_heads: no attention has fewer heads.
        sources: where each of them comes from, by field name.
    """

    mlp_step: int = _WHOLE_TILE
    small_step: int = _EIGHT
    head_size_step: int = _EIGHT
    smallest_head_size: int = _SMALLEST_HEAD
    fewest_heads: int = _FEWEST_HEADS
    sources: dict[str, Source]


_PROBED = Source(
    status="verified",
    text="TensorRT-RTX 1.7.1: heads of 16 to 256 fuse, 8 and 264 do not; one head, or values of another size, do not",
)
_LAID_OUT = Source(
    status="verified", text="TensorRT developer guide, TensorRT#3876: fp16 channels are laid out in eights"
)
_TILED = Source(status="assumed", text="tiles of matrix products are 64 columns wide, 128 from 80 SMs on")
_SOURCES = {
    "mlp_step": _TILED,
    "small_step": _LAID_OUT,
    "head_size_step": _LAID_OUT,
    "smallest_head_size": _PROBED,
    "fewest_heads": _PROBED,
}


def width_alignment(targets: Sequence[Target] = ()) -> WidthAlignment:
    """What all targets run without waste; without a target, what nearly all devices do.

    A profile may state `mlp_step` and `head_size_step`; else they follow from the size of the device.
    """
    steps = [(target.mlp_step or _tile(target), target.head_size_step or _EIGHT) for target in targets]
    own = {name: target.sources[name] for target in targets for name in _SOURCES if name in target.sources}
    mlp, head = (lcm(*row) for row in zip(*steps, strict=True)) if steps else (_WHOLE_TILE, _EIGHT)
    smallest = -(-_SMALLEST_HEAD // head) * head
    return WidthAlignment(mlp_step=mlp, head_size_step=head, smallest_head_size=smallest, sources={**_SOURCES, **own})


def _tile(target: Target) -> int:
    return _LARGE_TILE if target.sms >= _LARGE else _WHOLE_TILE
