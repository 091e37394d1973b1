"""From what a user names to a graph in canonical form and what was recognised in it."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.core.costs import count_macs, count_params
from edgeprune.core.errors import ModelError
from edgeprune.core.graph import static_shape
from edgeprune.core.loading import Source, read_model
from edgeprune.core.recognition import recognize
from edgeprune.core.results import ModelFacts
from edgeprune_calibration.sources import export_torch, is_torch_source
from edgeprune_passes.canonicalize import Canonicalize

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from edgeprune.core.plan import Plan
    from edgeprune.core.recognition import Recognition
    from edgeprune.options import Options


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model in canonical form.

    Attributes:
        name: as the user named it.
        source: the file.
        dense: the graph in canonical form; clone it before a pass runs.
        found: what was recognised in `dense`.
        inputs: static shapes by name.
        warnings: for the report.
    """

    name: str
    source: Source
    dense: ir.Model
    found: Recognition
    inputs: dict[str, tuple[int, ...]]
    warnings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name of the file without its folder, or the PyTorch source."""
        return Path(self.name).name if self.name.endswith(".onnx") else self.name

    def facts(self) -> ModelFacts:
        """The dense model in numbers."""
        stream = self.found.stream
        tokens = stream.tokens if stream else 0
        return ModelFacts(
            sha256=self.source.sha256,
            macs=count_macs(self.dense),
            params=count_params(self.dense),
            blocks=len(self.found.blocks),
            tokens=tokens,
            prefix_tokens=stream.prefix if stream else 0,
            tokens_per_block=(tokens,) * len(self.found.blocks),
        )


def pruned_facts(model: ir.Model, sha256: str, plan: Plan) -> ModelFacts:
    """A compiled model in numbers; its tokens are those of the plan."""
    return ModelFacts(
        sha256=sha256,
        macs=count_macs(model),
        params=count_params(model),
        blocks=plan.blocks,
        tokens=plan.patch_tokens + plan.prefix_tokens,
        prefix_tokens=plan.prefix_tokens,
        tokens_per_block=tuple(kept + plan.prefix_tokens for kept in plan.schedule()),
    )


@contextmanager
def opened(model: str | Path, options: Options) -> Iterator[Loaded]:
    """Read a model, exporting it first if it is a PyTorch source, and bring it to canonical form.

    Raises:
        ModelError: if it cannot be read, exported, or made static.
    """
    if not is_torch_source(str(model)) or Path(model).suffix == ".onnx":
        yield _canonical(str(model), read_model(Path(model)), options)
        return
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        path = Path(folder) / "model.onnx"
        export = export_torch(str(model), path, inputs=options.inputs or None, batch=options.batch)
        yield _canonical(str(model), read_model(path), options, warnings=export.warnings)


def _canonical(name: str, source: Source, options: Options, warnings: tuple[str, ...] = ()) -> Loaded:
    dense = source.model.clone()
    declined = Canonicalize(inputs=options.inputs, batch=options.batch).apply(dense).refusals
    inputs = {str(value.name): static_shape(value) or () for value in dense.graph.inputs}
    found = recognize(dense)
    # What was declined on the way to the canonical form is why nothing, or not all, was recognised in it.
    found = replace(found, refusals=(*declined, *found.refusals))
    return Loaded(name, source, dense, found, inputs, warnings)


def require_stream(loaded: Loaded) -> None:
    """Check that there is something to cut.

    Raises:
        ModelError: with the reason and the node.
    """
    if loaded.found.stream is None:
        reason = loaded.found.refusals[0]
        msg = f"no tokens can be cut in {loaded.name}: {reason}"
        raise ModelError(msg, hint=f"`edgeprune inspect {loaded.name}` shows what was recognised")
