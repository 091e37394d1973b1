"""An engine's outputs against ONNX Runtime's: fused attention was silently wrong in several releases of TensorRT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from edgeprune.core.errors import DataError, ModelError, TargetError
from edgeprune.core.results import EngineBuild, EngineCheck
from edgeprune_targets.builders.manifest import manifest_path
from edgeprune_targets.builders.protocol import UNKNOWN, Builder, Origin
from edgeprune_targets.builders.runner import Arrays, Feeds, open_engine

if TYPE_CHECKING:
    from edgeprune_targets.profiles import Target

# What rounding explains, as ||engine - reference|| / ||reference||. The reference holds the same types, so the two
# differ by the order of sums and by where a fused kernel rounds: some 20 roundings a block of relative size
# u / sqrt(3), independent of each other, in a stream of 24 blocks give sqrt(480) * u / sqrt(3) = 13 u; three times that
# for outputs that cancel. u is 2^-11 for fp16, 2^-8 for bf16, and 2^-11 for fp32 too: TensorRT multiplies fp32 as TF32.
_TOLERANCE = {"fp16": 0.02, "fp32": 0.02, "bf16": 0.16, "int8": 0.2, "fp8": 0.2}
_NEAR_TIES = 4.0  # a near tie at the edge of a cut falls either way; the yardstick has seen few samples
# ... and moves single samples further than rounding does, but not to another answer. DeiT-Tiny at keep 0.7, fp16
# against fp32 in ONNX Runtime, 24 photographs: the median is 0.0014, and four lie between 0.009 and 0.041.
_WORST = 10.0

Reference: TypeAlias = "Path | bytes | Sequence[Feeds]"


class Runs(Protocol):
    """What is checked: an `EngineRunner`, or what runs like one."""

    def run(self, feeds: Feeds) -> Arrays:
        """Outputs by name."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What an engine is tried on.

    Attributes:
        feeds: inputs by name, one entry a sample: real data, for on noise every model is unstable.
        reference: the graph that the engine was built from, to run in ONNX Runtime; or its outputs, one entry a sample.
        precision: of the engine.
        yardstick: relative error that the precision alone makes on such data, see `yardstick`; it widens the tolerance
            where a cut's near ties count for more than rounding.
    """

    feeds: Sequence[Feeds]
    reference: Reference
    precision: str = "fp16"
    yardstick: float = 0.0


def check_engine(runner: Runs, trial: Trial) -> EngineCheck:
    """Hold an engine's outputs against ONNX Runtime's on the same inputs.

    Passes if the median sample's relative error is within the tolerance of the precision, no sample's is far outside,
    and the engine is finite wherever the reference is.

    Raises:
        DataError: if there is no sample, or not one reference a sample.
        ModelError: if ONNX Runtime cannot run the graph.
        TargetError: if the device fails.
    """
    errors, cosines = compare([runner.run(feeds) for feeds in trial.feeds], reference_outputs(trial))
    tolerance = tolerance_of(trial)
    passed = float(np.median(errors)) <= tolerance and max(errors) <= _WORST * tolerance
    return EngineCheck(samples=len(errors), cosine=min(cosines), relative_error=max(errors), passed=passed)


def tolerance_of(trial: Trial) -> float:
    """Relative error that the median sample may have."""
    return max(_TOLERANCE.get(trial.precision, _TOLERANCE["fp16"]), _NEAR_TIES * trial.yardstick)


def yardstick(typed: Sequence[Feeds], exact: Sequence[Feeds]) -> float:
    """Median relative error of a typed graph's outputs against those of the graph in fp32, both by ONNX Runtime."""
    return float(np.median(compare(typed, exact)[0]))


def reference_outputs(trial: Trial) -> list[Feeds]:
    """What the engine should give: as stated, or by ONNX Runtime on the CPU, every node as it stands.

    Raises:
        DataError: if there is no sample, or not one reference a sample.
        ModelError: if ONNX Runtime cannot run the graph.
    """
    if not trial.feeds:
        msg = "an engine is to be checked on no sample"
        raise DataError(msg, hint="give data with --data")
    if isinstance(trial.reference, (Path, bytes)):
        return [dict(outputs) for outputs in _run_in_onnxruntime(trial.reference, trial.feeds)]
    if len(trial.reference) != len(trial.feeds):
        msg = f"an engine is to be checked on {len(trial.feeds)} samples with {len(trial.reference)} references"
        raise DataError(msg, hint="give one reference a sample")
    return list(trial.reference)


