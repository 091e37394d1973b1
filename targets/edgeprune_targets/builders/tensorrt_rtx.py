"""TensorRT-RTX: builds engines for desktop and server GPUs by compute capability, on a machine without any."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgeprune.core.digest import sha256_of
from edgeprune.core.results import EngineBuild

if TYPE_CHECKING:
    from edgeprune_targets.profiles import Target

CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_FUSED_MARK = b"struct _gemm_mha_v2_callback {"  # one per fused attention; kernel names are shared by equal shapes
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class RtxBuilder:
    """Strongly typed engines, built in a child process.

    Attributes:
        timeout_s: of one engine; a build that takes longer is an error.
    """

    name: ClassVar[str] = "tensorrt-rtx"
    timeout_s: float = 900.0

    def lacking(self) -> str | None:
        """Why nothing can be built here and how to change that; None where it can."""
        if importlib.util.find_spec("tensorrt_rtx") is None:
            return 'TensorRT-RTX is not installed: pip install "edgeprune[rtx]"'
        return None

    def build(
        self, model: Path | bytes, targets: Sequence[Target], folder: Path, *, name: str, attentions: int | None = None
    ) -> list[EngineBuild]:
        """Build `folder/NAME.smXX.engine` and its manifest for each compute capability of `targets`.

        Args:
            model: ONNX with explicit types; a path may have external data beside it.
            targets: those of one compute capability share an engine.
            folder: made if absent; only whole files appear in it.
            name: stem of the files.
            attentions: how many the graph has, as `count_attentions` counts them.

        Returns:
            One result a target, in their order. Failures are results too.
        """
        done: dict[str, EngineBuild] = {}
        for target in targets:
            if target.compute_capability not in done:
                done[target.compute_capability] = self._one(model, target, folder, name, attentions)
        return [replace(done[target.compute_capability], target=target.name) for target in targets]

    def _one(self, model: Path | bytes, target: Target, folder: Path, name: str, attentions: int | None) -> EngineBuild:
        failed = EngineBuild(
            target=target.name,
            builder=self.name,
            compute_capability=target.compute_capability,
            built=False,
            attentions=attentions,
        )
        if error := _not_for(target.compute_capability) or self.lacking():
            return replace(failed, error=error)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as scratch, _as_file(model, scratch) as onnx:
            part = Path(scratch) / "plan"
            answer = _ask_worker(onnx, target.sm, part, self.timeout_s)
            if answer["error"] is not None:
                return replace(failed, error=answer["error"])
            fused = count_fused_attentions(part.read_bytes())
            path = folder / f"{name}.{target.sm}.engine"
            built = replace(
                failed,
                built=True,
                path=str(path),
                bytes=part.stat().st_size,
                fused_attentions=fused,
                seconds=answer["seconds"],
            )
            manifest = _manifest(built, answer, onnx, part)
            (Path(scratch) / "manifest").write_text(manifest, encoding="utf-8")
            (Path(scratch) / "manifest").replace(path.with_name(path.name + ".json"))
            part.replace(path)
        return built


def build(
    model: Path | bytes,
    targets: Sequence[Target],
    folder: Path,
    *,
    name: str = "model",
    attentions: int | None = None,
    timeout_s: float = 900.0,
) -> list[EngineBuild]:
    """Build with TensorRT-RTX; see `RtxBuilder.build`."""
    return RtxBuilder(timeout_s).build(model, targets, folder, name=name, attentions=attentions)


def count_fused_attentions(plan: bytes) -> int:
    """Fused attention kernels in a serialized TensorRT-RTX engine.

    The plan holds the text of each generated kernel; every fused attention has a callback struct of its own there.
    """
    return plan.count(_FUSED_MARK)


def _not_for(capability: str) -> str | None:
    if capability in CAPABILITIES:
        return None
    return (
        f"TensorRT-RTX does not build for compute capability {capability}, only for {', '.join(CAPABILITIES)}: "
        "build on the device with deploy/build_and_time.sh"
    )


@contextlib.contextmanager
def _as_file(model: Path | bytes, scratch: str) -> Iterator[Path]:
    if isinstance(model, Path):
        yield model.resolve()
        return
    path = Path(scratch) / "model.onnx"
    path.write_bytes(model)
    yield path


def _ask_worker(onnx: Path, sm: str, plan: Path, timeout_s: float) -> dict[str, Any]:
    """Run the child; whatever ends this call ends the child too."""
    request = json.dumps({"onnx": str(onnx), "sm": sm, "plan": str(plan.resolve())})
    command = [sys.executable, "-m", "edgeprune_targets.builders._worker"]
    # Started where the package lies, so that `-m` cannot pick up modules of the user's current folder.
    with subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            out, err = child.communicate(request, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            return {"error": f"TensorRT-RTX took longer than {timeout_s:g} s: allow more time or a smaller model"}
        except BaseException:
            child.kill()
            raise
    return _answer(child.returncode, out, err)


def _answer(code: int, out: str, err: str) -> dict[str, Any]:
    if code == 0:
        with contextlib.suppress(json.JSONDecodeError, IndexError):
            answer: dict[str, Any] = json.loads(out.splitlines()[-1])
            return answer
    last = err.strip().splitlines()[-1][:300] if err.strip() else "it said nothing"
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return {"error": f"TensorRT-RTX {how}: {last}"}


def _manifest(built: EngineBuild, answer: dict[str, Any], onnx: Path, plan: Path) -> str:
    facts = {
        "schema": 1,
        "builder": built.builder,
        "builder_version": answer["version"],
        "compute_capability": built.compute_capability,
        "onnx_sha256": sha256_of(onnx),
        "plan_sha256": sha256_of(plan),
        "bytes": built.bytes,
        "attentions": built.attentions,
        "fused_attentions": built.fused_attentions,
        "inputs": answer["inputs"],
        "outputs": answer["outputs"],
    }
    return json.dumps(facts, indent=2) + os.linesep
