"""`troth check --secrets`: what it finds, what it says instead, what it leaves alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from troth.cli import secret_scan, secret_text
from troth.cli.secret_baseline import Baseline, parse_baseline
from troth.cli.secret_kinds import BY_TYPE, KINDS, SECRET_RULES
from troth.cli.secret_scan import search_secrets
from troth.core.clock import VirtualClock
from troth.core.errors import Invalid
from troth.core.manifest.problem import Problem

# In parts, so that no scanner takes this file for what it is about.
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
    "eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
)
PEM = "-----BEGIN RSA " + "PRIVATE KEY-----"
SLACK = "xoxb-" + "123456789012-abcdefghijkl"
STRIPE = "sk_live_" + "ReTllpYQYfIZu2Jnf2lAPFjD"
HEX = "c3f1a9e07b5d4c2e8f6a1b3d5e7f9012"
SAMPLES = {
    "secret/aws-key": (f'key = "{AWS}"', AWS, "no connector"),
    "secret/json-web-token": (f'token = "{JWT}"', JWT, "troth.sdk.tokens.TokenSource"),
    "secret/private-key": (f'k = "{PEM}"', PEM, "X.509-SVID"),
    "secret/password-in-url": (
        'db = "postgresql://app:s3cr3tpw@db.example.org/pay"',
        "s3cr3tpw",
        "client certificate",
    ),
    "secret/slack-token": (f'bot = "{SLACK}"', SLACK, "no connector"),
    "secret/stripe-key": (f'pay = "{STRIPE}"', STRIPE, "secret store"),
    "secret/keyword": ('password = "hunter2hunter2"', "hunter2hunter2", "X.509-SVID"),
    "secret/random-hex": (f'h = "{HEX}"', HEX, "pragma: allowlist secret"),
}


class Hasty(VirtualClock):
    """A clock on which time goes by with every look."""

    def monotonic(self) -> float:
        self.advance(timedelta(seconds=secret_scan.MAX_SECONDS / 3))
        return super().monotonic()


def search(*paths: Path, baseline: Baseline | None = None) -> secret_scan.Search:
    return search_secrets(paths, baseline or Baseline(), VirtualClock(), lambda _files, _name: None)


def find(path: Path, text: str) -> list[Problem]:
    path.write_text(text)
    return list(search(path).problems)


@pytest.mark.parametrize("rule", SAMPLES)
def test_each_kind_is_found_once_at_its_place_and_never_shown(rule, tmp_path, run: Run):
    line, secret, replacement = SAMPLES[rule]
    path = tmp_path / "a.py"
    path.write_text(f"# a program\n{line}\n")
    result = run("check", "--secrets", "--json", str(path))
    assert result.exit_code == 1
    value = json.loads(result.stdout)
    assert value["ok"] is False
    [problem] = value["problems"]
    assert (problem["rule"], problem["line"]) == (rule, 2)
    if rule != "secret/private-key":
        assert problem["column"] == line.index(secret) + 1
    assert replacement in problem["replacement"]
    hashed = hashlib.sha1(secret.encode(), usedforsecurity=False).hexdigest()
    for form in ("text", "json", "sarif", "codequality"):
        shown = run("check", "--secrets", "--format", form, str(path)).output
        assert str(path.name) in shown
        assert not any(part in shown for part in (secret, secret[4:], hashed, hashed[:8]))


def test_nothing_found_ends_with_zero(tmp_path, run: Run):
    (tmp_path / "a.py").write_text("import os\n\ntoken = os.environ['TOKEN']\n")
    result = run("check", "--secrets", str(tmp_path / "a.py"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "1 file searched: nothing found." in result.stderr


def test_people_read_what_replaces_each_once(tmp_path, run: Run):
    (tmp_path / "a.py").write_text(f'a = "{AWS}"\nb = "{AWS}"\nk = "{PEM}"\n')
    result = run("check", "--secrets", str(tmp_path / "a.py"))
    assert result.stdout.count("a key of AWS.") == 2
    assert result.stdout.count("no connector for AWS") == 1
    assert "revoke it, then replace it" in result.stdout
    assert "3 findings" in result.stderr


def test_what_a_person_has_looked_at_is_allowed(tmp_path):
    path = tmp_path / "a.py"
    assert not find(path, f'a = "{AWS}"  # pragma: allowlist secret\n')
    assert not find(path, f'# pragma: allowlist nextline secret\na = "{AWS}"\n')
    assert find(path, f'a = "{AWS}"  # pragma: allowlist\n')


def test_yaml_and_settings_are_read_as_such_comments_too(tmp_path):
    yaml = find(tmp_path / "a.yaml", f"a: 1\nkey: {HEX}\n# password: 'blablabla12'\n")
    assert [(one.rule, one.line) for one in yaml] == [
        ("secret/random-hex", 2),
        ("secret/keyword", 3),
    ]
    assert [one.line for one in find(tmp_path / ".env", "A=1\nDB_PASSWORD=hunter2000\n")] == [2]
    # What is no YAML at all is searched line by line.
    assert [one.line for one in find(tmp_path / "b.yaml", f'a: [1\nb: "{AWS}"\n')] == [2]


def test_a_list_of_dates_that_yaml_chokes_on_is_still_searched(tmp_path):
    assert [one.line for one in find(tmp_path / "a.yaml", f'd: 2020-13-45\nb: "{AWS}"\n')] == [2]
    assert find(tmp_path / "deep.yaml", f'{"[" * 1500}\n"{AWS}"\n')


def test_aliases_that_stand_for_too_much_are_not_followed(tmp_path):
    levels = [f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]" for n in range(1, 12)]
    text = "\n".join(["k0: &k0 [x, y]", *levels, f'b: "{AWS}"', "loop: &loop [*loop]"])
    assert [one.line for one in find(tmp_path / "a.yaml", text)] == [13]
    few = f"usual: &usual {{a: 1}}\none: *usual\ntwo: {{<<: *usual}}\nkey: {HEX}\n"
    assert [one.line for one in find(tmp_path / "b.yaml", few)] == [4]


def test_other_encodings_are_searched(tmp_path):
    text = f'name = "Grüße"\nkey = "{AWS}"\n'
    for encoding in ("utf-8", "utf-8-sig", "latin-1", "utf-16"):
        path = tmp_path / f"{encoding}.py"
        path.write_bytes(text.encode(encoding))
        assert [one.line for one in search(path).problems] == [2], encoding


def test_version_control_packages_links_and_binary_files_are_left_alone(tmp_path):
    for name in (".git/config", "node_modules/a.js", "link.d/a.py", "bin.dat"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((b"\0" if name == "bin.dat" else b"") + f'a = "{AWS}"'.encode())
    tree = tmp_path / "tree"
    (tree / "link.d").rename(tmp_path / "outside")
    (tree / "link").symlink_to(tmp_path / "outside")
    (tree / "file").symlink_to(tmp_path / "outside" / "a.py")
    os.mkfifo(tree / "pipe")
    found = search(tree)
    assert (found.problems, found.unread, found.files) == ((), (), 0)
    assert found.passed_over == 3  # the binary file, the link to a file, the pipe
    # Named, a folder of packages is searched; a link never is.
    assert len(search(tree / "node_modules").problems) == 1
    with pytest.raises(Invalid, match="symbolic link"):
        search(tree / "link")


def test_what_was_not_looked_at_is_told_and_fails_only_the_strict(tmp_path, run: Run):
    (tmp_path / "big.txt").write_bytes(b"a" * (secret_text.MAX_FILE + 1))
    # A regular file that is there and can't be read, whoever asks.
    result = run("check", "--secrets", "--json", str(tmp_path / "big.txt"), "/proc/self/mem")
    assert result.exit_code == 0
    unread = {one["source"]: one["reason"] for one in json.loads(result.stdout)["unread"]}
    assert "larger than 1024 KiB" in unread[str(tmp_path / "big.txt")]
    assert "can't be read: Input/output error" in unread["/proc/self/mem"]
    assert "/proc/self/mem: can't be read" in result.stderr
    assert run("check", "--secrets", "--strict", str(tmp_path / "big.txt")).exit_code == 1


def test_a_path_that_is_not_there_says_so(tmp_path, run: Run):
    result = run("check", "--secrets", str(tmp_path / "no"))
    assert result.exit_code == 1
    assert "no such file" in result.stderr
    assert run("check", "--secrets", "-").exit_code == 1


def test_long_lines_are_searched_in_pieces(tmp_path):
    for at in (0, 990, 1990, 5000):
        filler = "x = 1; " * (at // 7)
        [problem] = find(tmp_path / "a.min.js", f'{filler}k="{JWT}";{"y = 2; " * 900}\n')
        assert (problem.rule, problem.column) == ("secret/json-web-token", len(filler) + 4)


def test_a_file_has_its_time(tmp_path):
    # Quadratic time in one of the detectors: a minute and more for this file, if nobody stopped it.
    (tmp_path / "a.txt").write_text("password_" * 20_000)
    found = search_secrets([tmp_path], Baseline(), Hasty(), lambda _files, _name: None)
    [unread] = found.unread
    assert "not searched to its end" in unread.reason


def test_findings_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(secret_scan, "MAX_PROBLEMS", 3)
    for name in "abcd":
        (tmp_path / f"{name}.py").write_text(f'a = "{AWS}"\nb = "{SLACK}"\n')
    found = search(tmp_path)
    assert len(found.problems) == 4
    assert "stopped after 3 findings" in found.unread[-1].reason


def test_long_searches_tell_how_far_they_are(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.py").write_text("a = 1\n")
    told: list[tuple[int, str]] = []
    search_secrets(
        [tmp_path], Baseline(), VirtualClock(), lambda files, name: told.append((files, name))
    )
    assert told == [(0, str(tmp_path / "a.py")), (1, str(tmp_path / "b.py"))]


# Baselines


def make_baseline(folder: Path, *options: str) -> Path:
    """A baseline by detect-secrets' own command."""
    command = [sys.executable, "-m", "detect_secrets", "scan", "--all-files", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=50)
    path = folder / ".secrets.baseline"
    path.write_bytes(done.stdout)
    return path


