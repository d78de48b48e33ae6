"""`troth device` and `troth enroll`: what they ask for, say and pass on."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.fakes.api import FakeApi
from tests.fakes.views import make_status
from tests.unit.cli.conftest import Run
from troth.cli.enroll import app as enroll_app
from troth.core.errors import Refused
from troth.enroll.main import make_parser
from troth.wire.api.devices import DevicesInvited, EnrolmentCode

ROOT = Path(__file__).resolve().parents[3]
ENDS = datetime(2030, 1, 1, tzinfo=UTC)


def invited(*names: str) -> DevicesInvited:
    codes = [EnrolmentCode(id="enc_1", name=name, code="AAAA-BBBB") for name in names]
    return DevicesInvited(codes=codes, expires_at=ENDS)


def test_codes_stand_in_a_table_and_what_to_do_on_the_device_beside_it(
    api: FakeApi, run: Run
) -> None:
    api.answers["device.invite"] = invited("sensor-1")
    api.answers["status.show"] = make_status()
    result = run("device", "invite", "sensor-1", "--ttl", "2h")
    assert result.exit_code == 0, result.output
    assert re.search(r"^sensor-1 +AAAA-BBBB +enc_1$", result.stdout, re.MULTILINE)
    assert "troth enroll --server" in result.stderr
    assert "AAAA" not in result.stderr, "a code in a command stands in the process list"
    (name, request), *_ = api.requests
    assert (name, request.names, request.ttl) == ("device.invite", ["sensor-1"], 7200)


def test_a_fleet_from_a_file_goes_in_portions(api: FakeApi, run: Run, tmp_path: Path) -> None:
    api.answers["device.invite"] = invited("a", "b")
    names = tmp_path / "fleet.txt"
    names.write_text("\n".join(f"sensor-{number}" for number in range(1100)) + "\n\n")
    result = run("device", "invite", "--names", str(names), "--copies", "2", "--json")
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["codes"]) == 3 * 2
    sizes = [len(request.names) for name, request in api.requests if name == "device.invite"]
    assert sizes == [1000, 1000, 200]


def test_names_may_come_on_standard_input(api: FakeApi, run: Run) -> None:
    api.answers["device.invite"] = invited("a")
    result = run("device", "invite", "--names", "-", "--json", input="sensor-1\n")
    assert result.exit_code == 0, result.output
    assert api.requests[0][1].names == ["sensor-1"]


@pytest.mark.parametrize(
    "words",
    [
        ["device", "invite"],
        ["device", "invite", "a", "--ttl", "soon"],
        ["device", "invite", "a", "--ttl", "5s"],
        ["device", "invite", "a", "--copies", "0"],
        ["enroll"],
        ["enroll", "--out", "d", "--renew", "--keep"],
        ["enroll", "--out", "d", "--server", "http://a"],
        ["enroll", "--out", "d", "--ca", "a", "--ca-sha256", "b"],
        ["enroll", "--out", "d", "--code-file", "a", "--x509pop", "b", "c"],
        ["enroll", "--out", "d", "--hook", "'"],
    ],
)
def test_wrong_usage(words: list[str], api: FakeApi, run: Run) -> None:
    result = run(*words, "--json")
    assert result.exit_code == 2, result.output
    assert json.loads(result.stdout)["code"] == "invalid_usage"
    assert not api.requests


def test_a_refusal(api: FakeApi, run: Run) -> None:
    api.answers["device.invite"] = Refused("'a' is a service.")
    assert run("device", "invite", "a").exit_code == 1


def test_nothing_to_enrol_with(run: Run, tmp_path: Path) -> None:
    result = run("enroll", "--out", str(tmp_path / "device"), "--json")
    assert result.exit_code == 1
    assert "troth device invite" in json.loads(result.stdout)["detail"]


def test_both_faces_of_the_client_have_the_same_options() -> None:
    command: Any = typer.main.get_group(enroll_app).commands["enroll"]
    shown = {flag for p in command.params if p.param_type_name == "option" for flag in p.opts}
    own = {flag for action in make_parser()._actions for flag in action.option_strings}
    assert shown - {"--data", "--url"} == own - {"-h", "--help"}


def test_the_unit_calls_the_client_as_it_can_be_called() -> None:
    unit = (ROOT / "deploy" / "systemd" / "troth-enroll.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert program.endswith("/troth-enroll")
    chosen = make_parser().parse_args(arguments)
    assert chosen.keep
    assert chosen.server == "${TROTH_URL}"
    assert str(chosen.out).startswith("/var/lib/")
    assert "StateDirectory=troth-device" in unit
