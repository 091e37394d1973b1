"""What every strategy that reads scans promises, on tiny Vims with the class token at each place."""

from __future__ import annotations

from typing import get_args

import numpy as np
import onnx_ir as ir
import pytest
from support.kinds import SCANS
from support.scan_surgery import Cuts, canonical_vim, prove_vim, reduce_vim
from support.tiny_vim import VimSpelling, example

from edgeprune.core.plan import Alignment, Option
from edgeprune.core.recognition import recognize
from edgeprune.core.text import canonical_text
from edgeprune_calibration.runner import Runner
from edgeprune_passes.canonicalize import Canonicalize
from edgeprune_passes.registry import make_strategy, strategies

SPELLINGS = {
    token: VimSpelling(token=token, depth=3, two_streams=token == "last")
    for token in ("middle", "first", "last", "none")
}
PATCHES = 16
ALIGNMENTS: tuple[Alignment, ...] = get_args(Alignment)


def unmerged(name: str) -> dict[str, Option]:
    """Options that `exact` can work with; ssm-runs and ssm-output have none."""
    return {"merge": False} if name == "ssm-delta" else {}


def can(name: str, alignment: Alignment) -> bool:
    return alignment != "exact" or name == "ssm-delta"


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("token", SPELLINGS)
def test_the_index_keeps_its_promise(name: str, token: str) -> None:
    """Ascending, with the class token at its place, as many on either side, for each sample its own; all finite."""
    spelling = SPELLINGS[token]
    model = canonical_vim(spelling, 2)
    stream = recognize(model).found
    strategy = make_strategy(Cuts(keep={0: 9}, strategy=name).listed()[0].strategy)
    for keep in sorted({strategy.fewest(PATCHES, stream.prefix), 9, PATCHES}):
        pruned = canonical_vim(spelling, 2)
        reduce_vim(pruned, Cuts(keep={0: keep}, strategy=name))
        values = {str(value.name): value for node in pruned.graph for value in node.outputs}
        pruned.graph.outputs.append(values["edgeprune/cut/0/index"])
        found = Runner(pruned, threads=1).run(example(spelling, 2))
        index = found["edgeprune/cut/0/index"]
        assert index.shape == (2, keep + stream.prefix)
        assert (np.diff(index, axis=1) > 0).all()
        if spelling.place is not None:
            left = {"first": 0, "middle": keep // 2, "last": keep}[token]
            assert (index[:, left] == spelling.place).all()
        assert all(np.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("name", SCANS)
def test_keeping_all_tokens_is_the_identity(name: str, alignment: Alignment) -> None:
    if not can(name, alignment):
        pytest.skip("refused, see tests/refusals/test_alignment.py")
    spelling = SPELLINGS["middle"]
    dense, model = canonical_vim(spelling, 3), canonical_vim(spelling, 3)
    reduce_vim(model, Cuts(keep={0: PATCHES, 1: PATCHES}, strategy=name, options=unmerged(name), alignment=alignment))
    assert canonical_text(model) != canonical_text(dense)
    found, wanted = (Runner(each, threads=1, optimise=False).run(example(spelling, 3)) for each in (model, dense))
    for output, value in wanted.items():
        np.testing.assert_array_equal(found[output], value)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("name", SCANS)
def test_the_same_cuts_write_the_same_graph_in_front_of_what_reads_them(name: str, alignment: Alignment) -> None:
    if not can(name, alignment):
        pytest.skip("refused, see tests/refusals/test_alignment.py")
    cuts = Cuts(keep={0: 12, 1: 9}, strategy=name, options=unmerged(name), alignment=alignment)
    made = [canonical_vim(SPELLINGS["middle"], 2) for _ in range(2)]
    plans = [reduce_vim(model, cuts) for model in made]
    assert canonical_text(made[0]) == canonical_text(made[1])
    assert not {node.op_type for node in made[0].graph} & {"NonZero", "ScatterND", "ScatterElements", "Loop", "If"}
    proof = prove_vim(canonical_vim(SPELLINGS["middle"], 2), made[0], plans[0], SPELLINGS["middle"], 2)
    assert proof.passed, proof


@pytest.mark.parametrize("name", SCANS)
def test_a_block_without_scans_is_refused(name: str, digits) -> None:
    model = ir.load(digits)
    Canonicalize(batch=1).apply(model)
    refusal = strategies()[name]().refuses(recognize(model).blocks[0], 1)
    assert str(refusal) == "not-applicable: the block has no selective scan"
