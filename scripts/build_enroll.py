"""One file that enrols a device: ``python scripts/build_enroll.py [TARGET]`` makes a zipapp.

It holds `troth.enroll` and the few modules that it uses. The device needs Python 3.11 or newer and
`cryptography` beside it, and nothing else.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipapp
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "troth"
PARTS = (
    "__init__.py",
    "core",
    "enroll",
    "identity/__init__.py",
    "identity/x509pop.py",
    "wire/__init__.py",
    "wire/x509pop.py",
)


def build(target: Path) -> None:
    """Write the zipapp, executable, with the system's Python 3 as its interpreter."""
    with tempfile.TemporaryDirectory() as name:
        for part in PARTS:
            source, copy = SOURCE / part, Path(name) / "troth" / part
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy)
        target.parent.mkdir(parents=True, exist_ok=True)
        zipapp.create_archive(
            name, target, interpreter="/usr/bin/env python3", main="troth.enroll.main:main"
        )


if __name__ == "__main__":
    chosen = Path(sys.argv[1] if len(sys.argv) > 1 else "dist/troth-enroll.pyz")
    build(chosen)
    print(chosen)
