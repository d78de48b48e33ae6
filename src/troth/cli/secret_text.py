"""The text of a stranger's file for `troth check --secrets`: bounded, whatever the file is."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

MAX_FILE = 1024 * 1024
"""Bytes of a file; a larger text is told, not searched."""
MAX_PARSED = 128 * 1024
"""Bytes of a file that is read as YAML or INI too: those readers are slow."""
MAX_NODES = 20_000
MAX_DEPTH = 50
"""Of YAML, for the same reason."""
MAX_LINE = 2000
"""Characters that a detector gets at once."""
OVERLAP = 1000
"""Characters that two pieces of a long line share: a credential that a cut went through is whole
in the next piece, up to this length."""
HEAD = 8192
YAML_ENDINGS = (".yaml", ".yml")


class _Text(io.StringIO):
    """A file's text with its name, which is how detect-secrets takes one."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


def read_text(path: Path) -> tuple[str | None, str]:
    """A file's text; or None for what holds none, or is no file; or why it isn't searched."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return None, ""
    # Should it turn into a link or a pipe in between: no following, no waiting.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(HEAD)
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # byte order marks of UTF-16
        if b"\0" in data and not wide:
            return None, ""
        data += file.read(MAX_FILE + 1 - len(data))
    if len(data) > MAX_FILE:
        return None, f"larger than {MAX_FILE // 1024} KiB: not searched"
    if wide:
        return data.decode("utf-16", errors="replace"), ""
    if b"\0" in data:
        return None, ""
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        return data.decode("latin-1"), ""


def split_lines(text: str) -> list[str]:
    """Lines as editors and compilers count them, without their ends."""
    return [line.rstrip() for line in io.StringIO(text, newline=None)]


def _is_small_yaml(text: str) -> bool:
    """Whether it is YAML, and of few nodes once each alias is what it stands for.

    A few lines of aliases to lists of aliases can stand for more than fits into any memory.
    """
    import yaml

    total = 0
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent):
                total += sizes.get(event.anchor or "", MAX_NODES + 1)  # or it stands for itself
            elif isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, total))
                total += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = opened.pop()
                sizes[anchor or ""] = total - before
            elif isinstance(event, yaml.ScalarEvent):
                sizes[event.anchor or ""] = 1
                total += 1
            if total > MAX_NODES or len(opened) > MAX_DEPTH:
                return False
    except (yaml.YAMLError, ValueError):  # ValueError: characters that no YAML may have
        return False
    return True


def parse_lines(name: str, text: str, raw: list[str], eager: bool = False) -> list[str] | None:
    """The lines as detect-secrets understands YAML and INI: values in quotes; None for others.

    None too for what would take those readers long. Comments, which they drop, are put back.
    """
    if len(text) > MAX_PARSED or any(len(line) > MAX_LINE for line in raw):
        return None
    if name.endswith(YAML_ENDINGS) and not _is_small_yaml(text):
        return None
    from detect_secrets.transformers import get_transformed_file

    try:
        lines = get_transformed_file(_Text(text, name), use_eager_transformers=eager)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - other people's reader of a stranger's file; the raw lines remain
        return None
    if not lines:
        return None
    kept = [*lines, *[""] * (len(raw) - len(lines))]
    return [
        line or (raw[place] if place < len(raw) and raw[place].lstrip().startswith("#") else "")
        for place, line in enumerate(kept)
    ]


def cut_line(line: str) -> Iterator[str]:
    """The line in pieces that overlap; most lines are one."""
    if len(line) <= MAX_LINE:
        yield line
        return
    for start in range(0, len(line) - OVERLAP, MAX_LINE - OVERLAP):
        yield line[start : start + MAX_LINE]
