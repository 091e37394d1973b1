"""A full disk or a crash leaves nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from edgeprune.core.errors import EdgepruneError
from edgeprune.core.whole import deliver, staging, write_outputs, write_whole
from edgeprune_targets.precision import to_fp16

_FULL = """
import json, resource, sys
from pathlib import Path
from edgeprune_targets.builders import make_builder
from edgeprune_targets.profiles import load_target
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
model = Path(sys.argv[2]).read_bytes()
results = make_builder(sys.argv[4]).build(model, [load_target("rtx-3090")], Path(sys.argv[3]), name="m")
print(json.dumps([[each.built, each.error] for each in results]))
"""


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("room", "builder", "says"),
    [
        (1_000_000, "tensorrt-rtx", "cannot write the engine: File too large: free some space"),
        (20_000, "tensorrt-rtx", "cannot write to {folder}: File too large"),
        (20_000, "onnxruntime", "cannot write to {folder}: File too large"),
    ],
)
def test_a_disk_without_room_is_an_error_and_leaves_nothing(
    make_encoder: Callable[..., ir.Model], tmp_path: Path, room: int, builder: str, says: str
) -> None:
    model, folder = tmp_path / "model.onnx", tmp_path / "engine"
    ir.save(to_fp16(make_encoder()), model)
    assert 20_000 < model.stat().st_size < 1_000_000
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(room), model, folder, builder], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[False, says.format(folder=folder)]]
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    from edgeprune_targets.builders import make_builder
    from edgeprune_targets.profiles import load_target

    (tmp_path / "file").write_bytes(b"")
    (built,) = make_builder("onnxruntime").build(b"", [load_target("rtx-3090")], tmp_path / "file" / "engine", name="m")
    assert built.error == f"cannot write to {tmp_path / 'file' / 'engine'}: Not a directory"


def test_files_are_delivered_together_or_not_at_all(tmp_path: Path) -> None:
    with staging(tmp_path) as scratch:
        for name in ("one", "two"):
            (scratch / name).write_text(name, encoding="utf-8")
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "occupied").write_bytes(b"")
        with pytest.raises(OSError, match="directory"):
            deliver({tmp_path / "a": scratch / "one", tmp_path / "b": scratch / "two"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cache"
    write_whole(path, b"old")

    def full(_self: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_may_be_read_by_whom_any_new_file_may(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_outputs({tmp_path / "made": b"1"})
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "plain"]


def test_a_folder_in_the_way_of_one_output_leaves_what_was_there_of_the_other(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b"old")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(EdgepruneError, match="Is a directory"):
        write_outputs({tmp_path / "report.json": b"new", tmp_path / "report.html": b"new"})
    assert (tmp_path / "report.json").read_bytes() == b"old"
