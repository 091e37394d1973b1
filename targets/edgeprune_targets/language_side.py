"""What the language side must change when fewer image tokens leave an encoder: a guide with this compile's numbers."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

from edgeprune.core.graph import PREFIX, static_shape
from edgeprune.core.readout import KEPT_INDICES

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune.core.plan import Plan

# Of the worked example: a prompt of words, one picture, words.
_BEFORE, _AFTER = 5, 12


def language_side(model: ir.Model, plan: Plan) -> str | None:
    """The guide for one compiled model, Markdown; None where its interface did not change.

    Args:
        model: the compiled graph, with the outputs that the engine has.
        plan: that was applied to it.
    """
    if plan.output is None:
        return None
    outputs = {str(value.name): static_shape(value) or () for value in model.graph.outputs}
    features = [name for name, shape in outputs.items() if name != KEPT_INDICES and _holds(shape, plan)]
    values = (str(value.name) for node in model.graph for value in node.outputs)
    merges = any(name.startswith(PREFIX) and name.endswith("/weights") for name in values)
    grid = _grid(model, plan.patch_tokens)
    parts = [_interface(plan, outputs, features, merges=merges), _changes(plan, grid), _example(plan), _code(plan)]
    return "# What the language side must change\n\n" + "\n".join(parts)


def _holds(shape: tuple[int, ...], plan: Plan) -> bool:
    assert plan.output is not None
    return len(shape) == 3 and shape[1] in {plan.output.keep, plan.output.keep + plan.prefix_tokens}


def _interface(plan: Plan, outputs: dict[str, tuple[int, ...]], features: list[str], *, merges: bool) -> str:
    cut = plan.output
    assert cut is not None
    rows = [
        f"| `{name}` | {_shape((shape[0], shape[1] + plan.patch_tokens - cut.keep, shape[2]))} | {_shape(shape)} |"
        for name, shape in outputs.items()
        if name in features
    ]
    rows.append(f"| `{KEPT_INDICES}` | | {_shape(outputs.get(KEPT_INDICES, ()))} int64 |")
    merged = (
        "\nSome tokens stand for a group that was merged into them; they have the place of the group's target."
        if merges
        else ""
    )
    return f"""\
Of {plan.patch_tokens} image tokens {cut.keep} leave this encoder, chosen by `{cut.strategy.name}` for each picture
anew. They keep their order. `{KEPT_INDICES}` says which patches they are, counted row by row from 0, ascending.{merged}

| output | before | now |
|---|---|---|
{chr(10).join(rows)}

Engines by TensorRT before 10 give `{KEPT_INDICES}` as int32.
"""


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _changes(plan: Plan, grid: tuple[int, int] | None) -> str:
    assert plan.output is not None
    N, K = plan.patch_tokens, plan.output.keep
    columns = grid[1] if grid is not None else round(N**0.5)
    place = f"`row = {KEPT_INDICES} // {columns}`, `column = {KEPT_INDICES} % {columns}`"
    return f"""\
## Four places

1. **Image-token count.** The prompt's image placeholder expands to {K} ids, not {N}: in Hugging Face processors the
   number that the chat template repeats `<image>` by (`image_seq_length`, `num_image_tokens`), in other runtimes
   the constant beside the tokenizer. A model that checks placeholders against features fails at once if this is
   forgotten; one that does not check gives nonsense.
2. **Embeddings.** The {K} rows of the output take the places of the {K} placeholders, in order. Nothing else moves.
3. **Attention mask.** It is as long as the new sequence, {N - K} shorter, with ones for image tokens. A causal mask
   is built from the new length; static key-value caches and engines of the language model may be made {N - K}
   shorter, or admit more text.
4. **Positions.** Either *consecutive*, as if {K} were all there ever were: nothing to do, and what the published
   selections before a language model do. Or *as trained*: image token k has position start + {KEPT_INDICES}[k], and
   the text behind goes on at start + {N}: pass position ids by hand. Try both on your questions; distances inside
   the picture are kept only by the second. Two-dimensional positions (M-RoPE) need the second: {place}.

Where a model puts a newline token after each row of the grid, put it behind the last kept token of each row, or
leave all of them out. With several tiles of one picture each tile is one sample of the batch, has {K} tokens of its
own, and tiles follow one another as before.
"""


def _example(plan: Plan) -> str:
    assert plan.output is not None
    N, K = plan.patch_tokens, plan.output.keep
    before, now = _BEFORE + N + _AFTER, _BEFORE + K + _AFTER
    trained = f"0 to {_BEFORE - 1}, {_BEFORE} + `{KEPT_INDICES}`, {_BEFORE + N} to {before - 1}"
    return f"""\
## Worked example

A prompt of {_BEFORE} ids, one picture, {_AFTER} ids:

| | before | now |
|---|---|---|
| length | {_BEFORE} + {N} + {_AFTER} = {before} | {_BEFORE} + {K} + {_AFTER} = {now} |
| places of image tokens | {_BEFORE} to {_BEFORE + N - 1} | {_BEFORE} to {_BEFORE + K - 1} |
| attention mask | {before} ones | {now} ones |
| positions, consecutive | 0 to {before - 1} | 0 to {now - 1} |
| positions, as trained | 0 to {before - 1} | {trained} |
| key-value cache of the prompt | {before} tokens | {now} tokens, {now / before:.0%} |
"""


def _code(plan: Plan) -> str:
    lines = f"""\
        import numpy as np

        PATCHES, KEPT = {plan.patch_tokens}, {plan.output.keep if plan.output else 0}


        def prompt(ids, image_token, kept, *, as_trained=False):
            \"\"\"Ids with one image token in; ids, attention mask and position ids for KEPT image tokens out.\"\"\"
            start = list(ids).index(image_token)
            text = len(ids) - start - 1
            ids = [*ids[:start], *[image_token] * KEPT, *ids[start + 1 :]]
            positions = np.arange(len(ids))
            if as_trained:
                after = np.arange(start + PATCHES, start + PATCHES + text)
                positions = np.concatenate([np.arange(start), start + np.asarray(kept), after])
            return ids, np.ones(len(ids), np.int64), positions


        def embed(ids, image_token, table, features):
            \"\"\"Rows of the embedding table, with the encoder's rows [KEPT, D] in the places of image tokens.\"\"\"
            rows = table[np.asarray(ids)].copy()
            rows[np.asarray(ids) == image_token] = features
            return rows
"""
    return f"```python\n{dedent(lines)}```\n"


def _grid(model: ir.Model, patches: int) -> tuple[int, int] | None:
    """Rows and columns of the patch embedding, where that is a convolution."""
    for node in model.graph:
        shape = (static_shape(node.outputs[0]) or ()) if node.op_type == "Conv" else ()
        if len(shape) == 4 and shape[2] * shape[3] == patches:
            return shape[2], shape[3]
    return None
