from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.machines import Maker
from troth.core.endpoint import Endpoint
from troth.core.errors import Invalid
from troth.server import config as module
from troth.server.config import Config, load_config, settle_ports
from troth.server.reading import MAX_FILE

FULL = """
data = "/srv/troth"
trust_domain = "example.org"
origin = "https://id.example.org"
lease = 30
[listen]
public = "[::1]:9000"
mutual = "0.0.0.0:9500"
[database]
url = "postgresql://troth:hunter2@db/troth"
[keystore]
driver = "memory"
[roles.uids]
1000 = "operator"
[roles.spiffe_ids]
"spiffe://example.org/ci" = "auditor"
[ttl]
x509_default = 600
[limits]
body_bytes = 4096
[crl]
period = 600
[log]
level = "debug"
"""


@pytest.fixture(autouse=True)
def as_user(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1234)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "troth.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def load(environ: dict[str, str] | None = None, **given: Any) -> Config:
    return load_config(environ={"HOME": "/home/me", **(environ or {})}, **given)


def complaint(environ: dict[str, str] | None = None, **given: Any) -> str:
    with pytest.raises(Invalid) as caught:
        load(environ, **given)
    return caught.value.detail


def test_nothing_given_is_usable():
    config = load()
    assert config.data == Path("/home/me/.local/share/troth")
    assert config.trust_domain.name == "troth.local"
    assert config.public == Endpoint("localhost", 8443)
    assert config.mutual == Endpoint("localhost", 8444)
    assert config.origin == "https://localhost:8443"
    assert config.database == "sqlite:////home/me/.local/share/troth/troth.db"
    assert config.keystore.key_encryption_key == "file:/home/me/.local/share/troth/keys/kek"
    assert config.roles.uids == {0: "admin", 1234: "admin"}
    assert config.admin_socket == config.data / "admin.sock"
    assert config.admin_socket_mode == 0o600
    assert config.lease == 15


