"""The verdict: honest where nothing is known, where it is slower, where it is wrong."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import get_args

import pytest

from edgeprune.core.plan import Alignment, OutputCut, StrategySpec
from edgeprune.core.results import Drift, EngineCheck, Interval, Latency, Timing
from edgeprune.report.judging import engine_words, headline, known_as, model_miss, sure_gain
from edgeprune.report.proofs import failed_proofs
from edgeprune.report.verdict import agreement_interval, chosen_candidate, verdict_of
from edgeprune.report.words import between, listed, scan_rows, size, title_of


def modelled(target="rtx-4090", speedup=1.44, low=None, high=None, **changes) -> Latency:
    interval = None if low is None else Interval(low=low, high=high)
    row = Latency(
        target=target,
        kind="modelled",
        dense_p50_ms=speedup,
        pruned_p50_ms=1.0,
        speedup=speedup,
        speedup_interval=interval,
    )
    return replace(row, **changes)


def measured(target="rtx-4090", speedup=1.3, p90=1.0, **changes) -> Latency:
    timing = Timing(p50_ms=1.0, p90_ms=p90, p99_ms=p90, samples=100)
    row = Latency(
        target=target,
        kind="measured",
        dense_p50_ms=speedup,
        pruned_p50_ms=1.0,
        speedup=speedup,
        runtime="TensorRT 10.3.0",
        device="Jetson AGX Orin",
        dense_timing=timing,
        pruned_timing=timing,
    )
    return replace(row, **changes)


def on(report, *rows, targets=("rtx-4090",)):
    return replace(report, latency=rows, plan=replace(report.plan, targets=targets), warnings=())


def test_the_summary_tells_work_speed_and_accuracy(report):
    verdict = verdict_of(on(report, modelled(low=1.31, high=1.55)))
    assert verdict.summary == (
        "The pruned model does 65.0 % of the MACs and is faster than the dense one: "
        "1.44x on rtx-4090 (modelled, 80 % interval 1.31x to 1.55x). "
        "It gives the same class as the vit.onnx on 381 of 400 samples (95.2 %)."
    )
    assert [finding.tone for finding in verdict.findings] == ["plain", "good", "good", "good"]
    assert verdict.warning == ""
    assert not verdict.is_alarm


def test_slower_is_said_loudly(report):
    verdict = verdict_of(on(report, modelled(speedup=0.68)))
    assert "but is SLOWER than the dense one: 0.68x on rtx-4090 (modelled)" in verdict.summary
    assert verdict.speed.tone == "bad"
    assert verdict.warning == "rtx-4090: modelled slower than dense (0.68x)"


def test_where_fewer_tokens_leave_the_gain_is_said_to_be_elsewhere(report):
    slow = on(report, modelled(speedup=0.9))
    leaving = OutputCut(keep=4, strategy=StrategySpec(name="divprune"))
    summary = verdict_of(replace(slow, plan=replace(slow.plan, output=leaving))).summary
    assert "but is slower by itself than the dense one: 0.90x on rtx-4090 (modelled)" in summary
    assert f"4 of {slow.plan.patch_tokens} tokens leave it: what that gains" in summary
    assert "tokens leave" not in verdict_of(slow).summary


def test_the_warning_of_the_slowest_target_is_told_in_its_own_words(report):
    slow = on(report, modelled(speedup=0.9), modelled("t4", 0.7), targets=("rtx-4090", "t4"))
    slow = replace(slow, warnings=("rtx-4090: slow", "t4: slower still, try --cuts 2"))
    assert verdict_of(slow).warning == "t4: slower still, try --cuts 2"


@pytest.mark.parametrize(
    ("row", "tone"),
    [
        (modelled(speedup=1.2), "good"),
        (modelled(speedup=1.2, low=0.95, high=1.4), "unsure"),
        (modelled(speedup=0.9, low=0.8, high=0.99), "bad"),
        (modelled(speedup=1.01), "unsure"),
        (measured(speedup=1.3), "good"),
        (measured(speedup=1.3, p90=1.6), "unsure"),
    ],
)
def test_a_gain_is_claimed_only_where_it_is_sure(report, row, tone):
    assert sure_gain(row) == tone
    assert verdict_of(on(report, row)).speed.tone == tone


def test_a_disturbed_measurement_says_so(report):
    assert known_as(measured(p90=9.0)) == "measured, TensorRT 10.3.0, disturbed"
    assert "a gain in speed is not sure" in verdict_of(on(report, measured(p90=9.0))).summary


def test_a_measured_row_stands_before_a_modelled_one_of_the_same_target():
    rows = headline([modelled(), measured(), modelled("t4"), measured("onnxruntime-cpu")], ("rtx-4090", "t4"))
    assert [(row.target, row.kind) for row in rows] == [("rtx-4090", "measured"), ("t4", "modelled")]


def test_without_a_target_this_machine_counts(report):
    verdict = verdict_of(on(report, measured("onnxruntime-cpu"), targets=()))
    assert verdict.speed.words == "measured, TensorRT 10.3.0, on onnxruntime-cpu, Jetson AGX Orin"


def test_many_targets_are_told_as_a_range(report):
    rows = [modelled(f"t{i}", 0.9 + i / 10) for i in range(4)] + [measured("t4", 1.5)]
    verdict = verdict_of(on(report, *rows, targets=tuple(f"t{i}" for i in range(5))))
    range_ = "its speed is 0.90x to 1.50x the dense one's on 5 targets (1 measured, 4 modelled), slower than dense on 1"
    assert range_ in verdict.summary
    assert verdict.speed.tone == "unsure"


def test_what_was_not_looked_at_is_not_known(report):
    empty = replace(report.validation, identity=None, exactness=None, drift={})
    verdict = verdict_of(replace(on(report), validation=empty, engines=()))
    assert verdict.summary == (
        "The pruned model does 65.0 % of the MACs; its speed is not known, since nothing was measured or modelled. "
        "What that costs in accuracy is not known: there was no data."
    )
    assert [finding.figure for finding in verdict.findings] == ["not known", "not known", "not run", "none"]
    assert [finding.tone for finding in verdict.findings] == ["unsure", "unsure", "unsure", "plain"]


@pytest.mark.parametrize("which", ["identity", "exactness"])
def test_a_failed_proof_stands_first(report, which):
    failed = False if which == "identity" else replace(report.validation.exactness, passed=False)
    verdict = verdict_of(replace(report, validation=replace(report.validation, **{which: failed})))
    assert verdict.summary.startswith("The proof FAILED: this model does not do what it says.")
    assert verdict.proof.figure == "FAILED"
    assert "NOT" in verdict.warning
    assert verdict.is_alarm


@pytest.mark.parametrize("error", [math.inf, math.nan, sys.float_info.max])
def test_an_output_that_is_no_number_is_told(report, error):
    broken = {"logits": replace(report.validation.drift["logits"], relative_error=error)}
    verdict = verdict_of(replace(report, validation=replace(report.validation, drift=broken)))
    assert "Its output `logits` is NOT A NUMBER or without bound on some of 400 samples." in verdict.summary
    assert verdict.accuracy.tone == "bad"


def test_a_map_is_judged_by_its_correlation(report):
    drift = {"saliency": replace(report.validation.drift["logits"], kl=None, top1_agreement=None)}
    verdict = verdict_of(replace(report, validation=replace(report.validation, drift=drift, samples=1)))
    assert verdict.summary.endswith("Its output `saliency` correlates 0.991 with the vit.onnx over 1 sample.")
    assert verdict.accuracy.figure == "0.991"


def test_the_output_with_classes_is_the_one_to_judge_by(report):
    logits = report.validation.drift["logits"]
    drift: dict[str, Drift] = {"features": replace(logits, kl=None, top1_agreement=None), "logits": logits}
    verdict = verdict_of(replace(report, validation=replace(report.validation, drift=drift)))
    assert verdict.accuracy.figure == "95.2 %"


def test_few_samples_say_little():
    low, high = agreement_interval(45 / 48, 48)
    assert (round(low, 3), round(high, 3)) == (0.832, 0.979)  # Wilson's interval, by hand
    assert agreement_interval(1.0, 10)[1] == 1.0
    assert agreement_interval(1.0, 10)[0] == pytest.approx(0.722, abs=5e-4)


@pytest.mark.parametrize(
    ("changes", "words", "tone"),
    [
        ({}, "built, 12 of 12 attentions fused, the dense model has 12", "good"),
        ({"fused_attentions": 2}, "LOST FUSED ATTENTION: 2 of 12 attentions fused, the dense model has 12", "bad"),
        (
            {"fused_attentions": 0, "attention_unfused": True},
            "built, 0 of 12 attentions fused, the dense model has 12: fusion was kept off",
            "plain",
        ),
        ({"fused_attentions": None}, "built; fused attentions not counted", "plain"),
        ({"built": False, "error": "no space"}, "not built: no space", "unsure"),
        ({"built": False}, "not built: no reason given", "unsure"),
    ],
)
def test_what_became_of_an_engine(report, changes, words, tone):
    assert engine_words(replace(report.engines[0], **changes)) == (words, tone)


def test_an_engine_with_wrong_outputs_is_the_worst_warning(report):
    check = EngineCheck(samples=8, cosine=0.41, relative_error=1.2, passed=False)
    lost = replace(report.engines[0], target="t4", fused_attentions=2)
    wrong = replace(report, engines=(lost, replace(report.engines[0], check=check)))
    verdict = verdict_of(wrong)
    assert verdict.engines.tone == "bad"
    assert verdict.warning == "rtx-4090: WRONG OUTPUTS: cosine 0.41000 to ONNX Runtime on 8 samples"
    right = replace(check, cosine=0.99999, passed=True)
    assert engine_words(replace(report.engines[0], check=right))[0].endswith(
        "outputs checked, cosine 0.99999 to ONNX Runtime on 8 samples"
    )


def test_a_lowering_that_computes_something_else_is_the_worst_warning(report):
    wrong = replace(report, lowerings=(replace(report.lowerings[0], max_abs_error=0.5, passed=False),))
    verdict = verdict_of(wrong)
    assert verdict.is_alarm
    assert verdict.warning == (
        "the graph lowered for tensorrt-10.3 does NOT give the compiled one's numbers: error 5.0e-01 at scale 8.0e+00"
    )


def test_every_proof_that_failed_is_named(report):
    validation = report.validation
    assert validation.exactness is not None
    wrong = replace(validation.exactness, passed=False)
    failed = failed_proofs(replace(validation, identity=False, exactness=wrong, widths=wrong))
    assert [sentence.partition(" NOT ")[0] for sentence in failed] == [
        "with all tokens kept, the outputs are",
        "the cuts are",
        "the cut widths are",
    ]
    assert failed_proofs(validation, report.lowerings, report.engines) == ()


def test_several_engines_are_summed_and_the_missing_named(report):
    first = report.engines[0]
    missing = replace(first, target="jetson-orin", built=False, error="on the device")
    verdict = verdict_of(replace(report, engines=(first, replace(first, target="t4"), missing)))
    assert verdict.engines.figure == "2 of 3"
    assert verdict.engines.words == "built, 24 of 24 attentions fused in all; not built here: jetson-orin"


def test_the_model_is_held_against_the_clock():
    said = modelled(dense_p50_ms=0.8, pruned_p50_ms=0.5, speedup=1.6)
    clock = measured(dense_p50_ms=1.0, pruned_p50_ms=0.75, speedup=1.33)
    words = "modelled before it was measured: dense 0.800 ms (-20 %), pruned 0.500 ms (-33 %), 1.60x"
    assert model_miss([clock, said], clock) == words
    assert model_miss([clock, said], said) == ""
    assert model_miss([clock, modelled("t4")], clock) == ""
    assert model_miss([replace(clock, precision="fp32"), replace(said, precision="fp16")], clock) == words
    clock = replace(clock, precision="fp32")
    assert model_miss([clock, replace(said, precision="fp16")], clock) == ""


def test_the_searched_schedule_is_the_chosen_one(report):
    assert chosen_candidate(report) == "tome"
    searched = replace(report.strategy.candidates[0], name="tome, searched")
    strategy = replace(report.strategy, candidates=(*report.strategy.candidates, searched))
    assert chosen_candidate(replace(report, strategy=strategy)) == "tome, searched"


def test_the_pair_with_the_plan_s_restore_is_the_chosen_one(report):
    names = ("tome, soft", "tome, nearest", "tome, soft, searched")
    tried = [replace(report.strategy.candidates[0], name=name, refused=None) for name in names]
    made = replace(report, plan=replace(report.plan, restore="soft"))
    for count, chosen in ((2, "tome, soft"), (3, "tome, soft, searched")):
        strategy = replace(report.strategy, name="tome", candidates=tuple(tried[:count]))
        assert chosen_candidate(replace(made, strategy=strategy)) == chosen


def test_words():
    assert (listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])) == ("a", "a and b", "a, b and c")
    assert (between(1.0, 1.001), between(1, 2)) == ("1.00x", "1.00x to 2.00x")
    assert (size(None), size(24_800_000)) == ("-", "24.8 MB")


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("/a/b/vit.onnx", "vit.onnx"),
        ("C:\\models\\vit.onnx", "vit.onnx"),
        ("timm:deit_tiny", "timm:deit_tiny"),
        ("", "model abababababab"),
    ],
)
def test_a_model_is_named_as_the_user_named_it(source, title):
    assert title_of(source, "ab" * 32) == title


def test_what_scans_make_of_what_is_gone_is_said_where_something_is(report):
    scans = replace(report.plan, scan="auto")
    assert scan_rows(report.plan) == []
    assert [row[0] for row in scan_rows(replace(scans, cuts=()))] == ["selective scans"]
    for alignment in get_args(Alignment):
        name, words = scan_rows(replace(scans, alignment=alignment))[1]
        assert (name, words.partition(":")[0]) == ("alignment", alignment)
