"""The parent's side of a build: a child process does it, so that a crash of a vendor's library is a message.

One child takes all jobs in turn, so a graph is read once. A library that failed once is not trusted again: after a
failure TensorRT-RTX 1.7.1 builds other bytes for the next device than a fresh one would. So a failure ends the child,
and the jobs that are left get a new one.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

Answer: TypeAlias = "dict[str, Any]"

_ROOT = Path(__file__).resolve().parents[2]
_COMMAND = (sys.executable, "-m", "edgeprune_targets.builders._worker")


def run_jobs(words: str, request: Answer, jobs: Sequence[Answer], timeout_s: float) -> list[Answer]:
    """Have a child do `jobs`, in their order.

    Args:
        words: how messages name the library.
        request: what all jobs share.
        jobs: what differs.
        timeout_s: of one job.

    Returns:
        One answer a job; `error` is None where it was done.
    """
    done: list[Answer] = []
    while len(done) < len(jobs):
        done += _one_child(words, request | {"jobs": list(jobs[len(done) :])}, timeout_s)
    return done


def _one_child(words: str, request: Answer, timeout_s: float) -> list[Answer]:
    """What one child said: an answer for its first job at least, for all of them if it never came to the first."""
    done: list[Answer] = []
    ready = False
    with tempfile.TemporaryFile() as noise, _started(noise) as (child, lines):
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; its end says why
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
        while len(done) < len(request["jobs"]):
            try:
                line = lines.get(timeout=timeout_s)
            except queue.Empty:
                done.append({"error": f"{words} took longer than {timeout_s:g} s: allow more time or a smaller model"})
                return done if ready else done * len(request["jobs"])
            answer = _parsed(line)
            if answer is None:
                if done and done[-1]["error"] is not None:
                    return done
                done.append({"error": f"{words} {_death(child.wait(), noise)}", "crashed": True})
                return done if ready else done * len(request["jobs"])
            if answer.get("ready"):
                ready = True
                continue
            done.append(answer)
            if not ready:
                return done * len(request["jobs"])
    return done


@contextlib.contextmanager
def _started(noise: IO[bytes]) -> Iterator[tuple[subprocess.Popen[str], queue.Queue[str]]]:
    """Run the child; whatever ends the caller's work ends the child too. The last line in the queue is empty."""
    # Started where the package lies, so that `-m` cannot pick up modules of the user's current folder.
    with subprocess.Popen(
        _COMMAND, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, text=True
    ) as child:
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=_read, args=(child.stdout, lines), daemon=True)
        reader.start()
        try:
            yield child, lines
        finally:
            child.kill()  # its answers are here and its files are written; a library's own way out may crash
            reader.join()


def _read(stream: IO[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def _parsed(line: str) -> Answer | None:
    with contextlib.suppress(json.JSONDecodeError):
        answer = json.loads(line)
        if isinstance(answer, dict):
            return answer
    return None


def _death(code: int, noise: IO[bytes]) -> str:
    """How the child ended, and the last that it said."""
    noise.seek(0)
    said = noise.read().decode("utf-8", "replace").strip().splitlines()
    last = said[-1].strip()[:300] if said else "it said nothing"
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"{how}: {last}"
