"""How large a log may be."""

from __future__ import annotations

LARGEST_SIZE = (1 << 63) - 1
"""Entries of the largest log: the largest size that a checkpoint may say (C2SP tlog-checkpoint)."""
