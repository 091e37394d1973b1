"""The plan: same plan, same bytes; what no plan may hold is refused with the field's name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.core.errors import PlanError
from edgeprune.core.plan import Plan, StrategySpec, TokenCut, check_plan, plan_from_json, plan_to_json

SPEC = StrategySpec(name="tome")


def plan_of(*cuts: tuple[int, int], **changes) -> Plan:
    made = tuple(TokenCut(block=block, keep=keep, strategy=SPEC) for block, keep in cuts)
    fixed = {"model_sha256": "0" * 64, "inputs": {"image": (1, 3, 32, 32)}, "patch_tokens": 16, "prefix_tokens": 1}
    return Plan(**(fixed | {"blocks": 4, "cuts": made} | changes))


@st.composite
def plans(draw) -> Plan:
    blocks = draw(st.integers(1, 12))
    at = sorted(draw(st.sets(st.integers(0, blocks - 1))))
    keeps = sorted(draw(st.lists(st.integers(1, 196), min_size=len(at), max_size=len(at))), reverse=True)
    return plan_of(*zip(at, keeps, strict=True), blocks=blocks, patch_tokens=196, seed=draw(st.integers(0, 99)))


@given(plans())
def test_a_plan_survives_json(plan):
    data = plan_to_json(plan)
    assert plan_from_json(data) == plan
    assert plan_to_json(plan_from_json(data)) == data


@given(plans())
def test_a_schedule_never_grows_and_has_a_number_a_block(plan):
    schedule = plan.schedule()
    assert len(schedule) == plan.blocks
    assert all(later <= earlier for earlier, later in zip((plan.patch_tokens, *schedule), schedule, strict=False))
    assert all(schedule[cut.block] == cut.keep for cut in plan.cuts)


def test_a_plan_that_aligns_nothing_has_the_bytes_of_one_that_knew_no_alignment():
    assert b"alignment" not in plan_to_json(plan_of((1, 8)))
    aligned = plan_of((1, 8), alignment="gap")
    assert plan_from_json(plan_to_json(aligned)) == aligned
    with pytest.raises(PlanError, match="alignment"):
        plan_from_json(plan_to_json(aligned).replace(b'"gap"', b'"gaps"'))


def test_a_plan_of_a_model_without_scans_does_not_mention_them():
    assert b"scan" not in plan_to_json(plan_of((1, 8)))
    scanned = plan_of((1, 8), scan="chunked")
    assert plan_from_json(plan_to_json(scanned)) == scanned
    with pytest.raises(PlanError, match="scan"):
        plan_from_json(plan_to_json(scanned).replace(b'"chunked"', b'"chunks"'))


def test_the_schedule_holds_until_the_next_cut():
    assert plan_of((1, 10), (3, 4)).schedule() == (16, 10, 10, 4)
    assert plan_of().schedule() == (16,) * 4


@pytest.mark.parametrize(
    ("plan", "message", "hint"),
    [
        (plan_of(schema=7), "plan has schema 7, expected 1: `schema`", "write the plan again"),
        (
            plan_of((4, 8)),
            "cut 0 is in block 4, expected a block after -1 and below 4: `cuts[0].block`",
            "one cut a block",
        ),
        (
            plan_of((2, 8), (2, 4)),
            "cut 1 is in block 2, expected a block after 2 and below 4: `cuts[1].block`",
            "order",
        ),
        (plan_of((0, 17)), "block 0 keeps 17 patch tokens but has 16: `cuts[0].keep`", "without prefix tokens"),
        (plan_of((0, 8), (1, 9)), "block 1 keeps 9 patch tokens but has 8: `cuts[1].keep`", "without prefix tokens"),
        (plan_of((0, 0)), "block 0 keeps 0 patch tokens but has 16: `cuts[0].keep`", "without prefix tokens"),
    ],
)
def test_a_plan_that_contradicts_itself_names_the_field(plan, message, hint):
    with pytest.raises(PlanError) as caught:
        check_plan(plan)
    assert caught.value.message == message
    assert hint in caught.value.hint
    with pytest.raises(PlanError):
        plan_from_json(plan_to_json(plan))


@pytest.mark.parametrize("data", [b"", b"[]", b'{"schema": 1}', b"\x00\xff", b'{"schema": "one"}'])
def test_other_bytes_are_no_plan(data):
    with pytest.raises(PlanError, match="not a plan: ") as caught:
        plan_from_json(data)
    assert "edgeprune plan" in caught.value.hint


def test_plans_differ_where_their_decisions_do():
    assert plan_to_json(plan_of((1, 8))) != plan_to_json(plan_of((1, 9)))
    assert plan_to_json(plan_of(seed=1)) != plan_to_json(plan_of())
    assert replace(plan_of(), precision="fp16") != plan_of()
