"""The models of the published timings as graphs without weights: shapes are all that a latency model reads."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True)
class Source:
    """How to make one model.

    Attributes:
        build: the module, for an input size; called under torch's 'meta' device.
        words: whether it takes ids and a mask instead of pixels.
        open_batch: whether it is exported for any batch, not for one image only.
    """

    build: Callable[[tuple[int, ...]], Any]
    words: bool = False
    open_batch: bool = True


def _timm(name: str, **options: Any) -> Source:
    def build(size: tuple[int, ...]) -> Any:
        timm = importlib.import_module("timm")
        importlib.import_module("timm.layers").set_fused_attn(False)
        sized = {"img_size": size} if name.startswith(("vit", "deit", "swin", "eva")) else {}
        return timm.create_model(name, pretrained=False, **sized, **options)

    return Source(build=build)


def _bert(layers: int, width: int, heads: int) -> Source:
    def build(size: tuple[int, ...]) -> Any:
        library = importlib.import_module("transformers")
        config = library.BertConfig(
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=max(512, *size),
        )
        return library.BertModel._from_config(config, attn_implementation="eager")  # noqa: SLF001 (no public way)

    return Source(build=build, words=True)


_VIT = {
    "ViT-B/16": "vit_base_patch16_224", "ViT-L/16": "vit_large_patch16_224",
    "vit-base-patch16-224": "vit_base_patch16_224", "vit-base-patch32-224": "vit_base_patch32_224",
    "clip-vit-base-patch16": "vit_base_patch16_clip_224", "clip-vit-base-patch32": "vit_base_patch32_clip_224",
    "CLIP ViT-L/14": "vit_large_patch14_clip_224", "DINOv2-base-patch14": "vit_base_patch14_dinov2",
}  # fmt: skip
_SWIN = {f"Swin-{word[0].upper()}": f"swin_{word}_patch4_window7_224" for word in ("tiny", "small", "base", "large")}
# RT-DETRv2 differs in how it samples, not in its shapes.
_DETR = {
    "RT-DETR-R50": "rt-detr-r50", "RT-DETRv2-L": "rt-detr-r50", "RT-DETR-R34": "rt-detr-r34",
    "RT-DETRv2-M": "rt-detr-r34",
}  # fmt: skip
_EFFICIENT = {f"EfficientViT-B{at}": f"efficientvit_b{at}" for at in (1, 2, 3)}


def _detector(kind: str, config: str, backbone: str = "", **options: Any) -> Source:
    """A detector of transformers; `backbone` is a config that takes the options that begin with 'backbone_'."""

    def build(_: tuple[int, ...]) -> Any:
        library = importlib.import_module("transformers")
        inner = {name.removeprefix("backbone_"): value for name, value in options.items() if "backbone_" in name}
        outer = {name: value for name, value in options.items() if "backbone_" not in name}
        if backbone:
            outer["backbone_config"] = getattr(library, backbone)(**inner)
        settings = getattr(library, config)(**outer)
        return getattr(library, kind)._from_config(settings, attn_implementation="eager")  # noqa: SLF001

    return Source(build=build, open_batch=False)


_RT_DETR = {"kind": "RTDetrForObjectDetection", "config": "RTDetrConfig", "backbone": "RTDetrResNetConfig"}
_SMALL_RESNET = {
    "backbone_hidden_sizes": [64, 128, 256, 512],
    "backbone_depths": [3, 4, 6, 3],
    "backbone_layer_type": "basic",
    "encoder_in_channels": [128, 256, 512],
    "hidden_expansion": 0.5,
    "decoder_layers": 4,
}


def _segmenter(backbone: str, classes: int, head: tuple[int, int, int, int]) -> Source:
    """EfficientViT's segmentation model: the head takes strides 8, 16 and 32 to stride 8.

    Args:
        backbone: as timm names it.
        classes: of the output.
        head: width, depth, expansion within, and expansion before the classes.
    """
    width, depth, inner, final = head

    def build(_: tuple[int, ...]) -> Any:
        nn, functional = (importlib.import_module(name) for name in ("torch.nn", "torch.nn.functional"))
        body = importlib.import_module("timm").create_model(backbone, pretrained=False, features_only=True)
        channels = body.feature_info.channels()[-3:]

        def block() -> Any:
            if inner == 1:
                return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Hardswish(), nn.Conv2d(width, width, 1))
            deep = inner * width
            parts = nn.Conv2d(width, deep, 1), nn.Conv2d(deep, deep, 3, padding=1, groups=deep)
            return nn.Sequential(parts[0], nn.Hardswish(), parts[1], nn.Hardswish(), nn.Conv2d(deep, width, 1))

        class Segmenter(nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.body = body
                self.ins = nn.ModuleList(nn.Conv2d(n, width, 1) for n in channels)
                self.middle = nn.ModuleList(block() for _ in range(depth))
                self.out = nn.Sequential(
                    nn.Conv2d(width, final * width, 1), nn.Hardswish(), nn.Conv2d(final * width, classes, 1)
                )

            def forward(self, x: Any) -> Any:
                taken = [part(value) for part, value in zip(self.ins, self.body(x)[-3:], strict=True)]
                fine = taken[0]
                for value in taken[1:]:
                    fine = fine + functional.interpolate(value, size=fine.shape[-2:], mode="bilinear")
                for part in self.middle:
                    fine = fine + part(fine)
                return self.out(fine)

        return Segmenter()

    return Source(build=build, open_batch=False)


_HEADS = {
    "b0": (32, 1, 4, 4), "b1": (64, 3, 4, 4), "b2": (96, 3, 4, 4), "b3": (128, 3, 4, 4),
    "l1": (256, 3, 1, 8), "l2": (256, 5, 1, 8),
}  # fmt: skip
_SEGMENTERS = {
    f"efficientvit-seg-{word}-{data}": _segmenter(f"efficientvit_{word}", classes, head)
    for word, head in _HEADS.items()
    for data, classes in (("ade20k", 150), ("cityscapes", 19))
}
SOURCES: dict[str, Source] = {
    **_SEGMENTERS,
    "rt-detr-r50": _detector(**_RT_DETR, backbone_out_features=["stage2", "stage3", "stage4"]),
    "rt-detr-r34": _detector(**_RT_DETR, backbone_out_features=["stage2", "stage3", "stage4"], **_SMALL_RESNET),
    "bert-base": _bert(12, 768, 12),
    "bert-large": _bert(24, 1024, 16),
}


def graph_of(model: str) -> tuple[str, str] | None:
    """Family and graph of a model that the table names; None where none can be made here."""
    if model in {"BERT-Base", "BERT-Large"}:
        return "bert", model.lower()
    for family, names in (("vit", _VIT), ("swin", _SWIN), ("efficientvit", _EFFICIENT), ("detr", _DETR)):
        if model in names:
            return family, names[model]
    if model.startswith("EfficientViT-Seg-"):
        return "efficientvit", model.lower().replace(" ", "-")
    if model.startswith(("vit_", "deit_")):
        return "vit", model
    if model.startswith("swin_"):
        return "swin", model
    return None


def make_graph(graph: str, size: tuple[int, ...]) -> ir.Model:
    """Export one model with an open batch and without weights."""
    torch = _torch()
    source = SOURCES.get(graph) or _timm(graph)
    with torch.device("meta"):
        module = source.build(size)
    inputs = _words(torch, size) if source.words else (torch.zeros(2 if source.open_batch else 1, 3, *size),)
    batch = torch.export.Dim("batch", min=1, max=1 << 14)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _plain(torch, _hollow(torch, module)),
            inputs,
            dynamo=True,
            dynamic_shapes=(tuple({0: batch} for _ in inputs),) if source.open_batch else None,
            optimize=False,
            verbose=False,
            opset_version=18,
        )
    model: ir.Model = program.model
    return model


_ALIVE: list[Any] = []  # a library that is let go takes its operators with it


def _torch() -> Any:
    """PyTorch, with a torchvision that its extension's absence does not break."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    if _ALIVE:
        return torch
    library = torch.library.Library("torchvision", "FRAGMENT")
    _ALIVE.append(library)
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return torch


def _words(torch: Any, size: tuple[int, ...]) -> tuple[Any, Any]:
    return torch.ones(2, *size, dtype=torch.long), torch.ones(2, *size, dtype=torch.long)


def _hollow(torch: Any, module: Any) -> Any:
    """Every weight becomes one zero that is read many times: the shape without the memory."""
    for part in module.modules():
        for name, value in part._parameters.items():  # noqa: SLF001 (no public way to put a tensor of stride 0)
            if value is not None:
                hollow = torch.zeros((), dtype=value.dtype).expand(value.shape)
                part._parameters[name] = torch.nn.Parameter(hollow, requires_grad=False)  # noqa: SLF001
        for name, value in part._buffers.items():  # noqa: SLF001
            if value is not None and value.is_meta:
                part._buffers[name] = torch.zeros((), dtype=value.dtype).expand(value.shape)  # noqa: SLF001
    return module.eval()


def _plain(torch: Any, module: Any) -> Any:
    """Positional tensors in, one tensor out."""

    class Plain(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Any) -> Any:
            result = self.inner(*tensors)
            if hasattr(result, "pred_boxes"):
                return result.logits, result.pred_boxes
            return getattr(result, "last_hidden_state", result)

    return Plain().eval()
