"""Selective scans of PyTorch modules leave as one ONNX `Scan` each, not as thousands of unrolled nodes.

While a module is exported, functions named like `selective_scan` in the modules that its classes come from, and
methods of that name, give way to one operator of PyTorch that both exporters write as `edgeprune::SelectiveScan`;
its function is then inlined, so the file holds standard operators only. Whether a function computes that recurrence,
and in which layout, is not guessed from its name: it is tried on the example inputs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgeprune.core.scans import DOMAIN, OPERATOR, carry_function, is_selective_scan
from edgeprune_calibration._torch_modules import TorchModel

_NAMES = ("selective_scan", "selective_scan_fn", "selective_scan_ref", "selective_scan_seq", "mamba_inner_ref")
_SCANS = _NAMES[:4]
# mamba_ssm's order of parameters; others call some of them differently.
_PARAMETERS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus", "return_last_state")
_ALIASES = {"x": "u", "dt": "delta", "dt_bias": "delta_bias", "dt_softplus": "delta_softplus"}
# Of the largest value: both are fp32 sums over hundreds of tokens, each in its own order.
_AGREES = 1e-4


@dataclass(slots=True, eq=False)
class _Place:
    """Where a scan is looked up by its name.

    Attributes:
        owner: the module or the class.
        name: of the attribute.
        original: what stands there.
        layouts: that every call so far agrees with: whether channels come last.
        called: whether it was called at all.
    """

    owner: Any
    name: str
    original: Callable[..., Any]
    layouts: list[bool] = field(default_factory=lambda: [False, True])
    called: bool = False


@contextmanager
def scans_as_operators(model: TorchModel) -> Iterator[bool]:
    """For the time of an export, let each scan of a module be one operator; yields whether there is any."""
    places = [place for place in _tried(model) if place.called and place.layouts]
    with ExitStack() as stack:
        for place in places:
            _replace(stack, place, _as_operator(place))
        yield bool(places)


@contextmanager
def scan_settings(exporter: str, opset: int) -> Iterator[dict[str, Any]]:
    """What `torch.onnx.export` needs to know to write the operator as a node."""
    import torch

    _operator()
    if exporter == "dynamo":
        yield {"custom_translation_table": {torch.ops.edgeprune.selective_scan.default: _dynamo_node()}}
        return

    def written(graph: Any, step: Any, *others: Any) -> Any:
        return graph.op(f"{DOMAIN}::{OPERATOR}", step, *others).setType(step.type())

    torch.onnx.register_custom_op_symbolic("edgeprune::selective_scan", written, opset)
    try:
        yield {"custom_opsets": {DOMAIN: 1}}
    finally:
        torch.onnx.unregister_custom_op_symbolic("edgeprune::selective_scan", opset)


def _dynamo_node() -> Any:
    """What the dynamo exporter calls to write the node; it takes no operator whose schema it does not know."""
    from onnx.defs import OpSchema
    from onnxscript.values import Op, Opset

    operands = [OpSchema.FormalParameter(name, "tensor(float)") for name in ("step", "input", "A", "B", "C")]
    result = OpSchema.FormalParameter("y", "tensor(float)")
    node = Op(Opset(DOMAIN, 1), OPERATOR, OpSchema(OPERATOR, DOMAIN, 1, inputs=operands, outputs=[result]))

    def translated(step: Any, added: Any, A: Any, B: Any, C: Any) -> Any:
        return node(step, added, A, B, C)

    return translated


def inline_scans(path: Path) -> None:
    """Write each operator of a file in ONNX's own."""
    import onnx_ir as ir
    from onnx_ir.passes.common import InlinePass

    model = ir.load(path)
    if not any(is_selective_scan(node) for node in model.graph):
        return
    beside = any(isinstance(v.const_value, ir.ExternalTensor) for v in model.graph.initializers.values())
    if beside:  # the file that they are read from is written anew
        ir.external_data.load_to_model(model)
    carry_function(model)
    InlinePass()(model)
    model.graph.opset_imports.pop(DOMAIN, None)
    ir.save(model, path, external_data=f"{path.name}.data" if beside else None)