def test_root_keeps_its_data_with_the_system(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load().data == Path("/var/lib/troth")


def test_a_file_sets_everything(tmp_path: Path):
    config = load(config_file=write(tmp_path, FULL))
    assert config.data == Path("/srv/troth")
    assert config.trust_domain.name == "example.org"
    assert config.origin == "https://id.example.org"
    assert (config.public, config.mutual) == (Endpoint("::1", 9000), Endpoint("0.0.0.0", 9500))
    assert str(config.public) == "[::1]:9000"
    assert config.database == "postgresql://troth:hunter2@db/troth"
    assert config.keystore.driver == "memory"
    assert config.roles.uids == {1000: "operator", 1234: "admin"}
    assert config.roles.spiffe_ids == {"spiffe://example.org/ci": "auditor"}
    assert config.admin_socket_mode == 0o666
    assert config.ttl.x509_default == 600
    assert config.limits.body_bytes == 4096
    assert config.crl.period == 600
    assert config.log.level == "debug"
    assert config.lease == 30


def test_no_password_in_what_is_logged(tmp_path: Path):
    environ = {"KEK": "deadbeef", "TROTH_KEYSTORE_KEY_ENCRYPTION_KEY": "env:KEK"}
    text = FULL.replace('"memory"', '"file"')
    config = load(environ, config_file=write(tmp_path, text))
    assert config.keystore.secret == "deadbeef"
    assert "hunter2" not in repr(config)
    assert "deadbeef" not in repr(config)


def test_a_draft_is_off_until_somebody_wants_it(tmp_path: Path):
    variable = "TROTH_OAUTH_DRAFT_TRANSACTION_TOKENS"
    assert load().draft_transaction_tokens is False
    path = write(tmp_path, "[oauth]\ndraft_transaction_tokens = true")
    assert load(config_file=path).draft_transaction_tokens is True
    assert load({variable: "false"}, config_file=path).draft_transaction_tokens is False
    assert load({variable: "true"}).draft_transaction_tokens is True
    for text in ("True", "1", "yes", ""):
        assert "expected true or false" in complaint({variable: text})


def test_an_argument_beats_the_environment_beats_the_file(tmp_path: Path):
    path = write(tmp_path, FULL)
    environ = {
        "TROTH_LISTEN_PUBLIC": "env:1",
        "TROTH_DATABASE_URL": "sqlite:///env.db",
        "TROTH_LEASE": "7",
    }
    config = load(environ, config_file=path, listen="arg:2", data=tmp_path)
    assert config.public == Endpoint("arg", 2)
    assert config.database == "sqlite:///env.db"
    assert config.lease == 7
    assert config.data == tmp_path
    assert config.ttl.x509_default == 600


def test_the_environment_sets_tables_as_json():
    config = load({"TROTH_ROLES_UIDS": '{"7": "auditor"}'})
    assert config.roles.uids == {7: "auditor", 1234: "admin"}
    assert "JSON object" in complaint({"TROTH_ROLES_UIDS": "7=auditor"})


def test_client_secrets_are_off_unless_somebody_says_true(tmp_path: Path):
    assert not load().client_secrets
    assert load({"TROTH_OAUTH_CLIENT_SECRETS": "true"}).client_secrets
    path = write(tmp_path, "[oauth]\nclient_secrets = true")
    assert load(config_file=path).client_secrets
    off = {"TROTH_OAUTH_CLIENT_SECRETS": "false"}
    assert not load(off, config_file=path).client_secrets
    for text in ("1", "yes", "True", ""):
        assert "true or false" in complaint({"TROTH_OAUTH_CLIENT_SECRETS": text})


def test_the_file_is_found_in_the_data_directory_or_by_name(tmp_path: Path):
    path = write(tmp_path, "lease = 9")
    assert load(data=tmp_path).lease == 9
    assert load({"TROTH_DATA": str(tmp_path)}).lease == 9
    other = tmp_path / "other.toml"
    other.write_text("lease = 10")
    assert load({"TROTH_CONFIG": str(other)}, data=tmp_path).lease == 10
    assert load({"TROTH_CONFIG": str(other)}, config_file=path).lease == 9


@pytest.mark.parametrize(
    ("listen", "mutual"),
    [("localhost:9000", "localhost:9001"), ("127.0.0.1:0", "127.0.0.1:0"), ("[::]:1", "[::]:2")],
)
def test_the_mutual_listener_follows_the_public_one(listen: str, mutual: str):
    assert str(load(listen=listen).mutual) == mutual


def test_picked_ports_go_into_a_derived_origin_alone():
    config = settle_ports(load(listen="0.0.0.0:0"), 4001, 4002)
    assert config.origin == "https://localhost:4001"
    assert (config.public.port, config.mutual.port) == (4001, 4002)
    config = load({"TROTH_ORIGIN": "https://id.example.org"}, listen="localhost:0")
    assert settle_ports(config, 1, 2).origin == "https://id.example.org"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("leese = 9", ["leese", "did you mean lease?"]),
        ("[listen]\npubic = 'x:1'", ["listen.pubic", "listen.public?"]),
        ("[liste]\npublic = 'x:1'", ["liste"]),
        ("listen = 'x:1'", ["setting listen"]),
        ("[ttl]\nx509_default = 'long'", ["ttl.x509_default", "expected `int`, got `str`"]),
        ("lease = 1", ["lease", ">= 2"]),
        ("[oauth]\nclient_secrets = 1", ["oauth.client_secrets", "expected `bool`"]),
        ("lease = true", ["lease", "expected `int`"]),
        ("lease = 2.5", ["lease", "expected `int`"]),
        ("trust_domain = 'Example.org'", ["trust_domain", "Example.org"]),
        ("data = 5", ["data", "expected `str`"]),
        ("[log]\nlevel = 'loud'", ["log.level", "loud"]),
        ("[keystore]\ndriver = 'cloud'", ["keystore.driver", "cloud"]),
        ("[keystore]\nkey_encryption_key = 'file:relative'", ["absolute"]),
        ("[roles.uids]\n1000 = 'king'", ["roles.uids", "king", "admin, operator, auditor"]),
        ("[roles.uids]\n1000 = 'node'", ["roles.uids", "node"]),
        ("[roles.uids]\nme = 'admin'", ["roles.uids"]),
        ("[roles.uids]\n-1 = 'admin'", ["roles.uids"]),
        ("[roles.spiffe_ids]\n'x' = 'admin'", ["roles.spiffe_ids", "not a SPIFFE ID"]),
        ("[roles.spiffe_ids]\n'spiffe://other/x' = 'admin'", ["roles.spiffe_ids", "within"]),
        ("[roles.spiffe_ids]\n'spiffe://troth.local' = 'admin'", ["roles.spiffe_ids", "within"]),
        ("[ttl]\nx509_ceiling = 60", ["ttl.x509_default", "ttl.x509_ceiling"]),
        ("[ttl]\nx509_ceiling = 999999", ["ttl.x509_ceiling", "86400"]),
        ("[crl]\nlifetime = 172799", ["crl.lifetime", ">= 172800"]),
        ("[crl]\nlifetime = 172800\nperiod = 3600", ["crl.lifetime", "176400"]),
        ("[oauth]\ndraft_transaction_tokens = 1", ["draft_transaction_tokens", "expected `bool`"]),
        ("lease = 9\nlease = x", ["not TOML", "line 2"]),
        ("a = " + "[" * 5000, ["not TOML"]),
        ("a = " + "9" * 5000, ["not TOML"]),
    ],
)
def test_a_bad_file_is_explained_with_file_and_key(tmp_path: Path, text: str, words: list[str]):
    path = write(tmp_path, text)
    detail = complaint(config_file=path)
    for word in words:
        assert word in detail, detail
    assert str(path) in detail or "the default" in detail


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"TROTH_LEASE": "soon"}, ["TROTH_LEASE", "lease", "whole number"]),
        ({"TROTH_LEASE": "9" * 30}, ["TROTH_LEASE"]),
        ({"TROTH_LEASE": "0"}, ["TROTH_LEASE", ">= 2"]),
        ({"TROTH_LISTEN_PUBLC": "x:1"}, ["did you mean TROTH_LISTEN_PUBLIC?"]),
        ({"TROTH_ORIGIN": "http://x"}, ["TROTH_ORIGIN", "https://"]),
        ({"TROTH_ORIGIN": "https://x/"}, ["origin"]),
        ({"TROTH_ORIGIN": "https://u@x"}, ["origin"]),
        ({"TROTH_ORIGIN": "https://x:99999"}, ["origin"]),
        ({"TROTH_ORIGIN": "https://x\r\nh: y"}, ["origin"]),
        ({"TROTH_KEYSTORE_KEY_ENCRYPTION_KEY": "env:NIX"}, ["NIX is not set"]),
    ],
)
def test_a_bad_variable_is_explained(environ: dict[str, str], words: list[str]):
    detail = complaint(environ)
    for word in words:
        assert word in detail, detail


