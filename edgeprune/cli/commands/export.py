"""`edgeprune export`: PyTorch to ONNX, checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.cli.options import json_option, option, shape_options
from edgeprune.cli.output import show, show_json
from edgeprune.cli.state import general_options

if TYPE_CHECKING:
    from edgeprune_calibration._torch_export import Exporter


@click.command("export", short_help="Export PyTorch to ONNX, and check it.")
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@option(
    "--exporter", type=click.Choice(["dynamo", "torchscript"]), default="dynamo", show_default=True,
    help="Exporter of PyTorch.",
)  # fmt: skip
@option("--opset", type=int, help="Opset of the file; the exporter's default without.")
@shape_options
@option("--dynamic-batch", is_flag=True, help="Leave the batch axis open.")
@json_option
@general_options
def export_command(
    source: str,
    out: Path,
    exporter: Exporter,
    opset: int | None,
    inputs: tuple[tuple[str, tuple[int, ...]], ...],
    batch: int,
    dynamic_batch: bool,
    as_json: bool,
) -> None:
    """Export SOURCE (timm:NAME, pkg.module:factory, FILE.pt2) to OUT and check it against PyTorch."""
    from edgeprune import api

    shapes = dict(inputs) or None
    made = api.export(
        source, out, exporter=exporter, opset=opset, inputs=shapes, batch=batch, dynamic_batch=dynamic_batch
    )
    if as_json:
        show_json(made)
        return
    error = f"largest difference to PyTorch {made.max_abs_error:.1e}"
    show(f"{made.path}: {made.exporter}, opset {made.opset}, {error}, {made.seconds:.1f} s")
