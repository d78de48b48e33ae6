from hypothesis import given
from hypothesis import strategies as st

from troth.core.entropy import SeededEntropy, SystemEntropy, fraction


def test_the_system_gives_fresh_bytes_of_the_right_size():
    entropy = SystemEntropy()
    assert len(entropy.token(32)) == 32
    assert entropy.token(32) != entropy.token(32)


def test_a_seed_repeats_its_stream_and_no_other():
    first, second, other = SeededEntropy(7), SeededEntropy(7), SeededEntropy(8)
    stream = [first.token(16) for _ in range(4)]
    assert stream == [second.token(16) for _ in range(4)]
    assert stream[0] != other.token(16)
    assert len(set(stream)) == 4


@given(st.integers())
def test_a_fraction_is_at_least_zero_and_below_one(seed):
    assert 0 <= fraction(SeededEntropy(seed)) < 1


def test_the_largest_fraction_is_still_below_one():
    class Ones:
        def token(self, size: int) -> bytes:
            return b"\xff" * size

    assert fraction(Ones()) < 1