def compare(found: Sequence[Feeds], wanted: Sequence[Feeds]) -> tuple[list[float], list[float]]:
    """Per sample, the largest relative error and the smallest cosine over the outputs of `wanted`."""
    errors, cosines = [], []
    for ours, theirs in zip(found, wanted, strict=True):
        pairs = [_difference(ours[name], theirs[name]) for name in theirs]
        errors.append(max(error for error, _ in pairs))
        cosines.append(min(cosine for _, cosine in pairs))
    return errors, cosines


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedBuilder:
    """Builds an engine, runs it where this machine can, and builds it with attention unfused where it is wrong.

    Attributes:
        builder: what builds.
        trial: what to run; None checks nothing.
        relower: gives the same graph lowered so that no attention is fused; None where it is so already.
        opens: loads an engine; a TargetError of it says that this machine cannot, and leaves the engine unchecked.
    """

    builder: Builder
    trial: Trial | None
    relower: Callable[[], Path | bytes] | None = None
    opens: Callable[[Path], Runs] = open_engine

    def build(
        self,
        model: Path | bytes,
        target: Target,
        folder: Path,
        *,
        name: str,
        attentions: int | None = None,
        origin: Origin = UNKNOWN,
    ) -> EngineBuild:
        """Build for one target; arguments as `Builder.build` takes them.

        Returns:
            The engine with its check; `attention_unfused` where only so it was right. A wrong engine does not stay.
        """
        (built,) = self.builder.build(model, [target], folder, name=name, attentions=attentions, origin=origin)
        first = self._checked(built)
        if not first.built or first.check is None or first.check.passed:
            return first
        if self.relower is None or first.fused_attentions == 0:
            return self._wrong(first)
        (again,) = self.builder.build(self.relower(), [target], folder, name=name, attentions=attentions, origin=origin)
        if not again.built:
            return self._wrong(first)
        second = replace(self._checked(again), attention_unfused=True)
        if not second.built or (second.check is not None and second.check.passed):
            return second
        return self._wrong(second)

    def _checked(self, built: EngineBuild) -> EngineBuild:
        if not built.built or built.path is None or self.trial is None:
            return built
        try:
            runner = self.opens(Path(built.path))
        except TargetError:  # no such device here, or no such runtime: the engine is for elsewhere
            return built
        try:
            return replace(built, check=check_engine(runner, self.trial))
        except ModelError:  # ONNX Runtime has no kernel for it, so there is nothing to hold the engine against
            return built
        except TargetError as error:
            return _removed(built, f"it does not run here: {error.message}")
        finally:
            runner.close()

    def _wrong(self, built: EngineBuild) -> EngineBuild:
        """An engine that computes something else is none: its files go, what was seen stays."""
        assert self.trial is not None
        found = f"{built.check.relative_error:.3g}" if built.check else "an unknown one"
        tried = ", with attention fused and unfused" if built.attention_unfused else ""
        error = (
            f"its outputs differ from ONNX Runtime's by a relative error of {found}, expected at most about "
            f"{tolerance_of(self.trial):.3g}{tried}: try another precision, or another version than {built.runtime}"
        )
        return _removed(built, error)


def _removed(built: EngineBuild, error: str) -> EngineBuild:
    assert built.path is not None
    path = Path(built.path)
    for file in (path, manifest_path(path), path.with_name(path.name + ".layers.json")):
        file.unlink(missing_ok=True)
    return replace(built, built=False, path=None, manifest=None, error=error)


def _difference(ours: Any, theirs: Any) -> tuple[float, float]:
    """||ours - theirs|| / ||theirs|| and the cosine; infinite and -1 where one is finite and the other is not."""
    left, right = (np.asarray(each).astype(np.float64).ravel() for each in (ours, theirs))
    if left.shape != right.shape or not np.array_equal(np.isfinite(left), np.isfinite(right)):
        return float("inf"), -1.0
    finite = np.isfinite(right)
    left, right = left[finite], right[finite]
    size, other = float(np.linalg.norm(right)), float(np.linalg.norm(left))
    if size == 0.0 or other == 0.0:
        return (0.0, 1.0) if size == other else (float("inf"), -1.0)
    return float(np.linalg.norm(left - right)) / size, float(left @ right) / (size * other)


def _run_in_onnxruntime(model: Path | bytes, feeds: Sequence[Feeds]) -> list[Arrays]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # the optimiser has faults of its own
    source = str(model) if isinstance(model, Path) else model
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        wanted = [value.name for value in session.get_inputs()]
        return [
            dict(zip(names, session.run(names, {name: each[name] for name in wanted}), strict=True)) for each in feeds
        ]
    except Exception as error:  # onnxruntime's own classes, by no public base
        msg = f"ONNX Runtime cannot run the engine's graph: {str(error).strip().splitlines()[0][:300]}"
        raise ModelError(msg, hint="the engine stays unchecked; try another precision") from error
