"""The fitted model: which nodes share a launch, what moves a number, and how wide an interval is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeprune_targets._coefficients import coefficients, family_of, fitted, machine_of
from edgeprune_targets._utilisation import Ideal, ideal, kernel_us
from edgeprune_targets.kernels import kernels_of
from edgeprune_targets.latency import compare, estimate
from edgeprune_targets.profiles import load_target, target_names

Encoder = Callable[..., ir.Model]
HEAD = '<ir_version: 8, opset_import: ["": 17]> '


def graph(text: str) -> ir.Model:
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(HEAD + text)))


def zeros(*shape: int) -> str:
    return "{" + ", ".join(["0.0"] * math.prod(shape)) + "}"


def test_bias_activation_and_residual_are_in_the_product_that_they_follow() -> None:
    model = graph(
        f"""g (float[4,8] x) => (float[4,8] y) <float[8,8] w = {zeros(8, 8)}, float[8] b = {zeros(8)}> {{
            [product] m = MatMul(x, w)  n = Add(m, b)  [half] e = Erf(n)  g = Mul(n, e)  [residual] y = Add(g, x) }}"""
    )
    (only,) = kernels_of(model, "fp16")
    assert (only.kind, only.node, only.flops) == ("gemm", "product", 2 * 4 * 8 * 8)
    assert only.activation_bytes == 2 * (4 * 8 + 4 * 8)  # x once, y once: nothing between them leaves the chip


def test_products_of_one_input_are_one() -> None:
    model = graph(
        f"""g (float[4,8] x) => (float[4,24] y) <float[8,24] w = {zeros(8, 24)}, float[8,24] v = {zeros(8, 24)}> {{
            [gate] a = MatMul(x, w)  [up] b = MatMul(x, v)  s = Sigmoid(a)  y = Mul(s, b) }}"""
    )
    (only,) = kernels_of(model, "fp16")
    assert (only.m, only.n, only.k) == (4, 48, 8)


def test_a_norm_is_a_kernel_of_its_own() -> None:
    model = graph(
        f"""g (float[4,8] x) => (float[4,8] y) <float[8,8] w = {zeros(8, 8)}, float[8] b = {zeros(8)}> {{
            m = MatMul(x, w)  [norm] n = LayerNormalization(m, b, b)  [last] y = MatMul(n, w) }}"""
    )
    assert [kernel.kind for kernel in kernels_of(model, "fp16")] == ["gemm", "pointwise", "gemm"]


def test_a_depthwise_convolution_is_told_from_a_dense_one() -> None:
    model = graph(
        f"""g (float[1,8,6,6] x) => (float[1,8,6,6] y)
            <float[8,8,1,1] w = {zeros(8, 8)}, float[8,1,3,3] d = {zeros(8, 9)}> {{
            [dense] m = Conv(x, w)  [deep] y = Conv<group=8, pads=[1,1,1,1]>(m, d) }}"""
    )
    dense, deep = kernels_of(model, "fp16")
    assert (dense.kind, dense.m, dense.n, dense.k) == ("conv", 36, 8, 8)
    assert (deep.kind, deep.batch, deep.m, deep.n, deep.k) == ("depthwise", 8, 36, 1, 9)


def test_fit_and_prediction_run_the_same_formula() -> None:
    at = coefficients("turing", "fp16")
    one = Ideal("gemm", 3.0, 0.01, 2.0, 1.0, 0.7, 5.0)
    many = Ideal("gemm", *(np.array([value, 2 * value]) for value in (3.0, 0.01, 2.0, 1.0, 0.7, 5.0)))
    assert kernel_us(many, at)[0] == pytest.approx(kernel_us(one, at), rel=1e-12)


def test_the_file_of_the_fit_names_its_source_and_every_shipped_architecture_has_a_family() -> None:
    content = fitted()
    assert content["source"].startswith("benchmarks/bench_latency_model.py --fit on ")
    assert all(math.isfinite(value) for value in content["terms"].values())
    assert "unknown" not in {family_of(load_target(name).compute_capability) for name in target_names()}


def test_the_less_the_fit_has_seen_the_wider_the_interval(make_encoder: Encoder) -> None:
    model = make_encoder(width=768, heads=12, tokens=197, zeros=True)
    factors = {}
    for name in ("t4", "jetson-orin-nx-16gb", "rtx-4090"):
        one = estimate(model, load_target(name))
        assert one.interval.low < one.p50_ms < one.interval.high
        assert one.interval.high / one.p50_ms == pytest.approx(one.p50_ms / one.interval.low)
        factors[one.confidence] = one.interval.high / one.p50_ms
    assert len(factors) == 3
    device, *others = factors.values()
    assert all(other > device for other in others)
    assert fitted()["half_widths"]["family"] >= fitted()["half_widths"]["none"] > fitted()["half_widths"]["device"]


def test_a_power_limit_holds_a_long_run_back_and_not_a_short_one(make_encoder: Encoder) -> None:
    t4 = load_target("t4")
    free = replace(t4, tdp_w=None)
    size = {"blocks": 2, "width": 768, "heads": 12, "tokens": 197, "zeros": True}
    assert (
        estimate(make_encoder(batch=32, **size), t4).p50_ms
        > 1.3 * estimate(make_encoder(batch=32, **size), free).p50_ms
    )
    short = make_encoder(blocks=2, width=64, heads=2, tokens=17, zeros=True)
    assert estimate(short, t4).p50_ms == pytest.approx(estimate(short, free).p50_ms, rel=0.01)


def test_a_few_rows_more_start_another_wave(make_encoder: Encoder) -> None:
    machine = machine_of(load_target("jetson-orin-nano-8gb"))

    def tiles(tokens: int) -> float:
        model = make_encoder(blocks=1, width=768, heads=12, tokens=tokens, zeros=True)
        products = [kernel for kernel in kernels_of(model, "fp16") if kernel.kind == "gemm"]
        return sum(ideal(kernel, machine, "fp16", resident=False).compute_us for kernel in products)

    assert tiles(256) < tiles(257)
    assert (tiles(257) - tiles(256)) > 5 * (tiles(256) - tiles(255))


def test_a_speedup_is_surer_than_the_two_latencies_and_less_sure_with_a_selection(make_encoder: Encoder) -> None:
    target = load_target("t4")
    size = {"blocks": 3, "width": 768, "heads": 12, "zeros": True}
    dense = estimate(make_encoder(tokens=577, **size), target)
    shorter = estimate(make_encoder(tokens=289, **size), target)
    between = compare(dense, shorter)
    ratio = dense.p50_ms / shorter.p50_ms
    assert between.low < ratio < between.high
    assert between.high / between.low < (dense.interval.high / dense.interval.low) ** 2
    doubtful = compare(dense, replace(shorter, selection_ms=0.2 * shorter.p50_ms))
    assert doubtful.high / doubtful.low > between.high / between.low


def test_what_a_cut_adds_is_told_apart(make_encoder: Encoder) -> None:
    target = load_target("t4")
    size = {"blocks": 3, "tokens": 197, "width": 192, "heads": 3, "zeros": True}
    assert estimate(make_encoder(**size), target).selection_ms == 0
    pruned = estimate(make_encoder(cut="topk", **size), target)
    assert 0 < pruned.selection_ms < pruned.p50_ms
