"""PyTorch sources: 'timm:NAME[?option=value&...]', 'pkg.module:factory', 'FILE.pt2'; loaded, and exported to ONNX.

A timm name and a `.pt2` are read as data. A factory is the user's own code, run because the user named it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.core.errors import ModelError
from edgeprune_calibration._imports import describe, is_reference
from edgeprune_calibration._timm import PREFIX, from_timm
from edgeprune_calibration._torch_export import DEFAULT_OPSET, EXPORTERS, Exporter, run_exporter
from edgeprune_calibration._torch_modules import (
    TorchModel,
    from_exported,
    from_factory,
    plain_outputs,
    torch_needed,
    with_batch,
    with_shapes,
)
from edgeprune_calibration.runner import Runner

# Good exports agree to 1e-7 .. 1e-5 of the range; above this the graph computes something else.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An ONNX file made of a PyTorch source, and how well it agrees.

    Attributes:
        path: of the file.
        exporter: that wrote it.
        opset: of the graph.
        max_abs_error: largest difference to PyTorch over all outputs, in ONNX Runtime at the example inputs.
        max_abs_value: largest output of PyTorch there, the scale of the error.
        seconds: for loading, exporting and checking.
        inputs: names of the graph inputs.
        outputs: names of the graph outputs.
        warnings: what the user should know.
    """

    path: Path
    exporter: Exporter
    opset: int
    max_abs_error: float
    max_abs_value: float
    seconds: float
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def is_torch_source(source: str) -> bool:
    """Tell whether `source` names a PyTorch model rather than an ONNX file."""
    if source.startswith(PREFIX) or source.endswith(".pt2"):
        return True
    return is_reference(source) and not Path(source).exists()


def load_torch(source: str) -> tuple[Any, tuple[Any, ...]]:
    """Load the module of a source, in evaluation mode, with its example inputs.

    Raises:
        ModelError: if it cannot be loaded, or nothing says what it takes as input.
    """
    model = open_torch(source)
    return model.module, model.needed_examples()


def open_torch(source: str) -> TorchModel:
    """Load a source as a `TorchModel`; its example inputs may be unknown.

    Raises:
        ModelError: if PyTorch is missing, the source is of no known form, or cannot be loaded.
    """
    with torch_needed():
        if source.startswith(PREFIX):
            return from_timm(source)
        if source.endswith(".pt2"):
            return from_exported(Path(source))
        if is_reference(source):
            return from_factory(source)
    msg = f"`{source}` is no PyTorch source"
    raise ModelError(msg, hint="write timm:NAME, pkg.module:factory, or the path of a .pt2 file")


def export_torch(  # noqa: PLR0913 (an exporter's options)
    source: str,
    out_path: Path,
    *,
    exporter: Exporter = "dynamo",
    opset: int | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    dynamic_batch: bool = False,
) -> Export:
    """Export a source to ONNX and check it against PyTorch in ONNX Runtime; the file appears whole or not at all.

    Args:
        source: of the module.
        out_path: of the ONNX file; weights above protobuf's limit go to a `.data` file beside it.
        exporter: 'dynamo' (torch.export) or 'torchscript' (tracing).
        opset: None is 20 for dynamo and 17 for torchscript: TensorRT 10.3 reads both.
        inputs: shapes by input name, in place of the source's own example inputs.
        batch: size of the batch axis; None leaves the example inputs as they are.
        dynamic_batch: leave the batch axis open.

    Raises:
        ModelError: if loading or the exporter fails, or the graph disagrees with PyTorch.
    """
    if exporter not in EXPORTERS:
        msg = f"no exporter is named `{exporter}`"
        raise ModelError(msg, hint=f"the exporters are {', '.join(EXPORTERS)}")
    start = time.perf_counter()
    model = with_shapes(open_torch(source), inputs or {})
    # torch.export takes a size of 1 for a constant.
    size = max(2, batch or 2) if dynamic_batch else batch
    model = model if size is None else with_batch(model, size)
    outputs = tuple(_torch_outputs(model))
    used = opset or DEFAULT_OPSET[exporter]
    out_path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".edgeprune-", dir=out_path.parent) as folder:
        made = Path(folder) / out_path.name
        run_exporter(model, made, exporter=exporter, opset=used, dynamic_batch=dynamic_batch, outputs=outputs)
        runner = _open_export(made, exporter)
        error, scale = _check(model, runner, exporter)
        if dynamic_batch:
            error = max(error, _check(with_batch(model, len(model.needed_examples()[0]) + 1), runner, exporter)[0])
        _publish(made, out_path)
    return Export(
        path=out_path,
        exporter=exporter,
        opset=used,
        max_abs_error=error,
        max_abs_value=scale,
        seconds=time.perf_counter() - start,
        inputs=tuple(spec.name for spec in runner.inputs),
        outputs=outputs,
        warnings=model.notes,
    )


