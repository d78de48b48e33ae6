"""Which functions of troth read bytes or texts: found in its source, so that none is forgotten.

A function reads if its name says so (``parse_…``, ``read_…``, ``load_…``, ``decode_…``) or if it
calls a decoder of somebody else's: JSON, MessagePack, TOML, YAML, protobuf, X.509, base64.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src/troth"

_NAMED = re.compile(r"_*(parse|read|load|decode|unseal|convert)(_\w+)?")
_DECODERS = re.compile(
    r"(msgspec\.(json|msgpack|toml|yaml)\.(decode|Decoder)|msgspec\.convert|\w*decoder\.decode"
    r"|(self\.)?_?decoder\.decode|json\.loads?|tomllib\.loads?|yaml\.(parse|load|safe_load)"
    r"|.*\.(FromString|ParseFromString)|x509\.load_\w+|load_(der|pem)_\w+|json_format\.\w+"
    r"|(base64\.)?\w*b64decode|bytes\.fromhex|(\w+\.)?fromisoformat|ssl\.PEM_cert_to_DER_cert"
    r"|struct\.unpack\w*|(pickle|marshal)\.\w+|ast\.literal_eval|ElementTree\.\w+)"
)
_LEFT_OUT = ("cli/demonstration/", "store/migrations/")
"""A story that is told, and steps that are taken once."""


def find_parsers() -> set[str]:
    """Qualified names below ``troth``, such as ``wire.bundle.parse_bundle``; ``<module>`` stands
    for what a module does when it is imported."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        place = path.relative_to(SOURCE).as_posix()
        if not place.startswith(_LEFT_OUT):
            module = place.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            tree = ast.parse(path.read_text())
            found |= {f"{module}.{name}" for name in _find_in(tree, ())}
    return found


def _find_in(tree: ast.AST, outer: tuple[str, ...]) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if _NAMED.fullmatch(node.name):
                yield ".".join((*outer, node.name))
            yield from _find_in(node, (*outer, node.name))
        elif isinstance(node, ast.ClassDef):
            yield from _find_in(node, (*outer, node.name))
        elif isinstance(node, ast.Call) and _DECODERS.fullmatch(ast.unparse(node.func)):
            yield ".".join(outer or ("<module>",))
            yield from _find_in(node, outer)
        else:
            yield from _find_in(node, outer)
