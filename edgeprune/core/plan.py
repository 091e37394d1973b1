"""The plan: the whole decision of a compile, as a value that can be saved, read and applied again.

Same model + same plan = same bytes. `plan.json` is this file's `Plan`, versioned by `schema`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from edgeprune.core.errors import PlanError

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1

Option: TypeAlias = bool | int | float | str
Precision: TypeAlias = Literal["fp32", "fp16"]
WidthKind: TypeAlias = Literal["mlp", "inner", "heads", "head-size", "attention-sublayer", "mlp-sublayer"]
Restore: TypeAlias = Literal["auto", "last-seen", "nearest", "soft", "residual-delta", "cluster", "unmerge", "none"]
Alignment: TypeAlias = Literal["none", "gap", "bias", "exact", "neighbours", "stand-in"]
ScanForm: TypeAlias = Literal["none", "auto", "loop", "chunked"]

# Of these kinds all goes, and a constant row takes the place.
SUBLAYERS: tuple[WidthKind, ...] = ("attention-sublayer", "mlp-sublayer")


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategySpec:
    """A strategy by name, with those of its options that differ from the defaults."""

    name: str
    options: dict[str, Option] = field(default_factory=dict)

    def __str__(self) -> str:
        options = " ".join(f"{name}={_word(value)}" for name, value in sorted(self.options.items()))
        return f"{self.name} ({options})" if options else self.name


def _word(value: Option) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassSpec:
    """A further pass by name, with its options: run on the reduced graph, before it is saved."""

    name: str
    options: dict[str, Option] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCut:
    """After the attention of one block, reduce the patch tokens to `keep`.

    Attributes:
        block: index of the block, 0-based, in execution order.
        keep: patch tokens after the cut; prefix tokens are not counted and never removed.
        strategy: how the tokens are chosen or merged at this cut.
    """

    block: int
    keep: int
    strategy: StrategySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCut:
    """Behind the last block, let `keep` of the patch tokens leave: outputs of one row a token get shorter.

    The interface changes with it: such an output has `keep` rows in the place of all patch tokens', in their order, and
    a further output `kept_indices` says which patches they are.

    Attributes:
        keep: patch tokens that leave; prefix tokens are not counted.
        strategy: how they are chosen or merged.
    """

    keep: int
    strategy: StrategySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthCut:
    """In one block, keep some of the MLP's channels, the heads, or every head's coordinates; or a sublayer's mean.

    Which they are, and the weights that were solved anew for them, are too many numbers for this file: they lie beside
    it, in the file that `Plan.widths_sha256` names.

    Attributes:
        kind: what is removed.
        block: index of the block, 0-based.
        number: tells apart several of one kind in a block.
        keep: how many stay; 0 of 1 for a sublayer.
        of: how many there were.
    """

    kind: WidthKind
    block: int
    number: int = 0
    keep: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that was decided about one model.

    Attributes:
        schema: version of this format.
        model_sha256: of the source ONNX (external data included); a plan fits no other model.
        inputs: static shape of every graph input by name.
        patch_tokens: N of the dense model, without prefix tokens.
        prefix_tokens: class, distillation and register tokens, side by side; never removed.
        prefix_place: patch tokens that stand in front of them; 0 where they come first.
        blocks: number of transformer blocks.
        cuts: token reductions in order of their block.
        output: reduction of the tokens that leave, which changes the interface; None leaves outputs as they are.
        eliminate_tail: compute only the rows that the head reads in the last block.
        restore: how tokens come back where the head or an output needs all of them.
        alignment: what selective scans behind a cut make of the tokens that are gone: how their state decays over them
            (`exact` makes the cut inside its block), or which kept ones stand at their places, for the convolution in
            front of a scan (`neighbours`) or for the scan as well (`stand-in`).
        widths: channels, heads and head sizes that are cut, in the order of their kind and block.
        widths_sha256: of the file with what is kept and the weights solved for it; empty where no width is cut.
        precision: of the engine; graph inputs and outputs stay fp32.
        passes: further passes, in the order in which they run.
        targets: names of target profiles.
        tensorrt: version of TensorRT that the graphs for the targets are lowered for; empty for each profile's own.
        fused_attention: whether those graphs let the runtime fuse attention.
        scan: how selective scans are written: `auto` is a loop in model.onnx and chunks for TensorRT; `none` where the
            model has none.
        seed: of every pseudo-random choice.
    """

    schema: int = SCHEMA
    model_sha256: str
    inputs: dict[str, tuple[int, ...]]
    patch_tokens: int
    prefix_tokens: int
    prefix_place: int = 0
    blocks: int
    cuts: tuple[TokenCut, ...] = ()
    output: OutputCut | None = None
    eliminate_tail: bool = True
    restore: Restore = "auto"
    alignment: Alignment = "none"
    widths: tuple[WidthCut, ...] = ()
    widths_sha256: str = ""
    precision: Precision = "fp32"
    passes: tuple[PassSpec, ...] = ()
    targets: tuple[str, ...] = ()
    tensorrt: str = ""
    fused_attention: bool = True
    scan: ScanForm = "none"
    seed: int = 0

    def run(self) -> range:
        """Where the prefix tokens stand in the dense sequence."""
        return range(self.prefix_place, self.prefix_place + self.prefix_tokens)

    def schedule(self) -> tuple[int, ...]:
        """Patch tokens left after each block's cut, `blocks` numbers."""
        kept, out = self.patch_tokens, []
        by_block = {cut.block: cut.keep for cut in self.cuts}
        for block in range(self.blocks):
            kept = by_block.get(block, kept)
            out.append(kept)
        return tuple(out)


