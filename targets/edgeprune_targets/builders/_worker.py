"""The child that runs a vendor's library: a crash of the library ends this process and not the compile.

Reads one line of JSON from stdin and writes one to stdout for each job, after one that says that the graph is read.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any


def main() -> None:
    """Do what stdin asks for; each answer says whether it was done."""
    # Libraries print to stdout as they please: answers keep the pipe, everything else goes to stderr.
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for answer in _serve(request):
        pipe.write(json.dumps(answer) + "\n")
        pipe.flush()
    os._exit(0)  # the way out through a library's destructors has crashed before


def _serve(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if request["module"] == "onnxruntime":
        from edgeprune_targets.builders._worker_onnxruntime import serve
    else:
        from edgeprune_targets.builders._worker_tensorrt import serve
    try:
        yield from serve(request)
    except OSError as error:
        yield {"error": f"cannot write the engine: {error.strerror or error}: free some space"}


def _end_with_parent() -> None:
    """Nothing more comes through stdin: that it ends says that the parent has."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
