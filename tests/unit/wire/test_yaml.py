"""Bounded YAML: what is read, and that every bomb is refused early with its place."""

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from troth.core.errors import Invalid, TooLarge
from troth.wire import yaml
from troth.wire.yaml import load_documents

LOADERS = [pyyaml.SafeLoader, getattr(pyyaml, "CSafeLoader", pyyaml.SafeLoader)]


@pytest.fixture(params=LOADERS, ids=["python", "libyaml"])
def loader(request, monkeypatch):
    """Both parsers that PyYAML may be built with must behave alike."""
    monkeypatch.setattr(yaml, "_LOADER", request.param)


def read_one(text: str):
    documents = load_documents(text.encode(), "f.yaml")
    assert len(documents) == 1
    return documents[0].value


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-17", -17),
        ("0", 0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("true", True),
        ("false", False),
        ("'1'", "1"),
        ('"true"', "true"),
        ("''", ""),
        ("|-\n  1", "1"),
        # what YAML 1.1 takes for something else stays text
        ("no", "no"),
        ("on", "on"),
        ("True", "True"),
        ("012", "012"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2027-06-30", "2027-06-30"),
        ("2027-06-30T00:00:00Z", "2027-06-30T00:00:00Z"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("+1", "+1"),
        ("1.", "1."),
        ("=", "="),
        ("unix:uid:1001", "unix:uid:1001"),
    ],
)
def test_scalars_follow_json(text, value):
    got = read_one(f"a: {text}\n")["a"]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("text", ["a:", "a: ~", "a: null"])
def test_nothing_is_null(text):
    assert read_one(text) == {"a": None}


@pytest.mark.usefixtures("loader")
def test_keys_stay_text_and_json_is_yaml():
    assert read_one('{"a": [1, {"b": null}], "2": "x"}') == {"a": [1, {"b": None}], "2": "x"}
    assert read_one("1: x\ntrue: y\nnull: z\n<<: w") == {
        "1": "x",
        "true": "y",
        "null": "z",
        "<<": "w",
    }


@pytest.mark.usefixtures("loader")
def test_documents_and_places():
    text = "---\n# nothing\n---\na: 1\nb:\n  - x\n  - {c: d}\n---\n- e\n...\n"
    first, second = load_documents(text.encode(), "m.yaml")
    assert (first.source, first.line, second.line) == ("m.yaml", 4, 9)
    assert first.positions[("a",)] == (4, 1)
    assert first.positions[("b", 0)] == (6, 5)
    assert first.positions[("b", 1, "c")] == (7, 6)
    assert second.value == ["e"]
    assert second.positions[(0,)] == (9, 3)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"# only a comment", b"---\n---\n", b"\xef\xbb\xbf"]
)
def test_nothing_in_nothing_out(data):
    assert load_documents(data, "f.yaml") == []


def test_a_byte_order_mark_is_fine():
    assert load_documents(b"\xef\xbb\xbfa: 1", "f.yaml")[0].value == {"a": 1}


BILLION_LAUGHS = "a: &a [x, x]\n" + "\n".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]" for n in range(20)
)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        pytest.param(BILLION_LAUGHS, Invalid, "1:4: the anchor 'a' is not supp", id="laughs"),
        pytest.param("a: &x 1\n", Invalid, "1:4: the anchor", id="anchor"),
        pytest.param("a: *x\n", Invalid, "1:4: the alias 'x'", id="alias"),
        pytest.param("*x : 1\n", Invalid, "1:1: the alias 'x'", id="alias-key"),
        pytest.param("&x a: 1\n", Invalid, "1:1: the anchor 'x'", id="anchor-key"),
        pytest.param("&a [*a]", Invalid, "1:1: the anchor", id="recursive"),
        pytest.param("a: !!python/object/apply:os.system [x]", Invalid, "the tag", id="python"),
        pytest.param("a: !!str 1", Invalid, "1:4: the tag", id="tag"),
        pytest.param("a: !x 1", Invalid, "1:4: the tag '!x'", id="local-tag"),
        pytest.param("%TAG ! tag:x,2000:\n--- a", Invalid, "%TAG", id="tag-directive"),
        pytest.param("a: 1\nb: 2\na: 3", Invalid, "3:1: the key 'a' is there twice", id="twice"),
        pytest.param("{a: 1, 'a': 2}", Invalid, "first on line 1", id="twice-flow"),
        pytest.param("? [a]\n: b", Invalid, "1:3: a key must be", id="list-key"),
        pytest.param("[" * 500_000, TooLarge, "1:34: nested deeper than 32", id="deep-flow"),
        pytest.param("- " * 200_000, TooLarge, "1:67: nested deeper than 32", id="deep-block"),
        pytest.param("{a: " * 100_000, TooLarge, "nested deeper than 32", id="deep-mapping"),
        pytest.param("a: " + "x" * 70_000, TooLarge, "1:4: a text of over", id="scalar"),
        pytest.param("x" * 70_000 + ": 1", TooLarge, "1:1: a text of over", id="key"),
        pytest.param("--- a\n" * 1_001, TooLarge, "1001:1: over 1,000 documents", id="documents"),
        pytest.param("a: " + "9" * 5_000, Invalid, "too many digits", id="digits"),
        pytest.param("a: 1e999", Invalid, "1:4: the number is too large", id="infinite"),
        pytest.param("a: [1, 2", Invalid, "not YAML", id="open"),
        pytest.param("a: b: c", Invalid, "f.yaml:1:5: not YAML", id="colon"),
        pytest.param("\t- a", Invalid, "not YAML", id="tab"),
        pytest.param("a: \x00", Invalid, "control character", id="nul"),
        pytest.param("a: \x1b[2J", Invalid, "control character", id="escape"),
    ],
)
def test_bombs_and_mistakes_are_refused_at_their_place(text, kind, reason):
    with pytest.raises(kind) as caught:
        load_documents(text.encode(), "f.yaml")
    detail = caught.value.detail
    assert detail.startswith("f.yaml:")
    assert reason in detail
    assert len(detail) < 300
    assert detail.isprintable()


def test_a_stream_of_many_small_values_is_bounded():
    with pytest.raises(TooLarge, match="100,000 values"):
        load_documents(b"- a\n" * 150_000, "f.yaml")


@pytest.mark.parametrize("size", [(1 << 20) + 1, 2 << 20])
def test_more_than_a_mebibyte_is_not_even_parsed(size, monkeypatch):
    monkeypatch.setattr(pyyaml, "parse", None)
    with pytest.raises(TooLarge, match="1,048,576 bytes"):
        load_documents(b"#" * size, "f.yaml")


@pytest.mark.parametrize(
    "data",
    [b"a: 1\nb: \xff", "a: é".encode("latin-1"), "a: 1".encode("utf-16"), b"a: \xed\xa0\x80"],
)
def test_only_utf8(data):
    with pytest.raises(Invalid, match="is not UTF-8"):
        load_documents(data, "f.yaml")


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text("ab:#-{[ 1é", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abé", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(plain)
def test_what_another_writer_dumps_is_read_back(value):
    text = pyyaml.safe_dump({"v": value}, allow_unicode=True, sort_keys=False)
    if "&id" not in text:
        assert read_one(text) == {"v": value}


@given(st.binary(max_size=200))
def test_any_bytes_give_documents_or_a_sentence(data):
    try:
        detail = repr(load_documents(data, "f.yaml"))
    except (Invalid, TooLarge) as error:
        detail = error.detail
    assert "f.yaml" in detail or detail == "[]"