def _torch_outputs(model: TorchModel) -> dict[str, np.ndarray[Any, Any]]:
    try:
        found = plain_outputs(model.call(model.needed_examples()))
    except ModelError:
        raise
    except Exception as exc:  # whatever the module raises
        shapes = ", ".join(str(list(tensor.shape)) for tensor in model.needed_examples())
        msg = f"`{model.source}` fails at inputs of shape {shapes}: {describe(exc)}"
        fixed = "Guard failed" in str(exc)
        hint = "an exported program keeps its shapes" if fixed else "say the shapes: --input NAME:1x3x224x224"
        raise ModelError(msg, hint=hint) from exc
    values = {name: tensor.detach().numpy() for name, tensor in found.items()}
    for name, value in values.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            msg = f"output `{name}` of `{model.source}` holds NaN or Inf in PyTorch already"
            raise ModelError(msg, hint="check the weights and the example inputs")
    return values


def _open_export(path: Path, exporter: Exporter) -> Runner:
    other = EXPORTERS[1 - EXPORTERS.index(exporter)]
    try:
        return Runner(path)
    except ModelError as exc:
        msg = f"the {exporter} exporter wrote a graph that does not run: {exc.message.partition(': ')[2]}"
        raise ModelError(msg, hint=f"try --exporter {other}") from exc


def _check(model: TorchModel, runner: Runner, exporter: Exporter) -> tuple[float, float]:
    """Largest difference and largest value over all outputs at the example inputs.

    Raises:
        ModelError: if a shape or a value differs.
    """
    expected = _torch_outputs(model)
    examples = zip(model.names, model.needed_examples(), strict=True)
    found = runner.run({name: tensor.numpy() for name, tensor in examples})
    worst, scale = 0.0, 0.0
    for name, value in expected.items():
        if found[name].shape != value.shape:
            msg = f"the export's output `{name}` has shape {found[name].shape}, PyTorch's has {value.shape}"
            raise ModelError(msg, hint=f"try --exporter {EXPORTERS[1 - EXPORTERS.index(exporter)]}")
        range_ = float(np.abs(value).max(initial=0))
        error = float(np.abs(found[name].astype(np.float64) - value).max(initial=0))
        if not error <= _TOLERANCE * max(1.0, range_):
            msg = f"the export's output `{name}` differs from PyTorch's by {error:.3g}, values reach {range_:.3g}"
            raise ModelError(msg, hint=f"try --exporter {EXPORTERS[1 - EXPORTERS.index(exporter)]}")
        worst, scale = max(worst, error), max(scale, range_)
    return worst, scale


def _publish(made: Path, out_path: Path) -> None:
    """Move the export to its place, the model file last, since it names the others."""
    others = sorted(path for path in made.parent.iterdir() if path != made)
    if len(others) > 1:  # the tracing exporter writes one file a tensor above protobuf's limit
        import onnx_ir as ir

        folder = made.parent / "one"
        folder.mkdir()
        ir.save(ir.load(made), folder / made.name, external_data=f"{made.name}.data")
        made, others = folder / made.name, [folder / f"{made.name}.data"]
    for path in others:
        path.replace(out_path.parent / path.name)
    made.replace(out_path)
