"""The deploy folder: all that a device needs to build the engine for itself and to time it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.core.digest import sha256_of
from edgeprune.core.errors import TargetError

if TYPE_CHECKING:
    from edgeprune.core.plan import Precision
    from edgeprune_targets.profiles import Target

SCRIPT = "build_and_time.sh"
SUMS = "SHA256SUMS"
_TEMPLATE = Path(__file__).parent / "deploy" / SCRIPT


def write_bundle(
    folder: Path, model: Path, plan: bytes, target: Target, *, precision: Precision = "fp16", dense: Path | None = None
) -> tuple[Path, ...]:
    """Write `folder` with model.onnx, plan.json, README.md, build_and_time.sh and SHA256SUMS, whole or not at all.

    Args:
        folder: must not exist.
        model: the pruned graph, weights inside the file.
        plan: bytes of plan.json.
        target: the device that will build.
        precision: of the graph's matrix products.
        dense: the graph before pruning, of the same precision; if given, the script times both.

    Returns:
        The files, sorted by name.

    Raises:
        TargetError: if the folder exists, or cannot be written.
    """
    if folder.exists():
        msg = f"cannot write the deploy folder {folder}: it exists"
        raise TargetError(msg, hint="give a new folder, or use `--force`")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".deploy-") as scratch:
            inner = Path(scratch) / "deploy"
            inner.mkdir()
            _fill(inner, model, plan, target, precision, dense)
            inner.replace(folder)
    except OSError as error:
        msg = f"cannot write the deploy folder {folder}: {error.strerror or error}"
        raise TargetError(msg, hint="free some space or choose another folder with `-o`") from error
    return tuple(sorted(folder.iterdir()))


def _fill(folder: Path, model: Path, plan: bytes, target: Target, precision: Precision, dense: Path | None) -> None:
    shutil.copyfile(model, folder / "model.onnx")
    if dense is not None:
        shutil.copyfile(dense, folder / "dense.onnx")
    (folder / "plan.json").write_bytes(plan)
    script = _TEMPLATE.read_text(encoding="utf-8").replace("@TARGET@", target.name).replace("@PRECISION@", precision)
    (folder / SCRIPT).write_text(script, encoding="utf-8", newline="\n")
    (folder / SCRIPT).chmod(0o755)
    (folder / "README.md").write_text(
        _readme(target, precision, both=dense is not None), encoding="utf-8", newline="\n"
    )
    sums = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8", newline="\n")


def _readme(target: Target, precision: Precision, *, both: bool) -> str:
    runtime = f"TensorRT ({', '.join(target.tensorrt)})"
    jetpack = f" of JetPack {', '.join(target.jetpack)}" if target.jetpack else ""
    what = "`model.onnx` and, to compare, `dense.onnx`" if both else "`model.onnx`"
    clocks = (
        "    sudo nvpmodel -q        # the power mode, see above\n    sudo jetson_clocks\n" if target.jetpack else ""
    )
    return f"""# Build and time on {target.name}

{target.description}. An engine belongs to the device and the TensorRT version that built it, so it is built there.

Copy this folder to the device, and there:

{clocks}    ./{SCRIPT}

It needs bash and {runtime}{jetpack}, with `trtexec`. It checks `{SUMS}`, builds {what} ({precision}), times GPU compute
and writes `measured.json` with the median. `--build-only` leaves the timing out. `model.engine` is what your
application loads. `plan.json` says what was pruned: `edgeprune compile MODEL --plan plan.json` makes the same again.
"""
