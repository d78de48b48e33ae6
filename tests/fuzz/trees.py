"""Trees of strangers, which `troth check --secrets` searches, and the baselines in them."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st

from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import json_documents, mutated
from troth.cli.report import view_problem
from troth.cli.secret_baseline import Baseline, read_baseline
from troth.cli.secret_scan import search_secrets
from troth.core.clock import VirtualClock
from troth.core.manifest.report import Report
from troth.wire.codequality import render_code_quality
from troth.wire.sarif import render_sarif

SECRET = "hunter2" + "hunter2"
BASELINE = {
    "version": "1.5.0",
    "plugins_used": [
        {"name": "AWSKeyDetector"},
        {"name": "HexHighEntropyString", "limit": 3.0},
    ],
    "filters_used": [{"path": "detect_secrets.filters.allowlist.is_line_allowlisted"}],
    "results": {
        "a.py": [{"type": "Secret Keyword", "hashed_secret": "0f" * 20, "line_number": 1}],
    },
}
YAML = f"a: &a [1, 2]\nb: {{<<: *a, password: {SECRET}}}\nc: !!binary aGk=\nd: |\n  x\n".encode()
INI = f"[a]\nb = 1\npassword = {SECRET}\n# c\n".encode()
CODE = f'password = "{SECRET}"\nx = "a://b:{SECRET}@c"  # pragma: allowlist secret\n'.encode()


@fuzz(json_documents(BASELINE))
def fuzz_secret_baseline(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "baseline"
        path.write_bytes(data)
        found = answer(read_baseline, path)
        if found is not None:
            assert all(set(plugin) <= {"name", "limit"} for plugin in found.plugins)
            assert all(len(remark) < 400 for remark in found.remarks)


@fuzz(
    st.tuples(
        st.sampled_from(("a.py", "a.yaml", "a.ini", "a.env", "a.tf")), mutated(YAML, INI, CODE)
    )
)
def fuzz_secret_text(file: tuple[str, bytes]) -> None:
    name, data = file
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        found = search_secrets([path], Baseline(), VirtualClock(), lambda _files, _name: None)
        report = Report("secrets", found.problems, {}, found.unread)
        shown = json.dumps([view_problem(problem) for problem in found.problems])
        for text in (shown, str(json.loads(render_sarif(report, "1"))), *map(str, found.problems)):
            assert SECRET not in text
        assert len(json.loads(render_code_quality(report))) == len(found.problems)
        assert all(
            1 <= one.line <= data.count(b"\n") + data.count(b"\r") + 1 for one in found.problems
        )
