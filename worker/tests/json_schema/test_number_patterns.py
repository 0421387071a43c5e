import random
import re
from collections.abc import Iterator
from decimal import Decimal

import pytest

from worker.json_schema.number_patterns import Bound, integer_pattern, multiple_pattern, number_patterns

BOUNDS = ["0", "1", "-1", "100", "0.5", "-0.5", "99.95", "1E-7", "1E+20", str(2**53), str(-(2**63)), "-7.25", "3.14"]


def matched(patterns: list[str], text: str) -> bool:
    return bool(patterns) and all(re.fullmatch(pattern, text) for pattern in patterns)


def texts(draw: random.Random) -> Iterator[str]:
    """Numbers as models write them, and near the bounds."""
    for _ in range(20):
        yield str(draw.randint(-300, 300))
        yield f"{draw.uniform(-200, 200):.{draw.randint(1, 6)}f}"
        yield f"{draw.uniform(-10, 10):.{draw.randint(0, 5)}e}"
        yield repr(draw.uniform(-1, 1) * 10.0 ** draw.randint(-20, 20))
    for bound in BOUNDS:
        yield f"{Decimal(bound):f}"
    yield from ("0", "0.0", "1e0", "1E5", "1e+05", "5e-324", "10.50", "100.00", "-0.5000", "1e-7")


@pytest.mark.parametrize("seed", range(40))
def test_the_pattern_of_a_range_matches_the_numbers_in_it(seed: int) -> None:
    draw = random.Random(seed)
    low, high = (
        Bound(Decimal(draw.choice(BOUNDS)), draw.random() < 0.4) if draw.random() < 0.7 else None for _ in range(2)
    )
    patterns = number_patterns(low, high)
    for text in texts(draw):
        value = Decimal(text)
        above = low is None or value > low.value or (value == low.value and not low.exclusive)
        below = high is None or value < high.value or (value == high.value and not high.exclusive)
        assert matched(patterns, text) == (above and below), (text, low, high)


@pytest.mark.parametrize("seed", range(40))
def test_the_pattern_of_whole_numbers_matches_those_in_the_range(seed: int) -> None:
    draw = random.Random(seed)
    low, high = (draw.choice([None, 0, draw.randint(-2000, 2000), draw.randint(-(10**25), 10**25)]) for _ in range(2))
    pattern = integer_pattern(low, high)
    near = [bound + step for bound in (low, high, 0) if bound is not None for step in (-11, -1, 0, 1, 11)]
    for value in [*near, *(draw.randint(-3000, 3000) for _ in range(200)), 10**30, -(10**30)]:
        inside = (low is None or value >= low) and (high is None or value <= high)
        assert bool(pattern and re.fullmatch(pattern, str(value))) == inside, (value, low, high)


@pytest.mark.parametrize(
    "text", ["1234567890123456789", "1.6e-19", "6.022e23", "-2.5E+10", "1.7976931348623157e308", "5e-324", "9" * 80]
)
def test_a_number_without_bounds_is_written_as_it_is_meant(text: str) -> None:
    assert matched(number_patterns(None, None), text)
    assert matched(number_patterns(Bound(Decimal(0), exclusive=True), None), text) == (text[0] != "-")


@pytest.mark.parametrize("text", ["1e999", "1.8e308", "01", "1.", ".5", "+1", "9" * 81, "0." + "3" * 41, "1e", "NaN"])
def test_no_number_is_infinite_or_endless_or_no_json(text: str) -> None:
    assert not matched(number_patterns(None, None), text)


@pytest.mark.parametrize(
    ("divisor", "multiples", "others"),
    [
        ("0.01", ["19.99", "-0.5", "7", "19.990", "0"], ["19.999", "1e-2"]),
        ("1", ["19", "19.0"], ["19.5"]),
        ("10", ["0", "120", "-30"], ["5", "101"]),
        ("1E+12", ["3000000000000"], ["300000000000"]),
    ],
)
def test_multiples_of_powers_of_ten_show_in_their_digits(divisor: str, multiples: list[str], others: list[str]) -> None:
    pattern = multiple_pattern(Decimal(divisor))
    assert pattern is not None
    assert [text for text in [*multiples, *others] if re.fullmatch(pattern, text)] == multiples


def test_multiples_of_other_numbers_do_not() -> None:
    assert multiple_pattern(Decimal(3)) is None
