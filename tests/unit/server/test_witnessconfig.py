"""Witnesses and anchors in the configuration: what is wrong is told with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.witnesses import OtherLog, make_signer
from troth.core.errors import Invalid
from troth.server.config import Config, load_config

FIRST, SECOND = make_signer().public, make_signer("witness.example/w2", 8).public
KEY, POST, OTHER = FIRST[0].render(), FIRST[1].render(), SECOND[0].render()


def load(folder: Path, text: str = "", **environ: str) -> Config:
    (folder / "troth.toml").write_text(text)
    return load_config(data=folder, environ={"HOME": str(folder), **environ})


def entry(vkey: str = KEY, url: str = "https://w1.example", more: str = "") -> str:
    return f'[[witness.witnesses]]\nurl = "{url}"\nvkey = "{vkey}"\n{more}\n'


def test_by_default_there_is_nobody(tmp_path: Path) -> None:
    found = load(tmp_path).outsiders
    assert (found.witnesses, found.anchors) == ((), ())
    assert found.policy.quorum == 0
    assert found.timeout == 5


def test_witnesses_and_anchors_are_read(tmp_path: Path) -> None:
    text = (
        "[witness]\nquorum = 1\ntimeout = 3\n"
        + entry(f"{KEY} {POST}", more='ca = "/etc/ca.pem"')
        + entry(OTHER, "http://localhost:9/w2")
        + '[[anchors]]\ndriver = "file"\npath = "/mnt/anchor.txt"\nevery = 60\n'
        + '[[anchors]]\ndriver = "http"\nurl = "https://a.example/in"\n'
    )
    found = load(tmp_path, text).outsiders
    first, second = found.witnesses
    assert first.keys == FIRST
    assert first.where.authorities == Path("/etc/ca.pem")
    assert (second.name, second.where.authorities) == ("witness.example/w2", None)
    assert (found.policy.quorum, found.timeout) == (1, 3)
    assert found.policy.names == {"witness.example/w1", "witness.example/w2"}
    assert [(one.driver, one.target, one.every) for one in found.anchors] == [
        ("file", "/mnt/anchor.txt", 60),
        ("http", "https://a.example/in", 3600),
    ]


@pytest.mark.parametrize(("count", "quorum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_more_than_half_is_the_default(tmp_path: Path, count: int, quorum: int) -> None:
    keys = [make_signer(f"witness.example/w{n}", n).public[0].render() for n in range(count)]
    assert load(tmp_path, "".join(map(entry, keys))).outsiders.policy.quorum == quorum


def test_the_environment_may_name_them(tmp_path: Path) -> None:
    witnesses = f'[{{"url": "https://w1.example", "vkey": "{KEY}"}}]'
    found = load(tmp_path, TROTH_WITNESS_WITNESSES=witnesses, TROTH_WITNESS_QUORUM="1").outsiders
    assert found.witnesses[0].keys == FIRST[:1]
    anchors = '[{"driver": "file", "path": "/mnt/a"}]'
    assert load(tmp_path, TROTH_ANCHORS=anchors).outsiders.anchors[0].target == "/mnt/a"


LOG = OtherLog().key.render()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[witness]\nquorum = 1\n", "1 of 0 witnesses"),
        ("[witness]\nquorum = 2\n" + entry(), "2 of 1 witnesses"),
        ("[witness]\nquorum = 2\n" + entry(f"{KEY} {POST}"), "2 of 1 witnesses"),
        ("[witness]\nquorum = -1\n", "witness.quorum"),
        ("[witness]\ntimeout = 0\n", "witness.timeout"),
        ("[witness]\nwitneses = []\n", "did you mean witness.witnesses"),
        (entry() + entry(POST), "is there twice"),
        (entry() + entry(KEY.replace("/w1", "/w9")), "key id"),
        (entry(f"{KEY} {OTHER}"), "must have one name"),
        (entry("junk"), "is no verifier key"),
        (entry(KEY[:-4]), "witness.witnesses"),
        (entry(LOG), "one of a log"),
        (entry(url="http://w1.example"), "must be https"),
        (entry(url="w1.example"), "must be one such as"),
        (entry(more='ca = "ca.pem"'), "absolute path"),
        (entry(more='mood = "good"'), "witness.witnesses"),
        ('[[anchors]]\ndriver = "file"\n', "takes a path"),
        ('[[anchors]]\ndriver = "file"\npath = "a"\n', "must be absolute"),
        ('[[anchors]]\ndriver = "file"\npath = "/a"\nurl = "https://a.example"\n', "no url"),
        ('[[anchors]]\ndriver = "http"\npath = "/a"\n', "takes a url"),
        ('[[anchors]]\ndriver = "http"\nurl = "http://a.example"\n', "must be https"),
        ('[[anchors]]\ndriver = "file"\npath = "/a"\n' * 2, "number 2 is there twice"),
        ('[[anchors]]\ndriver = "paper"\npath = "/a"\n', "anchors"),
        ('[[anchors]]\ndriver = "file"\npath = "/a"\nevery = 0\n', "anchors"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(Invalid) as caught:
        load(tmp_path, text)
    assert told in caught.value.detail
    assert "troth.toml" in caught.value.detail or "default" in caught.value.detail


def test_one_public_key_under_two_names_is_refused(tmp_path: Path) -> None:
    from troth.audit.note import make_verifier_key

    alias: Any = make_verifier_key("witness.example/alias", FIRST[0].kind, FIRST[0].public)
    with pytest.raises(Invalid, match="same public key"):
        load(tmp_path, entry() + entry(alias.render()))


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hidden@w1.example",
        "https://hidden@w1.example/",
        "http://user:hidden@w1.example",
        "https://user:hidden@w1.example:99999",
        "user:hidden@w1.example",
        "https://w1.example/#hidden",
        "ftp://w1.example/?token=hidden",
    ],
)
def test_what_may_be_a_password_isnt_repeated(tmp_path: Path, url: str) -> None:
    anchor = f'[[anchors]]\ndriver = "http"\nurl = "{url}"\n'
    for text in (entry() + entry(OTHER, url), anchor):
        with pytest.raises(Invalid) as caught:
            load(tmp_path, text)
        assert "hidden" not in caught.value.detail
        assert f"number {2 if text != anchor else 1}:" in caught.value.detail
    with pytest.raises(Invalid) as caught:
        load(tmp_path, entry("junk", "https://w1.example/?token=hidden"))
    assert "hidden" not in caught.value.detail
