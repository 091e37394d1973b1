"""How many units a width may keep so that what is cut is faster: whole tiles, and heads that fused attention takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.core.widths.groups import WidthGroup

# Tiles of matrix products are 64 or 128 wide; small widths are laid out in eights.
_TILE, _EIGHT = 64, 8
# Fused attention takes head sizes of 16 to 256 in eights, and is lost with a single head.
_SMALLEST_HEAD = 16
_FEWEST_HEADS = 2


def step_of(group: WidthGroup) -> int:
    """Kept counts are multiples of this."""
    if group.kind == "heads":
        return 1
    if group.kind == "head-size":
        return _EIGHT if group.size > _EIGHT else 1
    return _TILE if group.size >= 2 * _TILE else _EIGHT if group.size >= 2 * _EIGHT else 1


def fewest_of(group: WidthGroup) -> int:
    """No fewer units are kept."""
    if group.kind == "heads":
        return min(_FEWEST_HEADS, group.size)
    if group.kind == "head-size":
        return min(_SMALLEST_HEAD, group.size)
    return max(step_of(group), group.size // 8 // step_of(group) * step_of(group))


def levels_of(group: WidthGroup, share: float = 0.0) -> list[int]:
    """Counts that a width may keep, ascending, down to half of `share`, and all of it."""
    step, low = step_of(group), max(fewest_of(group), share * group.size / 2)
    found = [keep for keep in range(step, group.size, step) if keep >= low]
    return [*found, group.size]
