"""A report and an inspection with something in every field."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.core.plan import Plan, StrategySpec, TokenCut
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.results import (
    BlockCost,
    Candidate,
    CutMap,
    Drift,
    EngineBuild,
    Exactness,
    Latency,
    ModelFacts,
    TokenMap,
    Validation,
    WorstSample,
)
from edgeprune.report import (
    BlockFacts,
    Budget,
    Environment,
    Inspection,
    Report,
    StrategyFit,
    StrategyReport,
    TensorFacts,
)
from edgeprune.report.checked import LoweringProof

REFUSAL = Refusal(RefusalCode.NO_CLASS_TOKEN, "the head pools all tokens", ("/head/ReduceMean",))


# A grid of 2 x 3: kept, merged into the first, dropped / kept, kept, merged into the one before.
OWNERS = (0, 0, -1, 3, 4, 4)
DEMO = Path(__file__).resolve().parents[2] / "demo"


def facts(macs: int, *tokens: int) -> ModelFacts:
    return ModelFacts(
        sha256="ab" * 32,
        macs=macs,
        params=5_717_416,
        blocks=len(tokens),
        tokens=tokens[0],
        prefix_tokens=1,
        tokens_per_block=tokens,
    )


def drift(kl: float | None = 0.0144) -> Drift:
    return Drift(
        cosine=0.9912,
        kl=kl,
        top1_agreement=None if kl is None else 0.952,
        relative_error=0.083,
        worst_sample="014_n01537544.jpg",
        correlation=0.9908,
        mean_abs_error=0.07,
        relative_errors=(0.1, 0.066),
    )


def engine(**changes) -> EngineBuild:
    built = {"target": "rtx-4090", "builder": "tensorrt-rtx", "compute_capability": "8.9", "built": True}
    numbers = {"bytes": 12_000_000, "attentions": 12, "fused_attentions": 12, "dense_fused_attentions": 12}
    return EngineBuild(**(built | numbers | changes))


@pytest.fixture
def report() -> Report:
    cut = TokenCut(block=1, keep=120, strategy=StrategySpec(name="tome", options={"metric": "keys"}))
    inputs = {"image": (1, 3, 224, 224)}
    plan = Plan(model_sha256="ab" * 32, inputs=inputs, patch_tokens=196, prefix_tokens=1, blocks=3, cuts=(cut,))
    exactness = Exactness(
        method="masked dense graph", max_abs_error=2e-6, max_abs_value=8.0, sensitivity=0.4, passed=True
    )
    tried = Candidate(name="tome", options={}, macs_ratio=0.65, score=0.0144, drift={"logits": drift()})
    declined = Candidate(name="cls-topk", options={}, macs_ratio=1.0, score=None, drift={}, refused=REFUSAL)
    return Report(
        model=facts(1_260_000_000, 197, 197, 197),
        pruned=facts(819_000_000, 197, 121, 121),
        budget=Budget(kind="macs", asked=0.65, keep=0.742, macs=0.65),
        strategy=StrategyReport(name="tome", options={"metric": "keys"}, candidates=(tried, declined)),
        plan=plan,
        validation=Validation(
            reference="vit.onnx", samples=400, identity=True, exactness=exactness, drift={"logits": drift()}
        ),
        engines=(engine(),),
        latency=(
            Latency(target="rtx-4090", kind="modelled", dense_p50_ms=0.52, pruned_p50_ms=0.361, speedup=1.44),
            Latency(
                target="this machine", kind="measured", dense_p50_ms=30.0, pruned_p50_ms=20.0, speedup=1.5, method="CPU"
            ),
        ),
        lowerings=(
            LoweringProof(runtime="tensorrt-10.3", max_abs_error=2e-6, max_abs_value=8.0, tolerance=1e-4, passed=True),
        ),
        blocks=tuple(
            BlockCost(block=i, dense_tokens=197, pruned_tokens=t, dense_macs=400_000_000, pruned_macs=2_000_000 * t)
            for i, t in enumerate((197, 197, 121))
        ),
        token_maps=(
            TokenMap(sample="a.jpg", image="samples/a.jpg", rows=2, columns=3, cuts=(CutMap(block=1, owners=OWNERS),)),
        ),
        worst_samples=(
            WorstSample(sample="014_n01537544.jpg", output="logits", relative_error=0.1, image="samples/worst.jpg"),
            WorstSample(sample="016_n01560419.jpg", output="logits", relative_error=0.066),
        ),
        refusals=(REFUSAL,),
        warnings=("no data was given",),
        environment=Environment(
            edgeprune="0.1.0", python="3.11.7", system="Linux", machine="x86_64", cpus=2, packages={"onnx": "1.23.2"}
        ),
        command=("compile", "vit.onnx", "--macs", "0.65", "-o", "out"),
    )


@pytest.fixture(scope="session")
def compiled_demo(tmp_path_factory) -> Path:
    """The output folder of a real compile with data."""
    from edgeprune import api
    from edgeprune.options import Options

    out = tmp_path_factory.mktemp("report") / "out"
    options = Options(strategy="cls-topk", data=DEMO / "digits_test.npz", samples=20, search=0, cuts=2)
    api.compile(DEMO / "digits_vit.onnx", keep=0.6, out=out, options=options)
    return out


@pytest.fixture
def inspection() -> Inspection:
    block = BlockFacts(
        index=0,
        tokens=197,
        prefix_tokens=1,
        heads=3,
        head_size=64,
        width=192,
        mlp_width=None,
        attention="unfused",
        cut="/blocks.0/Add_output_0",
        macs=101_000_000,
        params=444_864,
    )
    return Inspection(
        source="vit.onnx",
        opset=17,
        inputs=(TensorFacts(name="image", dtype="float32", shape=("batch", 3, 224, 224)),),
        outputs=(TensorFacts(name="logits", dtype="float32", shape=("batch", 1000)),),
        model=facts(1_260_000_000, 197),
        blocks=(block,),
        refusals=(REFUSAL,),
        strategies=(StrategyFit(name="tome"), StrategyFit(name="cls-topk", refused=REFUSAL)),
        warnings=("weights hold NaN",),
    )
