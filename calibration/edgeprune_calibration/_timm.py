"""Models of timm by name, with a checkpoint of the user's: 'timm:NAME?img_size=224&checkpoint=FILE'."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeprune.core.errors import ModelError
from edgeprune_calibration._imports import describe
from edgeprune_calibration._torch_modules import TorchModel
from edgeprune_calibration._torchvision import import_torchvision

PREFIX = "timm:"
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_RANDOM = "random weights: no checkpoint was given (timm:NAME?checkpoint=FILE)"


def from_timm(source: str) -> TorchModel:
    """Make a timm model; `fused=false` writes attention out, other options go to timm.

    Raises:
        ModelError: if timm is missing, does not know the model or an option, or the checkpoint does not fit.
    """
    import torch

    name, _, query = source.removeprefix(PREFIX).partition("?")
    # No URL decoding: a checkpoint is a path, where '+' and '%' stand for themselves.
    options = {key: _value(text) for key, _, text in (part.partition("=") for part in query.split("&") if part)}
    checkpoint, fused = options.pop("checkpoint", None), bool(options.pop("fused", True))
    timm = _import_timm()
    try:
        with _attention(fused=fused):
            torch.manual_seed(0)
            module = timm.create_model(name, pretrained=bool(options.pop("pretrained", False)), **options).eval()
    except Exception as exc:  # timm raises by the kind of model
        msg = f"timm cannot make `{name}`: {describe(exc)}"
        raise ModelError(
            msg, hint=f"timm.list_models('*{name[:12]}*') lists names; options follow as ?img_size=224"
        ) from exc
    if checkpoint is not None:
        _load_checkpoint(module, Path(str(checkpoint)), name)
    size = getattr(getattr(module, "patch_embed", None), "img_size", None) or module.default_cfg["input_size"][1:]
    example = torch.randn(1, module.default_cfg["input_size"][0], *size, generator=torch.Generator().manual_seed(0))
    return TorchModel(source, module, ("image",), (example,), notes=() if checkpoint else (_RANDOM,))


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def _import_timm() -> Any:
    try:
        import_torchvision()
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as exc:
        missing = getattr(exc, "name", None)
        msg = f"timm cannot be imported: {f'no module named `{missing}`' if missing else describe(exc)}"
        raise ModelError(msg, hint="pip install timm, with a torchvision that fits your PyTorch") from exc


@contextmanager
def _attention(*, fused: bool) -> Iterator[None]:
    layers = importlib.import_module("timm.layers")
    before = layers.use_fused_attn()
    layers.set_fused_attn(fused)
    try:
        yield
    finally:
        layers.set_fused_attn(bool(before))


def _load_checkpoint(module: Any, path: Path, name: str) -> None:
    weights = _unwrapped(_read(path))
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in weights]
    unknown = [key for key in weights if key not in wanted]
    for problem, keys in (("lacks", missing), ("has unknown", unknown)):
        if keys:
            msg = f"{path} does not fit timm's `{name}`: it {problem} {len(keys)} weights, first `{keys[0]}`"
            raise ModelError(msg, hint="the checkpoint must use timm's names, for this model")
    for key, want in wanted.items():
        if want.shape != weights[key].shape:
            msg = f"{path}: `{key}` has shape {list(weights[key].shape)}, expected {list(want.shape)}"
            raise ModelError(msg, hint="name the model that it was saved from, with its options, such as ?img_size=384")
    module.load_state_dict(weights)


def _read(path: Path) -> Any:
    import torch

    try:
        if path.suffix == ".safetensors":
            return importlib.import_module("safetensors.torch").load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch and safetensors raise their own
        pickled = "weights_only" in str(exc)
        reason = "it is no checkpoint, or holds more than tensors" if pickled else describe(exc)
        msg = f"cannot read checkpoint {path}: {reason}"
        raise ModelError(msg, hint="give a .safetensors file, or a .pth that holds tensors only") from exc


def _unwrapped(loaded: Any) -> dict[str, Any]:
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    return {str(key).removeprefix("module."): tensor for key, tensor in loaded.items() if hasattr(tensor, "shape")}
