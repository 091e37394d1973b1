"""Who is timed against whom: a model alone, or a dense and a pruned one that take the same inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.errors import ModelError, PlanError
from edgeprune.core.graph import static_shape
from edgeprune.core.loading import read_model
from edgeprune.core.plan import Plan, plan_from_json
from edgeprune.core.readout import KEPT_INDICES
from edgeprune.report.report import Report
from edgeprune.report.serialise import from_json
from edgeprune_calibration.data import Feed, TensorSpec, open_dataset
from edgeprune_calibration.preprocess import load_preprocess
from edgeprune_passes.canonicalize import Canonicalize

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.loading import Source
    from edgeprune.options import Options

# Inputs that are taken in turn; latency hardly depends on them, and so many show that it does not.
_INPUTS = 8
_GIVE_FILES = "give an ONNX file, or a folder that `edgeprune compile` wrote; `edgeprune export` makes the former"


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One model that is timed.

    Attributes:
        role: 'dense', 'pruned', or 'model' where there is but one.
        path: of the ONNX file.
        sha256: as plans know it.
        model: with static shapes.
        plan: that it carries, if it was compiled.
    """

    role: str
    path: Path
    sha256: str
    model: ir.Model
    plan: Plan | None

    def specs(self) -> tuple[TensorSpec, ...]:
        """Its inputs, in the order of their names."""
        return tuple(sorted((TensorSpec.of(value) for value in self.model.graph.inputs), key=lambda spec: spec.name))

    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs, in the order of the graph."""
        return tuple(str(value.name) for value in self.model.graph.outputs)


def open_contenders(model: Path, pruned: Path | None, options: Options) -> tuple[Contender, ...]:
    """Read what is to be timed, with static shapes.

    Args:
        model: the dense model; without `pruned` also a compiled folder, which knows its dense model, or any model.
        pruned: a pruned model, or the folder that holds it.
        options: its `inputs` and `batch` close shapes that a model leaves open.

    Raises:
        ModelError: if there is no such model, it cannot be read, or the two do not fit together.
        PlanError: if the dense model of a folder is not known.
    """
    if pruned is not None:
        return _pair(_file_of(model), _file_of(pruned), options)
    if model.is_dir():
        return _pair(_dense_of(model), _file_of(model), options)
    source = read_model(_file_of(model))
    return (_contender("model", source, options),)


def _pair(dense: Path, pruned: Path, options: Options) -> tuple[Contender, ...]:
    after = _contender("pruned", read_model(pruned), options)
    shapes = {spec.name: tuple(size or 0 for size in spec.shape) for spec in after.specs()}
    before = _contender("dense", read_model(dense), replace(options, inputs=shapes))
    _check_fit(before, after)
    return before, after


def _contender(role: str, source: Source, options: Options) -> Contender:
    text = source.model.metadata_props.get("edgeprune.plan")
    plan = plan_from_json(text.encode()) if text is not None else None
    model = source.model
    if any(static_shape(value) is None for value in model.graph.inputs):
        model = model.clone()
        known = {str(value.name) for value in model.graph.inputs}
        shapes = {name: shape for name, shape in options.inputs.items() if role != "dense" or name in known}
        Canonicalize(inputs=shapes, batch=options.batch).apply(model)
    return Contender(role, source.path, source.sha256, model, plan)


def _file_of(path: Path) -> Path:
    """The ONNX file that a word means.

    Raises:
        ModelError: if there is none.
    """
    if path.is_dir():
        inside = path / "model.onnx"
        if not inside.is_file():
            msg = f"no model.onnx in the folder {path}"
            raise ModelError(msg, hint=_GIVE_FILES)
        return inside
    if not path.is_file():
        msg = f"no such model or folder: {path}"
        raise ModelError(msg, hint=_GIVE_FILES)
    return path


def _dense_of(folder: Path) -> Path:
    """The dense model that a compiled folder came from: a file of its command line with the hash of its report.

    Raises:
        ModelError: if the folder holds no report.
        PlanError: if the file is not where it was, or not what it was.
    """
    _file_of(folder)
    report = folder / "report.json"
    if not report.is_file():
        msg = f"no report.json in the folder {folder}, so its dense model is not known"
        raise ModelError(msg, hint=f"name it: edgeprune bench DENSE {folder}")
    told = from_json(report.read_bytes(), Report)
    for word in told.command:
        path = Path(word)
        if path.suffix == ".onnx" and path.is_file() and read_model(path).sha256 == told.model.sha256:
            return path
    msg = f"the dense model of {folder} is not where it was: sha256 {told.model.sha256[:12]}"
    raise PlanError(msg, hint=f"name it: edgeprune bench DENSE {folder}")


def _check_fit(dense: Contender, pruned: Contender) -> None:
    """Check that both can be fed the same, and say the same, but for which tokens left.

    Raises:
        ModelError: naming what differs.
    """
    before, after = (", ".join(map(str, one.specs())) for one in (dense, pruned))
    if before != after:
        msg = f"the models take different inputs: {dense.path} {before}, {pruned.path} {after}"
        raise ModelError(msg, hint="time two models of one interface; --input and --batch close open shapes")
    said, told = set(dense.outputs()), set(pruned.outputs())
    if told - {KEPT_INDICES} != said - {KEPT_INDICES}:
        names, others = (", ".join(sorted(each)) for each in (said, told))
        msg = f"the models have different outputs: {dense.path} {names}, {pruned.path} {others}"
        raise ModelError(msg, hint="time two models of one interface")


def feeds_for(contender: Contender, options: Options) -> tuple[tuple[Feed, ...], str]:
    """What the models are fed in turn, and that in words."""
    specs = contender.specs()
    if options.data is None:
        return (_noise(specs, options.seed),), f"random numbers (seed {options.seed})"
    wanted = options.samples or _INPUTS
    dataset = open_dataset(
        options.data, specs, preprocess=load_preprocess(options.preprocess), samples=wanted, seed=options.seed
    )
    batch = specs[0].shape[0] or 1
    return tuple(feed for _, feed in dataset.feeds(batch=batch)), f"{len(dataset)} samples of {options.data}"


def _noise(specs: tuple[TensorSpec, ...], seed: int) -> Feed:
    """Normal numbers; ones for integers and masks, since one is a row of every table and shuts nothing out."""
    chance = np.random.default_rng(seed)
    feed: Feed = {}
    for spec in specs:
        shape, dtype = tuple(size or 1 for size in spec.shape), np.dtype(spec.dtype)
        feed[spec.name] = chance.standard_normal(shape).astype(dtype) if dtype.kind == "f" else np.ones(shape, dtype)
    return feed
