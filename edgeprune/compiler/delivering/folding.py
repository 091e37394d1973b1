"""A device's own numbers, folded into the report of the compile that they were measured on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.core.digest import sha256_of
from edgeprune.core.errors import DataError, TargetError
from edgeprune.core.plan import plan_to_json
from edgeprune.report import from_json
from edgeprune.report.benched import BenchReport
from edgeprune.report.judging import sure_gain
from edgeprune.report.words import percent, times
from edgeprune_targets.attribution import Attribution, attribute, block_latencies, node_blocks
from edgeprune_targets.measured import Measured, MeasuredEngine, matches, read_measured, to_latency

if TYPE_CHECKING:
    from edgeprune.core.results import BlockLatency, Latency
    from edgeprune.report import Report

_OF_LATENCY = ("modelled slower", "modelled no faster", "measured slower", "measured no faster")

# With more of the time than this in no block, the blocks' times say little.
_HIDDEN = 0.2


def with_measured(report: Report, folder: Path, path: Path) -> Report:
    """A report with what its device measured.

    Args:
        report: of a compile.
        folder: its output folder; graphs in its deploy folder tell the blocks of the engine's layers.
        path: measured.json of the device's bench.sh, or what `edgeprune bench -o` wrote.

    Raises:
        DataError: if the numbers are of another compile.
        TargetError: if it is neither, or has no time of the dense model.
    """
    benched = _benched(path)
    if benched is not None:
        return _with_benched(report, benched, path)
    measured = read_measured(path)
    deploy = _deploy(folder, measured.target)
    _check_same(report, measured, deploy, path)
    blocks, notes = _by_block(measured, deploy)
    row = to_latency(measured, blocks)
    if sure_gain(row) == "bad":
        notes = [f"measured slower than dense ({times(row.speedup)})", *notes]
    said = [f"while it was measured: {words}" for words in measured.warnings]
    return fold_measured(report, row, [f"{row.target}: {words}" for words in (*notes, *said)])


def _benched(path: Path) -> BenchReport | None:
    """What `bench` wrote; None if this is something else."""
    try:
        data = path.read_bytes()
        return from_json(data, BenchReport) if b'"rounds"' in data else None
    except (OSError, DataError):
        return None


def _with_benched(report: Report, benched: BenchReport, path: Path) -> Report:
    """A report with the pairs that `bench` timed.

    Raises:
        DataError: if other models were timed, or no pair was.
    """
    known = {"dense": report.model.sha256, "pruned": report.pruned.sha256}
    strange = [model.role for model in benched.models if known.get(model.role) != model.sha256]
    if strange or not benched.latency:
        what = f"its {strange[0]} model is another one" if strange else "it holds no pair of a dense and a pruned model"
        msg = f"{path} is of another compile: {what}"
        raise DataError(msg, hint="time this one with `edgeprune bench DENSE OUT -o FILE`")
    said = [f"while it was measured: {words}" for words in benched.warnings]
    for row in benched.latency:
        report = fold_measured(report, row, [f"{row.target}: {words}" for words in said])
    return report


def fold_measured(report: Report, row: Latency, notes: list[str]) -> Report:
    """Put a measured row first, in place of an older one of the same; modelled rows stay, to be held against it.

    What was said of this target's latency before goes too: the clock has settled it.
    """
    old = tuple(f"{row.target}: {start}" for start in (*_OF_LATENCY, "while it was measured", "time by block"))
    kept = [words for words in report.warnings if not words.startswith(old)]
    others = [other for other in report.latency if not _same_measurement(other, row)]
    return replace(report, latency=(row, *others), warnings=(*kept, *notes))


def _same_measurement(one: Latency, other: Latency) -> bool:
    keys = [(row.kind, row.target, row.device, row.runtime, row.precision) for row in (one, other)]
    return keys[0] == keys[1]


def _deploy(folder: Path, target: str) -> Path | None:
    """The bundle of a target: `deploy/` has its files, or a folder for each of several targets.

    Found among the folders that are there, since `target` is whatever a file from outside says.
    """
    deploy = folder / "deploy"
    places = [place for place in deploy.glob("*") if place.name == target]
    return next((place for place in (*places, deploy) if (place / "model.onnx").is_file()), None)


def _check_same(report: Report, measured: Measured, deploy: Path | None, path: Path) -> None:
    """Check that a measurement is of this compile.

    Raises:
        DataError: saying what differs.
    """
    graphs = {"pruned_sha256": "model.onnx", "dense_sha256": "dense.onnx"}
    here = {} if deploy is None else {name: deploy / file for name, file in graphs.items()}
    differs = matches(
        measured,
        source_sha256=report.model.sha256,
        plan_sha256=hashlib.sha256(plan_to_json(report.plan)).hexdigest(),
        **{name: sha256_of(file) for name, file in here.items() if file.is_file()},
    )
    if differs:
        msg = f"{path} is of another compile: {'; '.join(differs)}"
        raise DataError(msg, hint="give the measured.json of the deploy folder that came with this report")


def _by_block(measured: Measured, deploy: Path | None) -> tuple[tuple[BlockLatency, ...], list[str]]:
    """Time by block where the device profiled its engines, and what is to be said of it."""
    dense, pruned = measured.dense, measured.pruned
    if deploy is None or dense is None or dense.profile is None or pruned.profile is None:
        return (), []
    try:
        parts = _attributed(dense, deploy / "dense.onnx"), _attributed(pruned, deploy / "model.onnx")
    except (TargetError, OSError) as error:
        return (), [f"time by block is not known: {error}"]
    hidden = max(part.unattributed_share for part in parts)
    notes = [f"time by block misses {percent(hidden)}, which belongs to no one block"] if hidden > _HIDDEN else []
    return block_latencies(*parts, dense.p50_ms, pruned.p50_ms), notes


def _attributed(engine: MeasuredEngine, graph: Path) -> Attribution:
    import onnx_ir as ir

    assert engine.profile is not None
    return attribute(engine.profile, engine.layers, node_blocks(ir.load(graph)))
