"""Where tokens begin, what an attention is made of, where a block may be cut."""

from __future__ import annotations

import numpy as np
import pytest
from support.flow import graph
from support.surgery import canonical
from support.tiny_torch import Spelling

from edgeprune.core.errors import ModelError
from edgeprune.core.flow.labels import Segment
from edgeprune.core.recognition import Recognition, is_attention_softmax, recognize
from edgeprune.core.refusals import Refusal, RefusalCode


def found(**spelling: object) -> Recognition:
    return recognize(canonical(Spelling(**spelling), 2))


def test_an_attention_has_its_parts():
    attention = found(relative=True).blocks[1].attention
    assert attention.spelling == "MatMul Add Softmax"
    assert attention.query.shape == (2, 3, 26, 8)
    assert attention.key.shape == (2, 3, 8, 26)
    assert attention.value.shape == (2, 3, 26, 8)
    assert attention.probs.shape == (2, 3, 26, 26)
    assert attention.product.outputs[0] is attention.scores
    assert [node.op_type for node in attention.between] == ["Add"]


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_cut_stands_behind_the_attention_before_the_mlp(norm):
    for block in found(norm=norm).blocks:
        assert block.cut.name == f"/blocks.{block.index}/Add_output_0"


def test_a_parallel_block_is_cut_behind_both_branches():
    assert [b.cut.name for b in found(parallel=True).blocks] == [f"/blocks.{i}/Add_1_output_0" for i in range(3)]


def test_tokens_begin_once_whatever_is_put_together_later():
    """Rotary embeddings take the prefix off and put it back in every block."""
    stream = found(rope=True, prefix=5).found
    assert len(stream.seeds) == 1
    (label,) = stream.seeds.values()
    assert label.tokens_at(1).segments == (Segment(0, 30),)


def test_the_kind_of_sequence():
    assert (found().found.kind, found(text=True, attention="separate").found.kind) == ("image", "text")


def sequence(body: str) -> Recognition:
    return recognize(graph(body, "BTE").model())


ATTEND = (
    "k{i} = Transpose<perm=[0,2,1]>({x}) s{i} = MatMul({x}, k{i}) "
    "p{i} = Softmax<axis=-1>(s{i}) c{i} = MatMul(p{i}, {x}) "
)


def test_a_sequence_input_is_a_beginning():
    body = ATTEND.format(i=0, x="x") + "h = Add(x, c0) " + ATTEND.format(i=1, x="h") + "g = Add(h, c1) y = Relu(g)"
    result = sequence(body)
    assert result.found.kind == "sequence"
    assert (result.found.tokens, result.found.prefix, result.found.batch) == (7, 0, 2)
    assert [block.cut.name for block in result.blocks] == ["h", "g"]


def test_blocks_without_a_residual_are_refused():
    body = ATTEND.format(i=0, x="x") + ATTEND.format(i=1, x="c0") + "y = Relu(c1)"
    result = sequence(body)
    assert result.stream is None
    reason = "no residual Add passes all tokens from one block to the next"
    assert result.refusals == (Refusal(RefusalCode.NO_CUT_POINT, reason, ("Softmax2",)),)


def test_two_attentions_of_one_residual_are_one_block():
    body = ATTEND.format(i=0, x="x") + ATTEND.format(i=1, x="x") + "b = Add(c0, c1) h = Add(x, b) y = Relu(h)"
    (block,) = sequence(body).blocks
    assert len(block.attentions) == 2
    assert block.cut.name == "h"


def test_a_sum_of_branches_is_no_stream_for_what_bypasses_it():
    """The skip path goes around the sum, so that the later block sees tokens that a cut there would not reach."""
    body = ATTEND.format(i=0, x="x") + "h = Add(x, c0) j = Add(h, x) " + ATTEND.format(i=1, x="j") + "y = Add(x, c1)"
    result = sequence(body)
    assert result.blocks[0].cut.name in {"h", "j"}
    assert result.blocks[-1].cut.name == "y"


def test_a_pool_of_experts_is_no_attention():
    softmaxes = [n for n in graph("p = Softmax<axis=-1>(x) y = Mul(p, x)").model().graph if n.op_type == "Softmax"]
    assert not is_attention_softmax(softmaxes[0])
    weighed = graph(
        "p = Softmax<axis=-1>(x) c = Cast<to=1>(p) y = MatMul(c, w)", w=np.ones((12, 3), np.float32)
    ).model()
    assert is_attention_softmax(next(iter(weighed.graph)))


def test_late_tokens_in_front_of_attention_are_refused():
    body = "j = Concat<axis=1>(x, z) " + ATTEND.format(i=0, x="j") + "h = Add(j, c0) y = Relu(h)"
    item = graph(body, "BTE", z=(2, 1, 4))
    result = recognize(item.model())
    assert [(r.code.value, r.reason) for r in result.refusals] == [
        ("position-bound", "fresh tokens stand behind or between the patch tokens")
    ]


def test_asking_a_refused_model_for_its_stream_is_an_error():
    refused = Recognition(None, (), (Refusal(RefusalCode.NO_ATTENTION, "none here", ("n",)),))
    with pytest.raises(ModelError) as caught:
        _ = refused.found
    assert caught.value.message == "no tokens can be cut in this model: no-attention: none here at n"
