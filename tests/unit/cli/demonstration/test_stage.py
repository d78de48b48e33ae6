from __future__ import annotations

import hashlib
import os
import pwd
import stat
import subprocess

import pytest

from troth.cli.demonstration.processes import Company, make_environment
from troth.cli.demonstration.stage import (
    FIRST_UID,
    Stage,
    describe_python_path,
    find_envoy,
    find_free_uids,
)
from troth.core.errors import Refused, Unavailable
from troth.identity.selectors import Selector


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path, users=False)
    stage.build(["one", "two"])
    return stage


def test_each_actor_has_a_folder_of_its_own(stage):
    assert stage["one"].folder != stage["two"].folder
    assert stat.S_IMODE(stage["one"].folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(stage.folder.stat().st_mode) == 0o711


def test_copies_of_python_run_and_are_told_apart(stage):
    copies = [stage.place_python(stage[name]) for name in ("one", "two")]
    digests = {hashlib.sha256(copy.read_bytes()).hexdigest() for copy in copies}
    assert len(digests) == 2
    for copy in copies:
        script = "import sys, os, spiffe; print(os.path.realpath('/proc/self/exe'))"
        done = subprocess.run(
            [copy, "-P", "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, **describe_python_path()},
        )
        assert done.stdout.strip() == str(copy), done.stderr


def test_selectors_of_copies_name_user_path_and_hash(stage):
    actor = stage["one"]
    selectors = [Selector.parse(text) for text in stage.select(actor, stage.place_python(actor))]
    assert [selector.key for selector in selectors] == ["unix:uid", "unix:path", "unix:sha256"]
    assert selectors[0].value == str(os.getuid())


def test_free_uids_belong_to_nobody():
    found = find_free_uids(4)
    assert len(set(found)) == 4
    assert min(found) >= FIRST_UID
    assert not {entry.pw_uid for entry in pwd.getpwall()} & set(found)


def test_too_many_users_are_refused_in_words():
    with pytest.raises(Refused, match="unused user numbers"):
        find_free_uids(100_000)


def test_envoy_is_found_where_pip_put_it():
    assert os.access(find_envoy(), os.X_OK)


@pytest.fixture
def company(stage, tmp_path):
    company = Company(stage.logs, make_environment(tmp_path / "agent.sock"))
    yield company
    company.stop_all()


def test_a_program_answers_commands_until_it_is_stopped(company, stage, tmp_path):
    socket = tmp_path / "app.sock"
    options = ["--name", "one", "--socket", socket]
    process = company.start_program("one", [*stage.compose(stage["one"], "service"), *options])
    process.expect("ready")
    assert process.ask("report")["answered"] == 0
    company.stop(process)
    assert not process.running
    with pytest.raises(Unavailable, match="one"):
        process.ask("report")


def test_what_a_process_is_told_holds_no_setting_of_the_caller(monkeypatch, tmp_path):
    monkeypatch.setenv("TROTH_TOKEN", "secret")
    monkeypatch.setenv("TROTH_URL", "https://elsewhere")
    environment = make_environment(tmp_path / "agent.sock")
    assert not [name for name in environment if name.startswith("TROTH_")]
    assert environment["SPIFFE_ENDPOINT_SOCKET"] == f"unix://{tmp_path}/agent.sock"


def test_a_program_that_ends_at_once_is_noticed_with_its_log(company, stage):
    process = company.start_program("one", stage.compose(stage["one"], "service"))
    with pytest.raises(Unavailable, match="ended before"):
        process.expect("ready")
    process.popen.wait(10)
    assert company.find_ended() == [process]
    assert "--name" in "\n".join(process.read_tail())
