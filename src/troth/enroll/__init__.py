"""The client of a device without an agent: it enrols, and keeps its certificate fresh.

It runs where the rest of troth isn't installed: all it needs is Python, `cryptography` and the
modules of troth that need no more than that. `python -m troth.enroll` starts it.
"""
