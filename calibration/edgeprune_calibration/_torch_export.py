"""The two ONNX exporters of PyTorch, made quiet, and their failures made readable."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Literal, TypeAlias

from edgeprune.core.errors import ModelError
from edgeprune_calibration._imports import describe
from edgeprune_calibration._torch_modules import TorchModel, plain_outputs
from edgeprune_calibration._torch_scans import inline_scans, scan_settings, scans_as_operators

Exporter: TypeAlias = Literal["dynamo", "torchscript"]
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")
# TensorRT 10.3, the oldest runtime with strong typing that a target has, reads up to opset 20; the old exporter is at
# home at 17.
DEFAULT_OPSET: dict[Exporter, int] = {"dynamo": 20, "torchscript": 17}
_INLINE_BYTES = 1_800_000_000
_BATCH = "batch"

# What a failure says -> what helps; found on real models.
_HINTS = (
    ("is_causal", "write attention out: timm:NAME?fused=false, or attn_implementation='eager'"),
    ("Cannot view a tensor", "write attention out: timm:NAME?fused=false, or attn_implementation='eager'"),
    ("aten::", "this exporter lacks an operator: try --exporter {other}"),
    ("DataDependent", "shapes depend on values: try --exporter torchscript, which traces them to constants"),
    ("data-dependent", "shapes depend on values: try --exporter torchscript, which traces them to constants"),
    ("inferred ranges", "the module fixes its batch axis: export without --dynamic-batch"),
    ("onnxscript", "pip install onnxscript, or use --exporter torchscript"),
)


def run_exporter(
    model: TorchModel, path: Path, *, exporter: Exporter, opset: int, dynamic_batch: bool, outputs: Sequence[str]
) -> None:
    """Write `model` at its example inputs to `path`, weights beside it where they are too large for one file.

    Raises:
        ModelError: if the exporter fails.
    """
    import torch

    examples = model.needed_examples()
    module = _flat_module(model) if model.by_keyword or list(outputs) != ["output"] else model.module
    settings: dict[str, Any] = {
        "input_names": list(model.names),
        "output_names": list(outputs),
        "opset_version": opset,
        "dynamo": exporter == "dynamo",
    }
    if exporter == "dynamo":
        large = sum(each.nbytes for each in module.state_dict().values()) > _INLINE_BYTES
        settings |= {"external_data": large, "verbose": False}
    if dynamic_batch:
        settings |= _dynamic(model, outputs, exporter, flat=module is not model.module)
    try:
        with _quiet(), torch.no_grad(), scans_as_operators(model) as scans:
            if not scans:
                torch.onnx.export(module, examples, str(path), **settings)
            else:
                with scan_settings(exporter, opset) as more:
                    torch.onnx.export(module, examples, str(path), **settings, **more)
                inline_scans(path)
    except Exception as exc:  # the exporters raise whatever their many stages raise
        reason = _reason(exc)
        msg = f"the {exporter} exporter fails on `{model.source}`: {reason}"
        raise ModelError(msg, hint=_hint(f"{exc} {reason}", exporter)) from exc


def _dynamic(model: TorchModel, outputs: Sequence[str], exporter: Exporter, *, flat: bool) -> dict[str, Any]:
    import torch

    if exporter == "torchscript":
        return {"dynamic_axes": {name: {0: _BATCH} for name in (*model.names, *outputs)}}
    axes = tuple({0: torch.export.Dim.DYNAMIC} for _ in model.names)
    return {"dynamic_shapes": (axes,) if flat else axes}


def _flat_module(model: TorchModel) -> Any:
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        """Tensors in, a tuple of tensors out: what both exporters understand."""

        def __init__(self) -> None:
            super().__init__()
            self.module = model.module

        def forward(self, *tensors: Any) -> Any:
            if model.by_keyword:
                returned = self.module(**dict(zip(model.names, tensors, strict=True)))
            else:
                returned = self.module(*tensors)
            return tuple(plain_outputs(returned).values())

    return Flat().eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress, advice and warnings off the terminal."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        level = logging.root.manager.disable
        stack.callback(logging.disable, level)
        logging.disable(logging.ERROR)
        yield


def _reason(exc: BaseException) -> str:
    """The innermost cause: the outer ones say which stage failed, and how to file an issue."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return describe(exc)


def _hint(text: str, exporter: Exporter) -> str:
    other = EXPORTERS[1 - EXPORTERS.index(exporter)]
    for mark, hint in _HINTS:
        if mark in text:
            return hint.format(other=other)
    return f"try --exporter {other}"
