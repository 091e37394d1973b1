"""Deliver: lowered graphs, engines, deploy folders, the output folder, and reports that are read again."""
