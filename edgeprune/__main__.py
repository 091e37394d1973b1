"""`python -m edgeprune` is the program `edgeprune`."""

from __future__ import annotations

from edgeprune.cli.main import main

main()