@lru_cache
def _operator() -> Any:
    """The recurrence of `edgeprune.core.scans` as an operator of PyTorch."""
    import torch

    def scan(
        step: torch.Tensor, added: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor
    ) -> torch.Tensor:
        state = step.new_zeros(step.shape[0], A.shape[0], A.shape[1])
        outputs = []
        for t in range(step.shape[1]):
            state = torch.exp(step[:, t, :, None] * A) * state + added[:, t, :, None] * B[:, t, None]
            outputs.append((state * C[:, t, None]).sum(-1))
        return torch.stack(outputs, 1)

    # The annotations above are text, which the schema cannot be read off.
    schema = "(Tensor step, Tensor added, Tensor A, Tensor B, Tensor C) -> Tensor"
    operator = torch.library.custom_op("edgeprune::selective_scan", scan, mutates_args=(), schema=schema)
    operator.register_fake(lambda step, *_: torch.empty_like(step))
    return operator


def _tried(model: TorchModel) -> list[_Place]:
    """The places of a model's scans, each with the layouts in which the operator computes the same."""
    places = _places(model.module)
    with ExitStack() as stack:
        for place in places:
            _replace(stack, place, _compared(place))
        if places:
            model.call(model.needed_examples())
    return places


def _places(module: Any) -> list[_Place]:
    classes = {type(part) for part in module.modules()}
    owners = {name: sys.modules[name] for each in classes if (name := each.__module__) in sys.modules}
    for owner in list(owners.values()):  # where a scan was imported from, it may be called by others
        for name in _NAMES:
            home = getattr(getattr(owner, name, None), "__module__", None)
            if home in sys.modules:
                owners[home] = sys.modules[home]
    found = [
        _Place(owner, name, vars(owner)[name]) for owner in owners.values() for name in _SCANS if name in vars(owner)
    ]
    for each in classes:
        found += [
            _Place(base, name, vars(base)[name]) for base in each.__mro__ for name in _SCANS if name in vars(base)
        ]
    once = {(id(place.owner), place.name): place for place in found if inspect.isfunction(place.original)}
    return list(once.values())


def _replace(stack: ExitStack, place: _Place, function: Callable[..., Any]) -> None:
    setattr(place.owner, place.name, function)
    stack.callback(setattr, place.owner, place.name, place.original)


def _compared(place: _Place) -> Callable[..., Any]:
    """The original, that on the way finds out in which layouts the operator does the same."""

    def both(*args: Any, **kwargs: Any) -> Any:
        expected = place.original(*args, **kwargs)
        place.called = True
        place.layouts = [last for last in place.layouts if _same(expected, place, last, args, kwargs)]
        return expected

    return both


def _same(expected: Any, place: _Place, last: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:  # noqa: FBT001
    import torch

    if not isinstance(expected, torch.Tensor):
        return False
    try:
        found = _called(place, args, kwargs, channels_last=last)
    except (TypeError, ValueError, RuntimeError, IndexError):  # other shapes, or parameters of another kind
        return False
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= _AGREES * expected.abs().max().clamp(min=1e-6))


def _as_operator(place: _Place) -> Callable[..., Any]:
    def scan(*args: Any, **kwargs: Any) -> Any:
        return _called(place, args, kwargs, channels_last=place.layouts[0])

    return scan


def _called(place: _Place, args: tuple[Any, ...], kwargs: dict[str, Any], *, channels_last: bool) -> Any:
    """Call the operator with what the original is called with.

    Raises:
        TypeError: if the original takes other things than a selective scan does.
    """
    bound = inspect.signature(place.original).bind(*args, **kwargs).arguments
    named = {_ALIASES.get(name, name): value for name, value in bound.items()}
    if named.get("return_last_state"):
        msg = "the operator has no last state"
        raise TypeError(msg)
    return _scan(**{name: named[name] for name in _PARAMETERS[:9] if name in named}, channels_last=channels_last)


def _scan(  # noqa: PLR0913 (as many as mamba_ssm's)
    *,
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any = None,
    z: Any = None,
    delta_bias: Any = None,
    delta_softplus: bool = False,
    channels_last: bool,
) -> Any:
    """mamba_ssm's scan around the operator.

    Shapes: u, delta, z and the result [B,D,L], B and C [B,n,L], or each with its last two axes the other way round.
    """
    import torch

    if not channels_last:
        u, delta, B, C = (each.transpose(1, 2) for each in (u, delta, B, C))
        z = None if z is None else z.transpose(1, 2)
    step = delta if delta_bias is None else delta + delta_bias
    if delta_softplus:
        step = torch.nn.functional.softplus(step)
    y = _operator()(step.float(), (step * u).float(), A.float(), B.float(), C.float())
    y = y if D is None else y + u * D
    y = y if z is None else y * torch.nn.functional.silu(z)
    return (y if channels_last else y.transpose(1, 2)).to(u.dtype)
