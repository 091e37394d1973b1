"""The launches that the latency model counts, against the schedule of a real TensorRT-RTX engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
from support.rtx import build

from edgeprune_targets.builders.plan_text import launches
from edgeprune_targets.kernels import kernels_of
from edgeprune_targets.precision import to_fp16
from edgeprune_targets.profiles import load_target


@pytest.mark.usefixtures("rtx")
def test_kernels_are_as_many_as_the_engine_launches(make_encoder: Callable[..., ir.Model], tmp_path: Path) -> None:
    counted, launched = {}, {}
    for cut in ("", "topk", "merge"):
        model = make_encoder(blocks=4, tokens=65, width=64, heads=2, cut=cut)
        counted[cut] = len(kernels_of(model, "fp16"))
        typed = ir.to_proto(to_fp16(model)).SerializeToString()
        (built,) = build(typed, [load_target("rtx-3090")], tmp_path / f"cut-{cut}")
        launched[cut] = len(launches(Path(str(built.path)).read_bytes()))
    # Two of 11 a block: Q, K and V as three products get three copies in this runtime, and none in TensorRT's plugins.
    assert counted[""] == pytest.approx(launched[""], rel=0.25)
    for cut in ("topk", "merge"):  # what a cut adds: small kernels that fuse in ways the model knows roughly
        added = counted[cut] - counted[""]
        assert added == pytest.approx(launched[cut] - launched[""], rel=0.5), (cut, counted, launched)
