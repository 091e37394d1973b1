"""Reading a `.pt2` exported program without running what is in it.

`torch.export.load` falls back to unpickling, looks functions up by the names that the file gives, and evaluates its
shape expressions. So the archive is checked first: known members only, known operators, arithmetic, no pickled
objects; and the tensors inside are read with PyTorch's weights-only loader.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from edgeprune.core.errors import ModelError
from edgeprune_calibration._imports import describe

_RESAVE = "save it again with torch.export.save, from a model without custom objects"
_MEMBERS = re.compile(
    r"archive_format|archive_version|version|byteorder|\.data/.*|data/weights/.*|data/constants/.*|data/sample_inputs/.*"
    r"|models/[^/]*\.json|serialized_(exported_program\.json|state_dict\.(pt|json)|constants\.(pt|json)|example_inputs\.pt)"
)
_OPERATOR = re.compile(
    r"#?(torch\.ops\.(aten|prim|prims|higher_order|torchvision|quantized_decomposed)\.\w+(\.\w+)?"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.sym_(int|float|not|max|min|sqrt|ite|sum))"
)
_ARITHMETIC = re.compile(r"(\b(zf|zuf|[suf])\d+\b|\b[A-Z]\w*\b|\b\d+(\.\d*)?\b|[-+*/(),<>=&|~!%\s])*")
_ALLOWED = {"target": _OPERATOR, "expr_str": _ARITHMETIC, "path_name": re.compile(r"(weight|tensor)_\d+")}
_PICKLED = frozenset({"use_pickle", "as_custom_obj", "custom_obj"})


def load_exported(path: Path) -> Any:
    """Load a checked `torch.export.ExportedProgram`.

    Raises:
        ModelError: if the file is no exported program, or holds what would run code.
    """
    import torch

    _check_archive(path)
    try:
        with _weights_only():
            return torch.export.load(path)
    except Exception as exc:  # torch raises whatever its readers raise
        msg = f"cannot load {path}: {describe(exc)}"
        raise ModelError(msg, hint=_RESAVE) from exc


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: _inner(name) for name in archive.namelist()}
            for name, inner in members.items():
                if _MEMBERS.fullmatch(inner) is None:
                    _refuse(path, f"a member `{name}`")
            for name, inner in members.items():
                if inner.endswith(".json") and not inner.startswith(".data/"):
                    _check_json(path, json.loads(archive.read(name)))
    except (OSError, zipfile.BadZipFile, ValueError, RecursionError) as exc:
        msg = f"{path} is not an exported program: {describe(exc)}"
        raise ModelError(msg, hint="write it with torch.export.save") from exc


def _inner(name: str) -> str:
    """Member name without the archive's own top folder, which newer versions of PyTorch write."""
    top, _, rest = name.partition("/")
    return rest if rest and top not in ("data", "models", ".data") else name


def _check_json(path: Path, tree: object) -> None:
    for key, value in _pairs(tree):
        problem = _problem(key, value)
        if problem:
            _refuse(path, problem)


def _problem(key: str, value: object) -> str | None:
    """What could run code in one field, None for nothing."""
    if key in _PICKLED:
        return "a pickled object" if value else None
    if not isinstance(value, str):
        return None
    if key in _ALLOWED and _ALLOWED[key].fullmatch(value) is None:
        return f"`{key}` with the value `{value[:60]}`"
    return "a container that names a module to import" if "default_factory_module" in value else None


def _pairs(tree: object) -> Iterator[tuple[str, object]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield str(key), value
            yield from _pairs(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _pairs(value)


def _refuse(path: Path, found: str) -> NoReturn:
    msg = f"{path} holds {found}, which is not read: model files are data, and this could run code"
    raise ModelError(msg, hint=_RESAVE)


@contextmanager
def _weights_only() -> Iterator[None]:
    """PyTorch reads this variable at each load; it overrides the fallback to unpickling."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
