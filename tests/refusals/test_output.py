"""Outputs that cannot get shorter, and what is said of it, word for word."""

from __future__ import annotations

import pytest
from support.surgery import canonical as other
from support.tiny_torch import Spelling
from support.tiny_vlm import Tower, canonical

from edgeprune.core.errors import PlanError
from edgeprune.core.plan import OutputCut, StrategySpec, TokenCut
from edgeprune.core.readout import find_readout
from edgeprune.core.recognition import recognize
from edgeprune.core.refusals import Refusal
from edgeprune.options import Options
from edgeprune_passes.reduce_tokens import ReduceTokens

GRID = "grid-connector: a pixel shuffle or patch merger joins neighbours of the grid: "


def refusal(model) -> str:
    found = find_readout(model, recognize(model))
    assert isinstance(found, Refusal)
    return str(found).partition(" at ")[0]


def planned(name: str, keep: int, *cuts: TokenCut, **options) -> ReduceTokens:
    return ReduceTokens(cuts, output=OutputCut(keep=keep, strategy=StrategySpec(name=name, options=options)))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("projector", ["shuffle", "merger"])
def test_connectors_that_join_neighbours_are_refused_by_name(kind, projector):
    assert refusal(canonical(Tower(kind=kind, projector=projector))).startswith(GRID)


def test_pooling_over_the_grid_is_refused():
    words = refusal(canonical(Tower(projector="pool")))
    assert words.startswith("grid-connector: "), words


def test_a_mean_beside_the_tokens_is_refused():
    words = refusal(canonical(Tower(pooled="mean")))
    assert (
        words == "no-read-out: an output is a statistic over all tokens that leave, such as a mean or an attention pool"
    )


def test_a_classifier_has_no_read_out():
    words = refusal(other(Spelling(), 1))
    assert words == "no-read-out: no output has one row a patch token, as a language model is given them"


def test_layers_joined_behind_their_class_tokens_are_refused():
    words = refusal(canonical(Tower(layers=2, blocks=4)))
    assert words.startswith("no-read-out: several layers are joined behind their class tokens, and no value holds all")


def test_taps_of_several_blocks_are_refused():
    words = refusal(other(Spelling(head="states"), 1))
    assert words.startswith("no-read-out: tokens leave from several blocks; only those that leave behind the last one")


@pytest.mark.parametrize(
    ("made", "words", "hint"),
    [
        (
            planned("tome", 6),
            "tome lets 12 to 24 patch tokens leave, not 6",
            "ask for another number of output tokens",
        ),
        (
            planned("divprune", 25),
            "divprune lets 1 to 24 patch tokens leave, not 25",
            "ask for another number of output tokens",
        ),
        (
            planned("uniform", 4, TokenCut(block=1, keep=12, strategy=StrategySpec(name="uniform"))),
            "block 1 has a cut, and its attention is what tokens that leave behind it are chosen by",
            "cut in earlier blocks, or let all tokens that are left leave",
        ),
        (
            planned("fopru-row", 6, TokenCut(block=0, keep=12, strategy=StrategySpec(name="uniform"))),
            "fopru-row needs whole rows of patches, 12 tokens are left of the grid (4, 6)",
            "use fopru-rank, or cut nothing before",
        ),
    ],
    ids=["tome", "too-many", "own-block", "rows-after-cut"],
)
def test_counts_that_cannot_leave(made, words, hint):
    with pytest.raises(PlanError) as caught:
        made.apply(canonical(Tower()))
    assert (caught.value.message, caught.value.hint) == (words, hint)


def test_a_class_row_needs_a_class_token():
    with pytest.raises(
        PlanError, match="fopru-rank refuses the read-out behind block 2: no-class-token: the model has no"
    ):
        planned("fopru-rank", 6, score="class-row").apply(canonical(Tower(kind="siglip")))


def test_an_unknown_score_names_those_there_are():
    with pytest.raises(PlanError) as caught:
        planned("holov", 6, score="rows").apply(canonical(Tower()))
    assert caught.value.message == "no score is named `rows`: `score`"
    assert caught.value.hint == "the scores are auto, class-row, column-mean, global-queries"


@pytest.mark.parametrize("value", [0, -3, 0.0, 1.5])
def test_numbers_of_output_tokens_that_cannot_be_meant(value):
    with pytest.raises(PlanError) as caught:
        Options(output_tokens=value)
    words = "expected a count of 1 or more, or a share above 0 and at most 1"
    assert caught.value.message == f"`output_tokens` is {value:g}, {words}"
    assert caught.value.hint == "for example --output-tokens 144, or --output-tokens 0.25"
