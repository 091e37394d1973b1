"""Drift: how far a pruned model's outputs are from the dense model's on data, one number a sample, then the mean.

All sums are in float64, one batch at a time. A pruned output that holds NaN or Inf counts as the worst there can be, so
that any limit catches it: infinite KL and errors, cosine and correlation 0, another top-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeprune.core.errors import DataError, ModelError
from edgeprune.core.progress import SILENT, Progress
from edgeprune.core.readout import KEPT_INDICES
from edgeprune.core.results import Drift
from edgeprune_calibration._specs import Array, show_shape
from edgeprune_calibration.data import Dataset, Feed
from edgeprune_calibration.reference import Model, Recording, Reference

_Floats = npt.NDArray[np.float64]
# Outputs of higher rank, [B, T, D], have a row for each token.
_PER_TOKEN = 2


def logits_like(output: Array) -> bool:
    """Tell whether `output` is taken for logits, [B, C] with C >= 2, so that KL and top-1 mean something."""
    return output.ndim == 2 and output.shape[1] >= 2 and output.dtype.kind == "f"


@dataclass(slots=True)
class DriftMeter:
    """Adds up the drift of one output, batch by batch.

    Attributes:
        output: its name, for errors.
    """

    output: str
    _names: list[str] = field(default_factory=list)
    _rows: dict[str, list[float]] = field(default_factory=dict)

    def add(self, names: Sequence[str], dense: Array, pruned: Array, seen: Array | None = None) -> None:
        """Compare the first `len(names)` rows of both.

        Shapes:
            dense, pruned: [B, ...], the same.
            seen: [B, T], tokens that are no padding, for outputs [B, T, ...]; None where all count.

        Raises:
            ModelError: if the shapes differ, or the dense output holds NaN or Inf.
        """
        if dense.shape != pruned.shape:
            msg = f"output `{self.output}` has shape {show_shape(pruned.shape)}, expected {show_shape(dense.shape)}"
            raise ModelError(msg, hint="restore the tokens of this output, or leave it out of the comparison")
        expected, found = (array[: len(names)].astype(np.float64) for array in (dense, pruned))
        for name, row in zip(names, expected, strict=True):
            if not np.isfinite(row).all():
                msg = f"the dense model's output `{self.output}` holds NaN or Inf on {name}"
                raise ModelError(msg, hint="check its weights and the preprocessing of the data")
        self._names.extend(names)
        parts = [(expected, found)] if seen is None else _without_padding(expected, found, seen)
        for a, b in parts:
            for metric, values in _compare(a, b, logits=logits_like(dense)).items():
                self._rows.setdefault(metric, []).extend(values.tolist())

    def drift(self) -> Drift:
        """Average what was added.

        Raises:
            DataError: if nothing was.
        """
        if not self._names:
            msg = f"the drift of output `{self.output}` was measured on no samples"
            raise DataError(msg, hint="give at least one sample")
        mean = {metric: float(np.mean(values)) for metric, values in self._rows.items()}
        errors = self._rows["relative_error"]
        return Drift(
            cosine=mean["cosine"],
            kl=mean.get("kl"),
            root_kl=mean.get("root_kl"),
            top1_agreement=mean.get("top1_agreement"),
            relative_error=mean["relative_error"],
            worst_sample=self._names[int(np.argmax(errors))],
            correlation=mean["correlation"],
            mean_abs_error=mean["mean_abs_error"],
            relative_errors=tuple(errors),
        )


def measure_drift(
    reference: Reference | Recording,
    candidate: Model,
    dataset: Dataset,
    *,
    batch: int = 1,
    outputs: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Drift]:
    """Run both on all of `dataset` and return the drift by the reference's output name.

    Outputs are matched by name, and by position where no name is shared. `outputs` limits the comparison.

    Raises:
        DataError: if there is no sample, or a recording lacks one.
        ModelError: if no output can be matched, shapes differ, or the dense model yields NaN or Inf.
    """
    meters: dict[str, DriftMeter] = {}
    with (progress or SILENT).stage("measure drift", len(dataset)) as stage:
        for names, feed in dataset.feeds(batch=batch):
            dense, pruned = _outputs(reference, names, feed), candidate.run(feed)
            for expected, found in _pairs(dense, pruned, outputs):
                meter = meters.setdefault(expected, DriftMeter(expected))
                whole = rows_that_left(dense[expected], pruned[found], pruned.get(KEPT_INDICES))
                seen = _seen(reference, names, dense[expected], pruned, found)
                meter.add(names, whole[: len(names)], pruned[found][: len(names)], seen)
            stage.advance(len(names))
    if not meters:
        msg = "drift was measured on no samples"
        raise DataError(msg, hint="give at least one sample")
    return {name: meter.drift() for name, meter in meters.items()}


def rows_that_left(dense: Array, pruned: Array, kept: Array | None) -> Array:
    """The rows of a dense output that a shorter one holds: prefix tokens, and the patches of `kept` [B, K].

    An output that is not shorter along one axis by just the patches that are missing is left as it is.
    """
    if kept is None or dense.ndim != pruned.ndim or dense.shape == pruned.shape:
        return dense
    differing = [i for i, (a, b) in enumerate(zip(dense.shape, pruned.shape, strict=True)) if a != b]
    if len(differing) != 1 or differing[0] == 0 or len(kept) != len(dense):
        return dense
    axis = differing[0]
    prefix = pruned.shape[axis] - kept.shape[1]
    if prefix < 0 or kept.max(initial=0) + prefix >= dense.shape[axis]:
        return dense
    first = np.tile(np.arange(prefix, dtype=np.int64), (len(kept), 1))
    rows = np.concatenate([first, kept + prefix], axis=1)
    return np.take_along_axis(
        dense, rows.reshape(len(kept), *(-1 if i == axis else 1 for i in range(1, dense.ndim))), axis
    )


def _seen(
    reference: Reference | Recording, names: tuple[str, ...], dense: Array, pruned: Feed, found: str
) -> Array | None:
    """[B, T], tokens of an output [B, T, ...] that are no padding; None for any other, and where all count."""
    seen = reference.seen_of(names) if isinstance(reference, Recording) else None
    if seen is None or dense.ndim <= _PER_TOKEN or dense.shape[1] != seen.shape[1]:
        return None
    kept = pruned.get(KEPT_INDICES)
    left = rows_that_left(seen, pruned[found][: len(names), :, 0], None if kept is None else kept[: len(names)])
    return left if left.any(axis=1).all() else None


def _without_padding(dense: _Floats, pruned: _Floats, seen: Array) -> list[tuple[_Floats, _Floats]]:
    """Sample by sample, since samples differ in how many tokens count."""
    return [(a[None, row], b[None, row]) for a, b, row in zip(dense, pruned, seen, strict=True)]


def _outputs(reference: Reference | Recording, names: tuple[str, ...], feed: Feed) -> Feed:
    if not isinstance(reference, Recording):
        return reference.run(feed)
    try:
        return reference.outputs_of(names)
    except KeyError as exc:
        msg = f"`{reference.name}` was not recorded on sample {exc.args[0]}"
        raise DataError(msg, hint="record the reference on all samples that are compared") from exc


def _pairs(dense: Feed, pruned: Feed, outputs: Sequence[str] | None) -> list[tuple[str, str]]:
    shared = [(name, name) for name in dense if name in pruned]
    if not shared and len(dense) == len(pruned):
        shared = list(zip(dense, pruned, strict=True))
    pairs = [pair for pair in shared if outputs is None or pair[0] in outputs]
    if not pairs:
        msg = f"no output to compare: dense has {', '.join(dense)}, pruned has {', '.join(pruned)}"
        raise ModelError(msg, hint="compare a model with its own pruned version")
    return pairs


def _compare(dense: _Floats, pruned: _Floats, *, logits: bool) -> dict[str, _Floats]:
    """Every metric for every row [B] of two outputs [B, ...]."""
    a, b = dense.reshape(len(dense), -1), pruned.reshape(len(pruned), -1)
    finite = np.asarray(np.isfinite(b).all(axis=1))
    b = np.where(finite[:, None], b, 0.0)
    difference = np.linalg.norm(b - a, axis=1)
    scale = np.linalg.norm(a, axis=1)
    rows = {
        "cosine": (_cosine(a, b), 0.0),
        "correlation": (_cosine(a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)), 0.0),
        "relative_error": (_ratio(difference, scale, both_zero=0.0, over_zero=np.inf), np.inf),
        "mean_abs_error": (np.abs(b - a).mean(axis=1), np.inf),
    }
    if logits:
        rows["kl"] = (_kl(a, b), np.inf)
        rows["root_kl"] = (np.sqrt(np.maximum(rows["kl"][0], 0.0)), np.inf)
        rows["top1_agreement"] = ((a.argmax(axis=1) == b.argmax(axis=1)).astype(np.float64), 0.0)
    return {metric: np.where(finite, values, worst) for metric, (values, worst) in rows.items()}


def _cosine(a: _Floats, b: _Floats) -> _Floats:
    """Cosine of each row pair [B]; two zero rows agree, one zero row does not."""
    norms_a, norms_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    cosine = _ratio((a * b).sum(axis=1), norms_a * norms_b, both_zero=0.0, over_zero=0.0)
    return np.where((norms_a == 0) & (norms_b == 0), 1.0, np.clip(cosine, -1.0, 1.0))


def _ratio(over: _Floats, under: _Floats, *, both_zero: float, over_zero: float) -> _Floats:
    safe = np.where(under == 0, 1.0, under)
    return np.where(under != 0, over / safe, np.where(over == 0, both_zero, over_zero))


def _kl(dense: _Floats, pruned: _Floats) -> _Floats:
    """KL(softmax(dense) || softmax(pruned)) of each row [B], in nats."""
    log_p, log_q = _log_softmax(dense), _log_softmax(pruned)
    divergence: _Floats = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return np.maximum(divergence, 0.0)  # rounding can leave -1e-17


def _log_softmax(logits: _Floats) -> _Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs: _Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
