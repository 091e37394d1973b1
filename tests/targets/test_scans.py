"""Selective scans in standard operators: as a loop and in chunks, both equal to the recurrence wherever it may go."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.lone_scans import EXTREMES, lone_scan, matrix_of, recurrence, scan_inputs
from support.rtx import build

from edgeprune.core.graph import static_shape
from edgeprune.core.scans import DOMAIN, is_selective_scan
from edgeprune_calibration.runner import Runner
from edgeprune_passes.raise_scans import RaiseScans
from edgeprune_targets.builders.plan_text import launches
from edgeprune_targets.kernels import kernels_of
from edgeprune_targets.lacks import findings
from edgeprune_targets.latency import estimate
from edgeprune_targets.lowering import lower
from edgeprune_targets.lowering.scan_chunks import MOST_PAIRED, default_chunk
from edgeprune_targets.lowering.scans import lower_scans, standard_scans
from edgeprune_targets.profiles import load_target
from edgeprune_targets.runtimes import RUNTIMES, Runtime

FORMS = ("loop", "chunked")
# fp32 rounds to 6e-8, and the sums here are of up to 1025 terms; the worst that was seen of chunks is 3e-7. A loop
# multiplies decays of 1 - 1e-6, which fp32 rounds by up to 3e-8 each, 1025 times over.
ROUNDING = {"chunked": 1e-5, "loop": 3e-5}


def lowered(form: str, batch: int = 1, tokens: int = 197, chunk: int | None = None, **sizes: int) -> ir.Model:
    model = lone_scan(batch, tokens, **sizes)
    assert lower_scans(model, form, chunk) == 1
    return model


def fed(kind: str, batch: int, tokens: int) -> dict[str, np.ndarray]:
    return scan_inputs(kind, lone_scan(batch, tokens), seed=tokens)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tokens", [1, 2, 16, 17, 64, 197, 1025])
@pytest.mark.parametrize("form", FORMS)
def test_the_recurrence_is_computed_at_every_extreme(form: str, tokens: int, batch: int) -> None:
    run = Runner(lowered(form, batch, tokens), threads=1).run
    for kind in EXTREMES:
        inputs = fed(kind, batch, tokens)
        (found,) = run(inputs).values()
        assert error(found, recurrence(inputs)) < ROUNDING[form], kind


@pytest.mark.parametrize("tokens", [64, 197])
def test_backwards_too(tokens: int) -> None:
    """A backward branch flips what it feeds and what it gets; the scan itself is the same."""
    run = Runner(lowered("chunked", 2, tokens), threads=1).run
    inputs = fed("mixed", 2, tokens)
    flipped = {n: a if n == "A" else np.ascontiguousarray(a[:, ::-1]) for n, a in inputs.items()}
    (found,) = run(flipped).values()
    assert error(found, recurrence(flipped)) < ROUNDING["chunked"]
    assert error(found[:, ::-1], recurrence(inputs)) > 0.1


@pytest.mark.parametrize("chunk", [1, 2, 5, 8, 40, 41, 64])
def test_any_chunk_gives_the_same(chunk: int) -> None:
    inputs = fed("mixed", 2, 41)
    (found,) = Runner(lowered("chunked", 2, 41, chunk), threads=1).run(inputs).values()
    assert error(found, recurrence(inputs)) < ROUNDING["chunked"]


def test_no_exponent_is_positive() -> None:
    """Then nothing can overflow, whatever the inputs are."""
    model = lowered("chunked")
    exponents = [node.inputs[0] for node in model.graph if node.op_type == "Exp"]
    assert len(exponents) == 3  # in chunks, between them, and of what is handed on
    model.graph.outputs.extend(value for value in exponents if value is not None)
    for kind in EXTREMES:
        values = Runner(model, threads=1, optimise=False).run(fed(kind, 1, 197))
        assert max(values[str(value.name)].max() for value in exponents if value is not None) <= 0, kind


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_standard_static_and_valid(form: str) -> None:
    model = lowered(form)
    nodes = list(model.graph.all_nodes())
    assert {node.domain for node in nodes} == {""}
    assert not model.functions
    assert DOMAIN not in model.graph.opset_imports
    outputs = [value for node in nodes for value in node.outputs]
    assert all(static_shape(value) is not None and value.dtype is not None for value in outputs)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_scans_of_one_length_share_their_constants() -> None:
    model = lone_scan(1, 197)
    (node,) = model.graph
    twin = ir.Node(node.domain, node.op_type, node.inputs, num_outputs=1, name="twin")
    twin.outputs[0].name, twin.outputs[0].shape, twin.outputs[0].type = "z", node.outputs[0].shape, node.outputs[0].type
    model.graph.append(twin)
    model.graph.outputs.append(twin.outputs[0])
    assert lower_scans(model, "chunked") == 2
    floats = Counter(
        value.const_value.tobytes() for value in model.graph.initializers.values() if value.dtype == ir.DataType.FLOAT
    )
    assert set(floats.values()) == {1}


@pytest.mark.parametrize(
    ("tokens", "chunk"), [(1, 1), (16, 16), (17, 12), (64, 8), (65, 13), (110, 11), (160, 10), (197, 12), (1025, 12)]
)
def test_a_chunk_is_twelve_or_divides_the_length(tokens: int, chunk: int) -> None:
    assert default_chunk(tokens) == chunk


@pytest.mark.parametrize("tokens", [384, 400, 2500])
def test_many_chunks_are_cut_into_chunks(tokens: int) -> None:
    """Or the pairs would be more than the tokens: 400 tokens in chunks of 10 have 1600 of them, 2500 have 62500."""
    model = lowered("chunked", 1, tokens, channels=2, states=2)
    shapes = [static_shape(value) or () for node in model.graph for value in node.outputs]
    assert max(int(np.prod(shape)) for shape in shapes) <= 2 * 2 * max(MOST_PAIRED**3, tokens + 10)
    inputs = scan_inputs("mixed", lone_scan(1, tokens, channels=2, states=2))
    (found,) = Runner(model, threads=1).run(inputs).values()
    assert error(found, recurrence(inputs)) < ROUNDING["chunked"]


def test_a_state_that_grows_stays_a_loop() -> None:
    """Decays over several tokens at once could overflow where the loop does not."""
    matrix = matrix_of()
    matrix[2, 1] = 0.5
    model = lone_scan(1, 40, matrix=matrix)
    assert lower_scans(model, "chunked") == 1
    assert "Scan" in {node.op_type for node in model.graph}
    inputs = {name: array for name, array in fed("mild", 1, 40).items() if name != "A"}
    (found,) = Runner(model, threads=1).run(inputs).values()
    assert error(found, recurrence({**inputs, "A": matrix})) < ROUNDING["chunked"]


@pytest.mark.parametrize("form", FORMS)
def test_a_delivered_scan_is_read_again(form: str) -> None:
    """A loop is raised to the scan that it was; chunks stay what they are."""
    model = standard_scans(lone_scan(2, 64, matrix=matrix_of()), form)
    RaiseScans().apply(model)
    assert sum(map(is_selective_scan, model.graph)) == (form == "loop")
    inputs = {name: array for name, array in fed("mixed", 2, 64).items() if name != "A"}
    (found,) = Runner(model, threads=1).run(inputs).values()
    assert error(found, recurrence({**inputs, "A": matrix_of()})) < ROUNDING["chunked"]


def test_the_graph_for_onnx_runtime_is_a_copy_and_a_loop_unless_asked() -> None:
    model = lone_scan(1, 64)
    assert {node.op_type for node in standard_scans(model).graph} == {"Unsqueeze", "Scan", "Squeeze"}
    assert "Scan" not in {node.op_type for node in standard_scans(model, "chunked").graph}
    assert [node.op_type for node in model.graph] == ["SelectiveScan"]
    plain = standard_scans(model)
    assert standard_scans(plain) is plain


def network(tokens: int = 64) -> ir.Model:
    """Projections, Softplus, the scan and a projection: types meet here."""
    model = lone_scan(1, tokens, matrix=matrix_of())
    graph, (scan,) = model.graph, list(model.graph)
    step, added = scan.inputs[0], scan.inputs[1]
    assert step is not None
    assert added is not None
    rng = np.random.default_rng(0)
    for name, size in (("in", 6), ("out", 6), ("rows", 4)):
        tensor = ir.tensor(rng.normal(0, 0.4, (size, size)).astype(np.float32), name=name)
        weight = ir.Value(name=name, shape=ir.Shape((size, size)), type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(weight)
    made: list[ir.Node] = []

    def op(kind: str, *inputs: ir.Value) -> ir.Value:
        made.append(ir.node(kind, inputs, name=f"{kind}{len(made)}"))
        made[-1].outputs[0].shape, made[-1].outputs[0].type = inputs[0].shape, step.type
        return made[-1].outputs[0]

    delta = op("Softplus", op("MatMul", step, graph.initializers["in"]))
    scan.replace_input_with(0, delta)
    scan.replace_input_with(1, op("Mul", delta, added))
    assert scan.inputs[3] is not None
    scan.replace_input_with(3, op("MatMul", scan.inputs[3], graph.initializers["rows"]))
    for node in made:
        graph.insert_before(scan, node)
    after = ir.node("MatMul", [scan.outputs[0], graph.initializers["out"]], name="after")
    after.outputs[0].name, after.outputs[0].shape, after.outputs[0].type = "z", step.shape, step.type
    graph.append(after)
    graph.outputs[0] = after.outputs[0]
    return model


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
@pytest.mark.parametrize("form", ["auto", *FORMS])
def test_every_runtime_gets_what_it_takes(runtime: Runtime, form: str) -> None:
    model = network()
    target = load_target("rtx-4090" if runtime.family == "tensorrt-rtx" else "jetson-agx-orin-64gb")
    done = lower(model, runtime, target, "fp32", scan=form)
    word = "scan-loop" if form == "loop" else "scan-chunked"
    assert done.changes[word] == 1
    inputs = {name: array for name, array in fed("mild", 1, 64).items() if name != "A"}
    (found,), (wanted,) = (Runner(graph, threads=1).run(inputs).values() for graph in (done.model, model))
    assert error(found, wanted) < ROUNDING["chunked"]
    found_ = findings(done.model, runtime, target, precision="fp32")
    assert [f.severity for f in found_] == (["warning"] if form == "loop" else [])
    if form == "loop":
        assert "runs a Scan one step at a time: 64 times the launches of its body" in found_[0].reason
        assert found_[0].remedy == "compile with `--scan chunked`"


def test_a_loop_that_is_no_selective_scan_is_not_promised_chunks() -> None:
    model = standard_scans(lone_scan(1, 64))
    (node,) = (node for node in model.graph if node.op_type == "Scan")
    node.attributes["body"].as_graph().name = "of_an_exporter"
    (finding,) = findings(model, RUNTIMES[-1], load_target("rtx-4090"), precision="fp32")
    assert finding.remedy == "`edgeprune inspect` says why it is no selective scan, which would run in chunks"


@pytest.mark.parametrize("form", FORMS)
def test_steps_decays_and_states_are_fp32_in_an_engine_of_fp16(form: str) -> None:
    target = load_target("rtx-4090")
    done = lower(network(197), RUNTIMES[-1], target, "fp16", scan=form)
    types = {(node.op_type, str(node.outputs[0].dtype)) for node in done.model.graph if node.op_type != "Cast"}
    assert ("MatMul", "FLOAT16") in types
    assert ("MatMul", "FLOAT") not in types
    elsewhere = {kind for kind, dtype in types if dtype == "FLOAT16"}
    assert elsewhere == {"MatMul"}
    inputs = {name: array for name, array in fed("mild", 1, 197).items() if name != "A"}
    (found,), (wanted,) = (Runner(graph, threads=1).run(inputs).values() for graph in (done.model, network(197)))
    assert error(found, wanted) < 6 * 2.0**-11  # four products of fp16, and what they are cast from


def test_old_tensorrt_is_held_to_fp32_by_short_names() -> None:
    """All names are one argument of trtexec, which Linux ends at 128 KiB; a Vim-Tiny has 2700 of them."""
    runtime = next(runtime for runtime in RUNTIMES if runtime.typing == "weak")
    done = lower(network(197), runtime, load_target("jetson-agx-orin-64gb"), "fp16")
    held = {node.op_type for node in done.model.graph if node.name in done.fp32_layers}
    assert {"Softplus", "Exp", "Mul", "Add", "ReduceSum"} <= held
    assert max(map(len, done.fp32_layers)) < 12


def test_the_latency_model_counts_launches() -> None:
    model, target = lone_scan(1, 197, channels=384, states=16), load_target("jetson-agx-orin-64gb")
    chunks, loop = kernels_of(model, "fp16"), kernels_of(standard_scans(model), "fp16")
    assert len(chunks) == 7
    assert 0 <= len(loop) - 197 * 2 <= 4  # the state, and the product that reads it; Squeeze and the like are free
    states, tokens = 197 * 384 * 16 * 4, 197 * 384 * 4
    assert 10 * tokens < sum(kernel.activation_bytes for kernel in chunks) < 2 * states
    assert estimate(standard_scans(model), target).p50_ms > 10 * estimate(model, target).p50_ms


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("form", FORMS)
def test_tensorrt_rtx_builds_it_and_chunks_are_few_launches(form: str, tmp_path: Path) -> None:
    target = load_target("rtx-4090")
    done = lower(network(197), RUNTIMES[-1], target, "fp16", scan=form)
    (result,) = build(ir.to_proto(done.model).SerializeToString(), [target], tmp_path)
    assert result.error is None
    if form == "chunked":
        run = [each for each in launches(Path(str(result.path)).read_bytes()) if each.kind not in {"signal", "wait"}]
        assert 3 <= len(run) <= 14  # three products and the scan; 92 nodes


def test_the_card_shows_what_is_written() -> None:
    text = (Path(__file__).resolve().parents[2] / "targets" / "cards" / "scans.md").read_text(encoding="utf-8")
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    assert list(sections) == ["What it does", "When it refuses", "Example", "Cost", "Source"]
    before, after = (
        ir.from_proto(onnx.parser.parse_model(block))
        for block in re.findall(r"```onnx\n(.*?)```", sections["Example"], re.DOTALL)
    )
    assert nodes_of(standard_scans(before)) == nodes_of(after)


def nodes_of(model: ir.Model) -> list[str]:
    """The nodes of a graph and of its loops; the text of ONNX would also list what can be inferred."""
    found = []
    for node in model.graph.all_nodes():
        inside = [value.name for value in node.inputs if value is not None] if node.graph is not model.graph else []
        found.append(f"{node.op_type} {sorted(node.attributes)} {node.attributes.get_ints('scan_input_axes')} {inside}")
    return found
