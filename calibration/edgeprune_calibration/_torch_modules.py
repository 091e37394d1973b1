"""PyTorch modules from a source, with example inputs and names, ready to run or to export."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.core.errors import DataError, ModelError
from edgeprune_calibration._imports import describe, import_object
from edgeprune_calibration._pt2 import load_exported
from edgeprune_calibration._torchvision import import_torchvision

_INTEGER_INPUTS = ("_ids", "_mask", "tokens", "positions")


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A module in evaluation mode and what to call it with.

    Attributes:
        source: that it came from.
        module: the `torch.nn.Module`.
        names: of its inputs: parameters of `forward`.
        examples: one tensor an input; None where nothing says their shape.
        by_keyword: whether the inputs are passed by name, since others stand before them.
        notes: what the user should know.
    """

    source: str
    module: Any
    names: tuple[str, ...]
    examples: tuple[Any, ...] | None
    by_keyword: bool = False
    notes: tuple[str, ...] = ()

    def call(self, tensors: Sequence[Any]) -> Any:
        """Run the module once, without gradients."""
        import torch

        with torch.no_grad():
            if self.by_keyword:
                return self.module(**dict(zip(self.names, tensors, strict=True)))
            return self.module(*tensors)

    def call_by_name(self, tensors: Mapping[str, Any]) -> Any:
        """Run the module on named inputs: by its parameters' names, by position where they differ."""
        keyword = set(tensors) <= set(parameters_of(self.module))
        return replace(self, names=tuple(tensors), by_keyword=keyword).call(tuple(tensors.values()))

    def needed_examples(self) -> tuple[Any, ...]:
        """Example inputs.

        Raises:
            ModelError: if nothing says their shape.
        """
        if self.examples is None:
            msg = f"nothing says what `{self.source}` takes as input"
            name = self.names[0] if self.names else "image"
            raise ModelError(msg, hint=f"say it: --input {name}:1x3x224x224")
        return self.examples


def from_factory(source: str) -> TorchModel:
    """Call 'pkg.module:factory': it returns a module, or a module and its example inputs.

    Raises:
        ModelError: if it fails, or returns something else.
    """
    import torch

    with suppress(ImportError, RuntimeError):  # a factory that needs torchvision will say so itself
        import_torchvision()
    made = import_object(source, ModelError)
    if callable(made) and not isinstance(made, torch.nn.Module):
        try:
            made = made()
        except Exception as exc:  # the user's own code
            msg = f"`{source}` failed: {describe(exc)}"
            raise ModelError(msg, hint="it is called without arguments and returns a torch.nn.Module") from exc
    module, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        msg = f"`{source}` returns a {type(module).__name__}, expected a torch.nn.Module"
        raise ModelError(msg, hint="return the module, or (module, example_inputs)")
    examples = getattr(module, "example_inputs", None) if examples is None else examples
    return _with_examples(source, module.eval(), examples)


def from_exported(path: Path) -> TorchModel:
    """Load a `.pt2` exported program.

    Raises:
        ModelError: if it cannot be read safely.
    """
    program = load_exported(path)
    module = program.module()
    # Exporters switch modules to evaluation; an exported program is in one mode for good and refuses to.
    module.eval = lambda: module
    module.train = lambda mode=True: module  # noqa: ARG005
    args, kwargs = program.example_inputs or (None, None)
    if kwargs:
        return _with_examples(str(path), module, dict(kwargs))
    return _with_examples(str(path), module, args)


def _with_examples(source: str, module: Any, examples: Any) -> TorchModel:
    import torch

    parameters = parameters_of(module)
    if examples is None:
        return TorchModel(source, module, parameters[:1], None)
    if isinstance(examples, Mapping):
        by_name = {str(name): tensor for name, tensor in examples.items()}
        leading = tuple(by_name) == parameters[: len(by_name)]
        return TorchModel(source, module, tuple(by_name), tuple(by_name.values()), by_keyword=not leading)
    tensors = (examples,) if isinstance(examples, torch.Tensor) else tuple(examples)
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        kinds = ", ".join(type(tensor).__name__ for tensor in tensors)
        msg = f"the example inputs of `{source}` are {kinds}, expected tensors"
        raise ModelError(msg, hint="give a tensor, a tuple of tensors, or a dict of tensors by parameter name")
    names = parameters[: len(tensors)]
    names += tuple(f"input_{index}" for index in range(len(names), len(tensors)))
    return TorchModel(source, module, names, tensors)


