"""The output folder appears whole or not at all, and what was there before outlives a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.compiler.delivering.output import output_folder
from edgeprune.core.errors import EdgepruneError


def test_what_was_there_comes_back_where_its_place_cannot_be_taken(tmp_path, monkeypatch):
    out, rename = tmp_path / "out", Path.rename
    out.mkdir()
    (out / "mine").write_text("before")

    def failing(self, target):
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(EdgepruneError, match="No space left on device"), output_folder(out, force=True) as folder:
        (folder / "mine").write_text("after")
    assert (out / "mine").read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


def test_a_failure_of_the_work_leaves_nothing(tmp_path):
    def work() -> None:
        with output_folder(tmp_path / "out", force=False) as folder:
            (folder / "half").write_text("x")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert list(tmp_path.iterdir()) == []


def test_another_file_that_cannot_be_read_is_not_called_a_failed_write(tmp_path):
    with pytest.raises(FileNotFoundError), output_folder(tmp_path / "here" / "out", force=False):
        (tmp_path / "elsewhere").read_bytes()