def test_a_variable_that_resembles_no_setting_is_kept_for_a_warning():
    environ = {
        "TROTH_TRSUT": "x",
        "TROTH_KEK": "00" * 32,
        "TROTH_KEYSTORE_KEY_ENCRYPTION_KEY": "env:TROTH_KEK",
    }
    assert load(environ).unknown_variables == ("TROTH_TRSUT",)


def test_what_is_wrong_in_an_argument_is_told_from_what_is_wrong_elsewhere():
    with pytest.raises(module.InvalidArgument, match="listen"):
        load(listen="nowhere")
    with pytest.raises(module.InvalidArgument, match="trust_domain"):
        load(trust_domain="Not A Domain")
    with pytest.raises(Invalid) as caught:
        load({"TROTH_LISTEN_PUBLIC": "nowhere"})
    assert type(caught.value) is Invalid


def test_other_programs_variables_are_none_of_ours():
    config = load(
        {
            "TROTH_URL": "https://x",
            "TROTH_PORT": "tcp://10.0.0.1:8443",
            "TROTH_SERVICE_HOST": "10.0.0.1",
            "TROTH_SERVICE_PORT_HTTPS": "8443",
            "TROTH_PORT_8443_TCP_ADDR": "10.0.0.1",
            "TROTH_MUTUAL_PORT_8444_TCP": "tcp://10.0.0.1:8444",
            "TROTHY": "x",
        }
    )
    assert config.unknown_variables == ()