def parameters_of(module: Any) -> tuple[str, ...]:
    """Names of the parameters of `forward`, in order."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return tuple(each.name for each in parameters if each.kind in positional and each.name != "self")


def with_shapes(model: TorchModel, shapes: Mapping[str, Sequence[int]]) -> TorchModel:
    """Replace the example inputs by random ones of the given shapes; a model of one input ignores the name.

    Inputs named like ids, masks and tokens are int64, all others float32.

    Raises:
        DataError: if the module has no such input.
    """
    import torch

    if not shapes:
        return model
    known = parameters_of(model.module) + model.names
    one = len(shapes) == 1 and len(model.names) == 1
    for name in shapes:
        if name not in known and not one:
            msg = f"`{model.source}` has no input `{name}`, it has {', '.join(dict.fromkeys(known))}"
            raise DataError(msg, hint="name the inputs as forward() does")
    before = dict(zip(model.names, model.examples or (), strict=False))
    generator = torch.Generator().manual_seed(0)
    made = {(model.names[0] if one else name): _random(name, tuple(shape), generator) for name, shape in shapes.items()}
    examples = {**before, **made}
    leading = tuple(examples) == model.names or tuple(examples) == parameters_of(model.module)[: len(examples)]
    return replace(model, names=tuple(examples), examples=tuple(examples.values()), by_keyword=not leading)


def _random(name: str, shape: tuple[int, ...], generator: Any) -> Any:
    import torch

    if name.endswith("_mask"):
        return torch.ones(shape, dtype=torch.int64)
    if name.endswith(_INTEGER_INPUTS):
        # Every vocabulary has two words, every segment table two segments.
        return torch.randint(0, 2, shape, generator=generator)
    return torch.randn(shape, generator=generator)


def with_batch(model: TorchModel, batch: int) -> TorchModel:
    """Repeat or cut the example inputs to `batch` along axis 0."""
    import torch

    def fit(tensor: Any) -> Any:
        if tensor.ndim == 0 or len(tensor) == batch:
            return tensor
        return torch.cat([tensor] * (batch // len(tensor) + 1))[:batch]

    return replace(model, examples=tuple(fit(tensor) for tensor in model.needed_examples()))


def plain_outputs(returned: Any) -> dict[str, Any]:
    """Every tensor that a module returned, by name: keys of a mapping, else 'output', or 'output_0', ..."""
    import torch

    if isinstance(returned, torch.Tensor):
        return {"output": returned}
    if isinstance(returned, Mapping):
        return {str(name): value for key, item in returned.items() for name, value in _flat(str(key), item)}
    return {name: value for index, item in enumerate(returned) for name, value in _flat(f"output_{index}", item)}


def _flat(name: str, item: Any) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(item, torch.Tensor):
        yield name, item
    elif isinstance(item, Mapping):
        for key, value in item.items():
            yield from _flat(f"{name}_{key}", value)
    elif isinstance(item, Iterable) and not isinstance(item, str):
        for index, value in enumerate(item):
            yield from _flat(f"{name}_{index}", value)


@contextmanager
def torch_needed() -> Iterator[None]:
    """Turn a missing PyTorch into an error with a hint.

    Raises:
        ModelError: if PyTorch is not installed.
    """
    try:
        import torch  # noqa: F401
    except ImportError as exc:
        msg = "PyTorch is not installed, and a PyTorch source needs it"
        raise ModelError(msg, hint="pip install 'edgeprune[torch]'") from exc
    yield