def check_plan(plan: Plan) -> None:
    """Check what a plan must hold whatever the model is.

    Raises:
        PlanError: naming the field, what was expected and what was found.
    """
    if plan.schema != SCHEMA:
        msg = f"plan has schema {plan.schema}, expected {SCHEMA}: `schema`"
        raise PlanError(msg, hint="write the plan again with this version of edgeprune")
    if not 0 <= plan.prefix_place <= plan.patch_tokens:
        msg = f"{plan.prefix_place} patch tokens stand before the prefix tokens, of {plan.patch_tokens}: `prefix_place`"
        raise PlanError(msg, hint="use plan.json as it was written")
    before, last = plan.patch_tokens, -1
    for i, cut in enumerate(plan.cuts):
        if not last < cut.block < plan.blocks:
            where = f"`cuts[{i}].block`"
            msg = f"cut {i} is in block {cut.block}, expected a block after {last} and below {plan.blocks}: {where}"
            raise PlanError(msg, hint="list the cuts in the order of their blocks, one cut a block")
        if not 1 <= cut.keep <= before:
            msg = f"block {cut.block} keeps {cut.keep} patch tokens but has {before}: `cuts[{i}].keep`"
            raise PlanError(msg, hint="`keep` counts patch tokens, without prefix tokens")
        before, last = cut.keep, cut.block
    _check_widths(plan)
    if plan.output is not None and not 1 <= plan.output.keep <= before:
        msg = f"the output keeps {plan.output.keep} patch tokens but has {before}: `output.keep`"
        raise PlanError(msg, hint="let no more tokens leave than the last cut keeps")


def _check_widths(plan: Plan) -> None:
    seen: set[tuple[str, int, int]] = set()
    for i, cut in enumerate(plan.widths):
        where = f"`widths[{i}]`"
        if (cut.kind, cut.block, cut.number) in seen or not 0 <= cut.block < plan.blocks:
            msg = f"the {cut.kind} width of block {cut.block} is cut twice, or there is no such block: {where}"
            raise PlanError(msg, hint="list every width once, by the index of its block")
        fewest = 0 if cut.kind in SUBLAYERS else 1
        if not fewest <= cut.keep < cut.of:
            msg = (
                f"block {cut.block} keeps {cut.keep} of {cut.of} ({cut.kind}), expected fewer and at least one: {where}"
            )
            raise PlanError(msg, hint="leave out widths that stay as they are")
        seen.add((cut.kind, cut.block, cut.number))
    _check_sublayers(plan, seen)
    if bool(plan.widths) != bool(plan.widths_sha256):
        msg = "a plan that cuts widths names the file of their weights, and no other does: `widths_sha256`"
        raise PlanError(msg, hint="use plan.json as it was written, with widths.npz beside it")


def _check_sublayers(plan: Plan, seen: set[tuple[str, int, int]]) -> None:
    """Check that nothing is cut in what is gone.

    Raises:
        PlanError: naming the cut.
    """
    for i, cut in enumerate(plan.cuts):
        if ("attention-sublayer", cut.block, 0) in seen:
            msg = f"tokens are cut behind the attention of block {cut.block}, which its mean stands for: `cuts[{i}]`"
            raise PlanError(msg, hint="cut tokens in a block that keeps its attention")
    behind = range(plan.cuts[-1].block + 1, plan.blocks) if plan.cuts else range(0)
    if behind and all(("attention-sublayer", block, 0) in seen for block in behind):
        msg = f"tokens are cut in block {plan.cuts[-1].block}, and no attention is left behind it: `widths`"
        raise PlanError(msg, hint="keep an attention behind the last cut, or leave out the cut")
    of = {"mlp": "mlp-sublayer", "heads": "attention-sublayer", "head-size": "attention-sublayer"}
    for i, width in enumerate(plan.widths):
        if (of.get(width.kind, ""), width.block, width.number) in seen:
            msg = f"the {width.kind} width of block {width.block} is cut, and its sublayer is gone: `widths[{i}]`"
            raise PlanError(msg, hint="cut a width, or let the mean stand for its sublayer")


def plan_to_json(plan: Plan) -> bytes:
    """Serialise a plan; equal plans give equal bytes. What only scans have is left out where nothing is aligned."""
    plain = msgspec.to_builtins(plan, order="sorted")
    if plan.alignment == "none":
        del plain["alignment"]
    if plan.scan == "none":
        del plain["scan"]
    if plan.prefix_place == 0:
        del plain["prefix_place"]
    return msgspec.json.format(msgspec.json.encode(plain, order="sorted"), indent=2) + b"\n"


def plan_from_json(data: bytes) -> Plan:
    """Read a plan.

    Raises:
        PlanError: if the bytes are no plan of this schema, or the plan contradicts itself.
    """
    try:
        plan = msgspec.json.decode(data, type=Plan)
    except msgspec.DecodeError as error:
        msg = f"not a plan: {error}"
        raise PlanError(msg, hint="expected a plan.json written by `edgeprune plan` or `edgeprune compile`") from error
    check_plan(plan)
    return plan


def read_plan(path: Path) -> Plan:
    """Read a plan.json.

    Raises:
        PlanError: if it cannot be read, or holds no plan.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"cannot read the plan {path}: {error.strerror or error}"
        raise PlanError(msg, hint="give a plan.json written by `edgeprune plan` or `edgeprune compile`") from error
    return plan_from_json(data)
