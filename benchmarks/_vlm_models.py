"""Vision towers with projectors as language models are given them, at the architecture of transformers, random weights.

Attention of freshly initialised weights is nearly flat, so that scores would tie: queries and keys are made larger.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

INPUT, OUTPUT = "pixel_values", "image_features"
SHARPER = 8.0  # attention whose largest weights are some times the mean, as in trained towers


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One tower.

    Attributes:
        name: of the row.
        kind: `clip` (LLaVA: last but one hidden state, class token dropped) or `siglip` (last one, behind its norm).
        side: of the picture.
        patch: of a patch.
        width: D.
        mlp: width of the MLP.
        heads: H.
        depth: blocks of the full model.
        language: width of what leaves.
        projector: `mlp` (Linear, GELU, Linear) or `linear`.
    """

    name: str
    kind: str
    side: int
    patch: int
    width: int
    mlp: int
    heads: int
    depth: int
    language: int
    projector: str

    @property
    def prefix(self) -> int:
        """Class tokens."""
        return int(self.kind == "clip")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.side // self.patch, self.side // self.patch

    @property
    def patches(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]


TOWERS = (
    Tower(
        name="llava-1.5 (CLIP ViT-L/14-336)", kind="clip", side=336, patch=14, width=1024, mlp=4096, heads=16, depth=24,
        language=4096, projector="mlp",
    ),
    Tower(
        name="siglip so400m/14-384", kind="siglip", side=384, patch=14, width=1152, mlp=4304, heads=16, depth=27,
        language=2048, projector="linear",
    ),
)  # fmt: skip


def build(tower: Tower, depth: int) -> Any:
    """The module, with as many blocks as asked for."""
    import torch

    from edgeprune_calibration._torchvision import import_torchvision

    import_torchvision()
    import transformers

    torch.manual_seed(5)
    kind = "CLIP" if tower.kind == "clip" else "Siglip"
    config = getattr(transformers, f"{kind}VisionConfig")(
        hidden_size=tower.width, intermediate_size=tower.mlp, num_attention_heads=tower.heads, num_hidden_layers=depth,
        image_size=tower.side, patch_size=tower.patch,
    )  # fmt: skip
    config.vision_use_head = False
    config._attn_implementation = "sdpa"  # noqa: SLF001 - the library has no public way without from_pretrained
    vision = getattr(transformers, f"{kind}VisionModel")(config)
    return _with_projector(tower, vision).eval()


def _with_projector(tower: Tower, vision: Any) -> Any:
    import torch
    from torch import nn

    class Encoder(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        """What is exported."""

        def __init__(self) -> None:
            super().__init__()
            self.vision = vision
            first = nn.Linear(tower.width, tower.language)
            more = [nn.GELU(), nn.Linear(tower.language, tower.language)] if tower.projector == "mlp" else []
            self.projector = nn.Sequential(first, *more)

        def forward(self, pixels: Any) -> Any:
            if tower.kind == "clip":
                return self.projector(self.vision(pixels, output_hidden_states=True).hidden_states[-2][:, 1:])
            return self.projector(self.vision(pixels).last_hidden_state)

    made = Encoder()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
            elif name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(SHARPER**0.5)
    return made


def pixels(tower: Tower, batch: int, seed: int) -> np.ndarray:
    """Numbers in the place of pictures: smooth over neighbouring patches, so that tokens are not all alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((batch, 3, 12, 12))
    wide = np.kron(coarse, np.ones((1, 1, -(-tower.side // 12), -(-tower.side // 12))))[..., : tower.side, : tower.side]
    return (wide + 0.5 * rng.standard_normal(wide.shape)).astype(np.float32)


def export(tower: Tower, module: Any, path: Path, exporter: str, batch: int) -> Path:
    """Write the module as ONNX."""
    import torch

    example = torch.from_numpy(pixels(tower, batch, 0))
    settings: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT], "dynamo": exporter == "dynamo"}
    settings |= {"external_data": False, "verbose": False} if exporter == "dynamo" else {"opset_version": 17}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (example,), str(path), **settings)
    return path


def seen(tower: Tower, module: Any, feed: np.ndarray) -> Any:
    """What PyTorch sees where tokens are read out: queries, keys, and what the projector reads, prefix first."""
    import torch
    from reference.leaving import Seen

    caught: dict[str, Any] = {}
    encoder = module.vision.encoder if hasattr(module.vision, "encoder") else module.vision.vision_model.encoder
    block = encoder.layers[-2 if tower.kind == "clip" else -1]
    last = block if tower.kind == "clip" else _post_norm(module.vision)
    hooks = [
        part.register_forward_hook(lambda _m, _i, out, key=key: caught.__setitem__(key, out))
        for key, part in {"q": block.self_attn.q_proj, "k": block.self_attn.k_proj, "x": last}.items()
    ]
    with torch.no_grad():
        module(torch.from_numpy(feed))
    for hook in hooks:
        hook.remove()
    size = tower.width // tower.heads
    q, k = (caught[key].unflatten(-1, (tower.heads, size)).transpose(1, 2) for key in "qk")
    x = caught["x"][0] if isinstance(caught["x"], tuple) else caught["x"]
    return Seen(q, k, x, tower.prefix, tower.grid, size**-0.5)


def _post_norm(vision: Any) -> Any:
    return vision.post_layernorm if hasattr(vision, "post_layernorm") else vision.vision_model.post_layernorm
