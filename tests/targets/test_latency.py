"""The latency model: what it counts, that it follows the shapes, and how far it is from published timings."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from edgeprune.core.errors import TargetError
from edgeprune_targets.kernels import kernels_of
from edgeprune_targets.latency import estimate
from edgeprune_targets.profiles import load_target, target_names

Encoder = Callable[..., ir.Model]


def test_kernels_of_a_block(make_encoder: Encoder) -> None:
    kernels = kernels_of(make_encoder(blocks=2, tokens=17, width=32, heads=2), "fp16")
    first = Counter(kernel.kind for kernel in kernels if kernel.block == 0)
    assert first["gemm"] == 4  # q, k and v together, projection, and two of the MLP
    assert first["attention"] == 1
    attention = next(kernel for kernel in kernels if kernel.kind == "attention")
    assert (attention.batch, attention.m, attention.n, attention.k) == (2, 17, 17, 16)


def test_operations_are_those_of_the_textbook(make_encoder: Encoder) -> None:
    blocks, tokens, width = 3, 17, 32
    kernels = kernels_of(make_encoder(blocks=blocks, tokens=tokens, width=width, heads=2), "fp16")
    macs = blocks * (12 * tokens * width * width + 2 * tokens * tokens * width) + width * 10
    assert sum(kernel.flops for kernel in kernels) == 2 * macs


def test_weights_are_read_once_and_in_half(make_encoder: Encoder) -> None:
    model = make_encoder(blocks=1)
    floats = [value for value in model.graph.initializers.values() if value.dtype == ir.DataType.FLOAT]
    expected = 2 * sum(value.const_value.size for value in floats if value.const_value is not None)
    assert sum(kernel.weight_bytes for kernel in kernels_of(model, "fp16")) == pytest.approx(expected, rel=0.02)
    assert sum(kernel.weight_bytes for kernel in kernels_of(model, "fp32")) == pytest.approx(2 * expected, rel=0.02)


@pytest.fixture(scope="module")
def shorter(make_encoder: Encoder) -> list[ir.Model]:
    """One model with fewer and fewer tokens."""
    size = {"blocks": 2, "width": 768, "heads": 12, "batch": 32, "zeros": True}
    return [make_encoder(tokens=tokens, **size) for tokens in (197, 160, 128, 99)]


@pytest.mark.parametrize("name", target_names())
def test_fewer_tokens_are_never_slower_and_half_are_faster(shorter: list[ir.Model], name: str) -> None:
    times = [estimate(model, load_target(name)).p50_ms for model in shorter]
    assert times == sorted(times, reverse=True)
    assert times[-1] < 0.75 * times[0]


def test_a_pruned_block_gains_and_the_one_before_does_not(make_encoder: Encoder) -> None:
    target = load_target("jetson-orin-nano")
    size = {"blocks": 3, "tokens": 577, "width": 768, "heads": 12, "zeros": True}
    dense = {part.block: part.ms for part in estimate(make_encoder(**size), target).blocks}
    pruned = {part.block: part.ms for part in estimate(make_encoder(cut="topk", **size), target).blocks}
    assert dense.keys() == pruned.keys()
    assert pruned[-1] == pytest.approx(dense[-1], rel=1e-3)  # the power limit is the whole run's
    assert pruned[1] < 0.7 * dense[1]
    assert pruned[2] < 0.7 * dense[2]


def test_the_parts_add_up_and_precision_matters(make_encoder: Encoder) -> None:
    model, target = make_encoder(width=768, heads=12, tokens=197, zeros=True), load_target("jetson-orin")
    whole = estimate(model, target)
    assert whole.p50_ms == pytest.approx(sum(part.ms for part in whole.blocks))
    assert estimate(model, target, "fp32").p50_ms > 1.3 * whole.p50_ms


def test_a_slower_clock_of_the_same_board_is_slower(make_encoder: Encoder) -> None:
    model, target = make_encoder(width=768, heads=12, tokens=197, zeros=True), load_target("jetson-orin")
    half = replace(target, fp16_fp32acc_tflops=target.fp16_fp32acc_tflops / 2)
    assert estimate(model, half).p50_ms > 1.3 * estimate(model, target).p50_ms


def test_an_unknown_shape_is_named() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17]> g (float[n,8] x) => (float[n,8] y) { y = Relu(x) }'
        )
    )
    with pytest.raises(TargetError, match="latency needs static shapes: 'x' has shape"):
        estimate(model, load_target("t4"))


_MODELS = {  # blocks, tokens, width, heads
    "vit-base-patch16-224": (12, 197, 768, 12),
    "clip-vit-base-patch16": (12, 197, 768, 12),
    "vit-base-patch32-224": (12, 50, 768, 12),
    "clip-vit-base-patch32": (12, 50, 768, 12),
    "DINOv2-base-patch14": (12, 257, 768, 12),
    "BERT-Large": (24, 384, 1024, 16),
}
_DEVICES = {"Jetson Orin Nano 8GB Super": "jetson-orin-nano", "T4": "t4", "A100 40GB": "a100"}


def test_published_timings_are_met_roughly(make_encoder: Encoder, shared: Path) -> None:
    """The constants were chosen on these rows, so this keeps them honest and proves nothing about others."""
    errors = []
    with (shared / "data" / "latency_refs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        fits = row["device"] in _DEVICES and row["model"] in _MODELS and row["precision"] == "FP16"
        if not fits or not row["runtime"].startswith("TensorRT") or row["batch"] not in {"1", "2", "4", "8"}:
            continue
        if row["model"] == "BERT-Large" and row["input"] != "seq384":
            continue
        blocks, tokens, width, heads = _MODELS[row["model"]]
        model = make_encoder(
            blocks=blocks, tokens=tokens, width=width, heads=heads, batch=int(row["batch"]), zeros=True
        )
        modelled = estimate(model, load_target(_DEVICES[row["device"]])).p50_ms
        errors.append(abs(modelled / float(row["latency_ms_per_batch"]) - 1))
    assert len(errors) >= 10
    assert statistics.median(errors) < 0.15
    assert max(errors) < 0.4
