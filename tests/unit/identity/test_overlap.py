import pytest

from tests.fakes.identities import make_spec
from troth.identity.overlap import find_overlaps
from troth.identity.selectors import Selector

UID = Selector("unix:uid", "1")
UNIT = Selector("systemd:unit", "a.service")
ONE, TWO = Selector("unix:path", "/bin/one"), Selector("unix:path", "/bin/two")


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (((UID,), ("n",)), ((UID,), ("n",)), "asks for the same selectors as 'first'"),
        (((UID, ONE), ("n",)), ((TWO, UID), ("n",)), "shares unix:uid:1 with 'first'"),
        (((UID,), ("n",)), ((TWO, UID), ("n",)), "only the program tells them apart"),
        (((UID,), ("n",)), ((UID,), ("m", "n")), "same selectors"),
        (((UID,), ("*",)), ((UID,), ("n",)), "same selectors"),
        (((UID,), ("n",)), ((UID,), ("*",)), "same selectors"),
        (((UID,), ("n",)), ((UID,), ("m",)), None),
        (((UID, UNIT), ("n",)), ((UID,), ("n",)), None),
        (((ONE,), ("n",)), ((ONE,), ("n",)), None),  # weak by itself: told elsewhere
        (((), ("n",)), ((), ("n",)), None),
    ],
)
def test_sharing_a_boundary(first, second, words):
    found = find_overlaps(
        [
            make_spec("first", selectors=first[0], nodes=first[1]),
            make_spec("second", selectors=second[0], nodes=second[1]),
        ]
    )
    if words is None:
        assert found == []
    else:
        (overlap,) = found
        assert (overlap.name, overlap.other) == ("second", "first")
        assert words in overlap.words


def test_many_under_one_uid_are_told_once_each():
    found = find_overlaps(make_spec(f"n{i}", selectors=(UID,)) for i in range(2_000))
    assert len(found) == 1_999
    assert {overlap.other for overlap in found} == {"n0"}
