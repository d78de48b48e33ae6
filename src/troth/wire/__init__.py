"""Formats and protocols as parse and render: bytes to plain values and back."""
