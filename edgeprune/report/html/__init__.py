"""Reports as one page each: no script, nothing from a network, every word from outside escaped."""

from __future__ import annotations

from edgeprune.report.html.compare import render_comparison_html
from edgeprune.report.html.page import render_html

__all__ = ["render_comparison_html", "render_html"]
