"""What a pruned model is compared with: the source graph, the PyTorch module it came from, or a recording of either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgeprune.core.errors import ModelError
from edgeprune.core.progress import SILENT, Progress
from edgeprune_calibration._imports import describe
from edgeprune_calibration._specs import Array
from edgeprune_calibration._torch_modules import TorchModel, plain_outputs
from edgeprune_calibration.data import Dataset
from edgeprune_calibration.runner import Graph, Runner
from edgeprune_calibration.sources import open_torch


class Model(Protocol):
    """Something that maps a feed to named outputs."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        ...


class Reference(Model, Protocol):
    """A model with a name that a report can show."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...


class OnnxReference:
    """The source graph in ONNX Runtime.

    Args:
        model: a runner, or what one can be made of.
        name: for the report.
        threads: within one operator; 0 leaves it to the runtime.
    """

    def __init__(self, model: Runner | Graph, *, name: str = "onnx", threads: int = 0) -> None:
        self.name = name
        self.runner = model if isinstance(model, Runner) else Runner(model, threads=threads)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Runner.run`."""
        return self.runner.run(feeds)


class TorchReference:
    """The PyTorch module that the graph came from.

    Feeds are matched to the parameters of `forward` by name, and by position where the names differ. Outputs are named
    as in a mapping that the module returns, else 'output' or 'output_0', ...; `outputs` gives the graph's names.

    Args:
        source: of the module; see `sources`.
        outputs: names of the outputs in their order, as the graph has them.

    Raises:
        ModelError: if the source cannot be loaded.
    """

    def __init__(self, source: str, *, outputs: Sequence[str] | None = None) -> None:
        self.name = source
        self._model: TorchModel = open_torch(source)
        self._outputs = None if outputs is None else list(outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once, without gradients.

        Raises:
            ModelError: if the module fails, or has fewer outputs than were named.
        """
        import torch

        tensors = {name: torch.from_numpy(np.array(array)) for name, array in feeds.items()}
        try:
            found = plain_outputs(self._model.call_by_name(tensors))
        except Exception as exc:  # whatever the module raises
            msg = f"`{self.name}` fails on the data: {describe(exc)}"
            raise ModelError(msg, hint="give the PyTorch source that the graph was exported from") from exc
        values = [tensor.detach().numpy() for tensor in found.values()]
        names = self._outputs or list(found)
        if len(values) < len(names):
            msg = f"`{self.name}` returns {len(values)} tensors, expected {len(names)}: {', '.join(names)}"
            raise ModelError(msg, hint="give the PyTorch source that the graph was exported from")
        return dict(zip(names, values, strict=False))


@dataclass(frozen=True, slots=True)
class Recording:
    """The outputs of a reference on a dataset, kept to compare many candidates with.

    Attributes:
        name: of the reference.
        outputs: [n, ...] by output name.
        rows: row by sample name.
        seen: [n, T], tokens that are no padding; None where the model has no mask.
    """

    name: str
    outputs: dict[str, Array]
    rows: dict[str, int]
    seen: Array | None = None

    def outputs_of(self, names: Sequence[str]) -> dict[str, Array]:
        """Outputs of the samples `names`, in their order.

        Raises:
            KeyError: if a sample was not recorded.
        """
        rows = [self.rows[name] for name in names]
        return {name: array[rows] for name, array in self.outputs.items()}

    def seen_of(self, names: Sequence[str]) -> Array | None:
        """[B, T] of the samples `names`."""
        return None if self.seen is None else self.seen[[self.rows[name] for name in names]]


def record(reference: Reference, dataset: Dataset, *, batch: int = 1, progress: Progress = SILENT) -> Recording:
    """Run `reference` on all of `dataset` and keep its outputs.

    Cost: memory of all outputs of all samples.
    """
    chunks: dict[str, list[Array]] = {}
    rows: dict[str, int] = {}
    with progress.stage(f"run {reference.name}", len(dataset)) as stage:
        for names, feed in dataset.feeds(batch=batch):
            for name, array in reference.run(feed).items():
                chunks.setdefault(name, []).append(np.array(array[: len(names)]))
            rows.update({name: len(rows) + offset for offset, name in enumerate(names)})
            stage.advance(len(names))
    return Recording(reference.name, {name: np.concatenate(parts) for name, parts in chunks.items()}, rows)