@pytest.mark.parametrize(
    "listen",
    ["localhost", "localhost:", ":8443", "localhost:x", "localhost:70000", "::1:8443", "a b:1", ""],
)
def test_an_address_is_host_and_port(listen: str):
    assert "listen.public" in complaint(listen=listen)


def test_addresses_that_can_not_be_are_refused():
    assert "65535" in complaint(listen="localhost:65535")
    assert "differ" in complaint({"TROTH_LISTEN_MUTUAL": "localhost:8443"})


def test_secrets_are_not_repeated_in_complaints():
    detail = complaint({"TROTH_KEYSTORE_KEY_ENCRYPTION_KEY": "c0ffee" * 8})
    assert "c0ffee" not in detail
    assert "env:NAME" in detail
    detail = complaint(database="user:hunter2@host")
    assert "hunter2" not in detail


def test_files_that_anybody_may_write_or_nobody_can_read_are_refused(tmp_path: Path):
    path = write(tmp_path, "lease = 9")
    path.chmod(0o602)
    assert "chmod o-w" in complaint(config_file=path)
    assert "can't be read" in complaint(config_file=tmp_path / "nix.toml")
    assert "can't be read" in complaint(config_file=tmp_path)
    path.chmod(0o600)
    path.write_bytes(b"\xff\xfe")
    assert "UTF-8" in complaint(config_file=path)
    path.write_bytes(b"#" * (MAX_FILE + 1))
    assert "bytes" in complaint(config_file=path)


SECRET_URL = "postgresql://troth:hunter2@db/troth"


@pytest.mark.parametrize("url", [SECRET_URL, "postgresql://troth@db/troth?password=hunter2"])
def test_a_password_in_an_argument_is_refused(url: str):
    detail = complaint(database=url)
    assert "PGPASSFILE" in detail
    assert "hunter2" not in detail
    assert load({"TROTH_DATABASE_URL": url}).database == url


def test_a_password_in_a_file_that_others_can_read_is_refused(tmp_path: Path):
    path = write(tmp_path, f'[database]\nurl = "{SECRET_URL}"\n')
    assert load(config_file=path).database == SECRET_URL
    path.chmod(0o644)
    detail = complaint(config_file=path)
    assert "chmod o-r" in detail
    assert "hunter2" not in detail
    # What another source says is none of the file's business.
    assert load({"TROTH_DATABASE_URL": SECRET_URL}, config_file=path).database == SECRET_URL
    path.write_text('[database]\nurl = "postgresql://troth@db/troth"\n')
    assert load(config_file=path).database == "postgresql://troth@db/troth"


def vouch(tmp_path: Path, pem: bytes) -> dict[str, str]:
    path = tmp_path / "makers.pem"
    path.write_bytes(pem)
    path.chmod(0o644)
    return {"TROTH_X509POP_AUTHORITIES": str(path)}


def test_who_vouches_for_machines_is_read_at_the_start(tmp_path: Path):
    maker = Maker("Acme root")
    assert load().vouchers.authorities == ()
    found = load({**vouch(tmp_path, maker.pem), "TROTH_X509POP_NAME": "common_name"}).vouchers
    assert found.authorities == (maker.certificate,)
    assert found.by_common_name


def test_authorities_that_cant_be_used_stop_the_start(tmp_path: Path):
    for pem, reason in (
        (b"", "no PEM certificates"),
        (Maker("root").make("leaf").pem, "is no authority"),
        (b"x" * (MAX_FILE + 1), "more than"),
    ):
        told = complaint(vouch(tmp_path, pem))
        assert told.startswith("TROTH_X509POP_AUTHORITIES: x509pop.authorities: ")
        assert reason in told
    (tmp_path / "makers.pem").chmod(0o666)
    assert "anybody may write" in complaint(vouched(tmp_path))
    assert "absolute path" in complaint({"TROTH_X509POP_AUTHORITIES": "makers.pem"})
    assert "can't be read" in complaint({"TROTH_X509POP_AUTHORITIES": "/nowhere/makers.pem"})


def vouched(tmp_path: Path) -> dict[str, str]:
    return {"TROTH_X509POP_AUTHORITIES": str(tmp_path / "makers.pem")}
