"""Any module can be the first to be imported, and the face of the package costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import edgeprune

ROOMS = (".", "passes", "targets", "calibration")

# Third-party packages are loaded once; then each module is imported in a fork that has seen none of ours.
EACH_ALONE = """
import importlib, os, sys, traceback
for heavy in ("numpy", "onnx", "onnx_ir", "msgspec", "click", "rich.console", "rich.table"):
    importlib.import_module(heavy)
assert not any(name.startswith("edgeprune") for name in sys.modules)
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        failed.append(name)
print(*failed)
"""


def modules(project: Path) -> list[str]:
    found = []
    for room in ROOMS:
        for package in (project / room).glob("edgeprune*/__init__.py"):
            for file in package.parent.rglob("*.py"):
                parts = file.relative_to(package.parents[1]).with_suffix("").parts
                found.append(".".join(parts).removesuffix(".__init__"))
    return sorted(name for name in found if not name.endswith("__main__"))


def test_every_module_imports_alone(project):
    names = modules(project)
    assert len(names) > 40
    done = subprocess.run([sys.executable, "-c", EACH_ALONE, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], done.stderr


def test_the_face_is_sorted_and_every_name_is_there():
    assert edgeprune.__all__ == sorted(edgeprune.__all__)
    for name in edgeprune.__all__:
        assert getattr(edgeprune, name) is not None
        assert name in dir(edgeprune)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(edgeprune, "no_such_name")


def test_importing_the_face_loads_no_room():
    code = (
        "import sys, edgeprune;"
        "print(sorted(name for name in sys.modules if name.startswith('edgeprune')), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['edgeprune'] False\n"