def test_a_baseline_of_the_real_program_is_understood(tmp_path, monkeypatch, run: Run):
    lines = "\n".join(line for line, _, _ in SAMPLES.values())
    (tmp_path / "a.py").write_text(lines + "\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text(f"key: {HEX}\n")
    baseline = make_baseline(tmp_path, "--no-verify")
    monkeypatch.chdir(tmp_path)
    assert run("check", "--secrets", ".").exit_code == 1
    result = run("check", "--secrets", "--baseline", str(baseline), ".")
    assert result.exit_code == 0, result.output
    assert ".secrets.baseline" not in result.output
    # From elsewhere the names are those beside the baseline; what is new is found.
    monkeypatch.chdir("/")
    (tmp_path / "sub" / "b.yaml").write_text(f"n: 1\nkey: {HEX}\nother: {HEX[::-1]}\n")
    result = run("check", "--secrets", "--json", "--baseline", str(baseline), str(tmp_path))
    assert [one["line"] for one in json.loads(result.stdout)["problems"]] == [3]


def test_a_baseline_can_choose_detectors_and_limits_but_no_code(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\ndef drop(line): return True\n")
    document = {
        "plugins_used": [
            {"name": "HexHighEntropyString", "limit": 8.0},
            {"name": "AWSKeyDetector"},
            {"name": "Evil", "path": f"file://{tmp_path}/evil.py"},
        ],
        "filters_used": [
            {"path": "detect_secrets.filters.allowlist.is_line_allowlisted"},
            {"path": f"file://{tmp_path}/evil.py::drop"},
        ],
        "results": {},
    }
    baseline = parse_baseline(json.dumps(document).encode(), tmp_path / "b")
    path = tmp_path / "a.py"
    path.write_text(f'h = "{HEX}"\na = "{AWS}"\ns = "{SLACK}"\n')
    assert [one.rule for one in search(path, baseline=baseline).problems] == ["secret/aws-key"]
    assert not marker.exists()
    said = "\n".join(baseline.remarks)
    assert "evil.py::drop' is not used" in said
    assert "the detector 'Evil' is not used" in said
    assert "SlackDetector is off" in said


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"results": 1}', b"\xff", b"[" * 100_000])
def test_what_is_no_baseline_says_so(data, tmp_path):
    with pytest.raises(Invalid, match="not a baseline"):
        parse_baseline(data, tmp_path / "b")


def test_wrong_usage(tmp_path, run: Run):
    assert run("check", "--baseline", "b", str(tmp_path)).exit_code == 2
    assert run("check", "--json", "--format", "sarif", str(tmp_path)).exit_code == 2
    assert run("check", "--format", "xml", str(tmp_path)).exit_code == 2


# The library


def test_the_table_has_every_detector_of_the_library_but_addresses():
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes: dict[str, type] = get_mapping_from_secret_type_to_class()
    theirs = {kind: found.__name__ for kind, found in classes.items()}
    ours = {kind.type: kind.detector for kind in KINDS}
    assert {kind: name for kind, name in theirs.items() if name != "IPPublicDetector"} == ours
    assert len(SECRET_RULES) == len(BY_TYPE) == len(KINDS)


WATCHED = """
import os, sys
import troth.cli.main
def watch(event, arguments):
    # Importing urllib3 binds a socket to ::1, to see whether there is IPv6; that reaches nobody.
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
                 "socket.sendmsg", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        print(event, arguments, file=sys.stderr, flush=True)
        os._exit(77)
loaded = [name for name in sys.modules if name.split(".")[0] in ("detect_secrets", "requests")]
assert not loaded, loaded
sys.addaudithook(watch)
if sys.argv[1] == "connect":
    import socket
    socket.create_connection(("127.0.0.1", 1))
troth.cli.main.app(["check", "--secrets", *sys.argv[1:]], prog_name="troth")
"""
SENT = {
    # What the detectors would ask their services about, were they allowed to.
    "slack": f'a = "{SLACK}"\n',
    "stripe": f'a = "{STRIPE}"\n',
    "aws": f'aws_secret_access_key = "{"wJalrXUtnFEMI" * 4}"\na = "{AWS}"\n',
    "mailchimp": f'a = "{"0123456789abcdef" * 2}-us30"\n',
    "telegram": f'a = "{"1234567890"}:{"A" * 35}"\n',
    "softlayer": f'softlayer_username = "x"\nsoftlayer_api_key = "{"a1" * 32}"\n',
    "cloudant": f'cloudant_password = "{"a1" * 32}"\nhost = "x.cloudant.com"\n',
    "ibm": f'ibm_cloud_api_key = "{"a1" * 22}"\nibm_cos_hmac_secret = "{"a1" * 24}"\n',
}


def test_nothing_is_sent_anywhere(tmp_path):
    for name, text in SENT.items():
        (tmp_path / f"{name}.py").write_text(text)
    command = [sys.executable, "-c", WATCHED, "--json", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1, done.stderr
    found = {Path(one["source"]).stem for one in json.loads(done.stdout)["problems"]}
    assert found >= {"slack", "stripe", "aws", "mailchimp", "telegram", "softlayer", "cloudant"}


def test_the_watch_would_see_a_connection():
    command = [sys.executable, "-c", WATCHED, "connect"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 77
    assert "127.0.0.1" in done.stderr
