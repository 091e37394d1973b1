"""DeiT-Tiny with its published weights: fp16 error on a photograph, and 12 of 12 attentions fused."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.kinds import ATTENTION
from support.rtx import build
from support.surgery import reduce

from edgeprune.compiler.proving.lowering_proof import prove_lowering
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_targets.attentions import count_attentions
from edgeprune_targets.lacks import findings
from edgeprune_targets.latency import estimate
from edgeprune_targets.lowering import lower
from edgeprune_targets.precision import to_fp16
from edgeprune_targets.profiles import load_target
from edgeprune_targets.runtimes import RUNTIMES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the exporters warn about themselves


@pytest.fixture(params=["dynamo", "torchscript"])
def exported(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / f"deit-{request.param}.onnx"
    if not path.exists():
        if importlib.util.find_spec("timm") is None:
            pytest.skip("timm is not installed")
        from edgeprune_calibration.sources import export_torch

        weights = shared / "data" / "deit_tiny_patch16_224.safetensors"
        export_torch(f"timm:deit_tiny_patch16_224?checkpoint={weights}", path, exporter=request.param)
    return path


def _photograph(folder: Path) -> np.ndarray:
    from PIL import Image

    pixels = np.asarray(Image.open(sorted(folder.glob("*.jpg"))[7]).convert("RGB").crop((16, 16, 240, 240)))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return (((pixels / 255 - mean) / std).transpose(2, 0, 1)[None]).astype(np.float32)


def test_fp16_is_near_on_a_photograph(
    exported: Path, photographs: Path, run_onnx: Callable[..., list[np.ndarray]]
) -> None:
    model = ir.load(exported)
    feeds = {"image": _photograph(photographs)}
    (dense,), (half,) = run_onnx(model, feeds), run_onnx(to_fp16(model), feeds)
    assert half.argmax() == dense.argmax()
    assert np.abs(half - dense).max() < 0.02  # logits up to 8.5: a few units of 2^-11 over 12 blocks; 0.005 seen


@pytest.mark.usefixtures("rtx")
def test_every_attention_is_fused(exported: Path, tmp_path: Path) -> None:
    typed = to_fp16(ir.load(exported))
    path = tmp_path / "fp16.onnx"
    ir.save(typed, path)
    targets = [load_target("rtx-3090"), load_target("rtx-4090")]
    assert not [found for found in findings(typed, RUNTIMES[-1], targets[0]) if found.severity == "error"]
    for result in build(path, targets, tmp_path / "engine", attentions=count_attentions(typed)):
        assert result.error is None
        assert (result.attentions, result.fused_attentions) == (12, 12)


def test_the_latency_model_sees_twelve_equal_blocks(exported: Path) -> None:
    model = Canonicalize().apply(ir.load(exported)).model
    parts = {part.block: part.ms for part in estimate(model, load_target("jetson-orin")).blocks}
    assert sorted(parts) == list(range(-1, 12))
    assert len({round(parts[block], 6) for block in range(11)}) == 1  # the last has the head


@pytest.mark.parametrize("strategy", ["", *(name for name in ATTENTION if name != "keep-all")])
def test_every_lowering_is_equal_on_a_photograph(exported: Path, photographs: Path, strategy: str) -> None:
    model = Canonicalize().apply(ir.load(exported)).model
    if strategy:
        once = strategy == "fopru-row"  # keeps whole rows of 14, of which nothing is left after a cut
        reduce(model, {2: 140} if once else {2: 140, 5: 98, 8: 70}, strategy)
    feed = {"image": _photograph(photographs)}
    target = load_target("jetson-orin")
    for runtime in (*RUNTIMES[:3], RUNTIMES[4]):  # the others get the graph of one of these, see test_lowering.py
        # importance-merge finds two tokens of this photograph equal in fp16 and takes the other one: off by 3.5 %
        typed = runtime.typing == "strong" and strategy != "importance-merge"
        for precision in ("fp32", "fp16") if typed else ("fp32",):
            proof = prove_lowering(model, lower(model, runtime, target, precision), feed, 1)
            assert proof.passed, (runtime.name, precision, proof)
    unfused = lower(model, RUNTIMES[2], target, "fp32", fused_attention=False)
    assert unfused.changes["unfused-attention"] == 12
    assert prove_lowering(model, unfused, feed, 1).passed


@pytest.mark.usefixtures("rtx")
def test_no_attention_is_fused_where_none_is_wanted(exported: Path, tmp_path: Path) -> None:
    target = load_target("rtx-3090")
    model = Canonicalize().apply(ir.load(exported)).model
    typed = lower(model, RUNTIMES[-1], target, "fp16", fused_attention=False).model
    (result,) = build(ir.to_proto(typed).SerializeToString(), [target], tmp_path, attentions=count_attentions(typed))
    assert (result.error, result.attentions, result.fused_attentions) == (None, 12, 0)
