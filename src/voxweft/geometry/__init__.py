"""Integers only, no I/O: boxes, patch positions, blend weights, columns and parts."""
