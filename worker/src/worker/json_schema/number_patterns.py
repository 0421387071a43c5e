"""The numbers between two bounds as a regular expression over their text.

A model writes the number it means: whole numbers of up to 80 digits, fractions of up to 40, exponents. Without such
limits it could write digits until its tokens run out. A value never overflows a double. Where a bound other than zero
is set, exponents follow one digit before the point, as in 1.6e-19.
"""

from dataclasses import dataclass
from decimal import Decimal

MAX_DIGITS = 80
"""Of the whole part; a 256-bit number has 78."""
MAX_FRACTION = 40
MAX_EXPONENT, MIN_EXPONENT = 307, -324
"""Every number with one digit before the point is finite with the one, and next to nothing with the other."""

_FRACTION = rf"(\.[0-9]{{1,{MAX_FRACTION}}})?"
_WHOLE = rf"(0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}})"
_SHORT_EXPONENT = "[eE][+-]?[0-9]{1,2}"
_LONG_EXPONENT = r"[eE](\+?([12][0-9]{2}|30[0-7])|-([12][0-9]{2}|3[01][0-9]|32[0-4]))"
_LARGEST = rf"1(\.([0-6][0-9]{{0,{MAX_FRACTION - 1}}}|7976931348623157))?[eE]\+?308"
_ANY = rf"({_WHOLE}{_FRACTION}({_SHORT_EXPONENT})?|[0-9]{_FRACTION}{_LONG_EXPONENT}|{_LARGEST})"
"""Any number without a sign."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range."""

    value: Decimal
    exclusive: bool = False


def integer_pattern(low: int | None, high: int | None) -> str | None:
    """The whole numbers from `low` to `high`, both included; None when there are none."""
    if low is None and high is None:
        return f"-?{_WHOLE}"
    if low is not None and high is not None and low > high:
        return None
    parts = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        parts.append("-" + _whole_numbers(least, None if low is None else -low))
    if high is None or high >= 0:
        parts.append(_whole_numbers(max(0, low or 0), high))
    return _either(parts)


def number_patterns(low: Bound | None, high: Bound | None) -> list[str]:
    """Patterns that a number must match, all of them, to be in the range; empty when no number is."""
    if low is not None and high is not None and _excluded(low, high):
        return []
    patterns = []
    if low is not None:
        patterns.append(_at_least(low, ""))
    if high is not None:
        # What is at most 5 is at least -5 with the sign turned.
        patterns.append(_at_least(Bound(high.value.copy_negate(), high.exclusive), "-"))
    return patterns or [f"-?{_ANY}"]


def _excluded(low: Bound, high: Bound) -> bool:
    """Whether no number is between them."""
    return low.value > high.value or (low.value == high.value and (low.exclusive or high.exclusive))


def multiple_pattern(divisor: Decimal) -> str | None:
    """The multiples of 0.01, 10 and the like; None where the last digits alone do not tell."""
    _, digits, exponent = divisor.normalize().as_tuple()
    if digits != (1,) or not isinstance(exponent, int) or not -MAX_FRACTION < exponent < MAX_DIGITS:
        return None
    if exponent < 0:
        return rf"-?{_WHOLE}(\.[0-9]{{1,{-exponent}}}0{{0,9}})?"
    return rf"-?(0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}}0{{{exponent}}})(\.0{{1,9}})?"


def _at_least(bound: Bound, turned: str) -> str:
    """Numbers of at least `bound`; with `turned` "-", the same with the sign turned."""
    same, other = turned, "" if turned else "-"
    value = bound.value
    if value > 0:
        return same + _magnitudes_from(bound)
    if value == 0:
        zero = "" if bound.exclusive else rf"|-?0(\.0{{1,{MAX_FRACTION}}})?"
        return f"({same}{_positive()}{zero})"
    return f"({same}{_ANY}|-?0|{other}{_magnitudes_to(Bound(value.copy_negate(), bound.exclusive))})"


def _positive() -> str:
    """Numbers above zero without a sign: one of their digits is not zero."""
    below_one = rf"0\.0{{0,{MAX_FRACTION - 1}}}[1-9][0-9]{{0,{MAX_FRACTION}}}"
    from_one = rf"[1-9][0-9]{{0,{MAX_DIGITS - 1}}}{_FRACTION}"
    return rf"(({below_one}|{from_one})({_SHORT_EXPONENT})?|[1-9]{_FRACTION}{_LONG_EXPONENT}|{_LARGEST})"


def _magnitudes_from(bound: Bound) -> str:
    """Numbers without a sign of at least `bound`, which is above zero."""
    whole, fraction = _split(bound.value)
    plain = _either(
        [_whole_numbers(whole + 1, None) + _FRACTION, *_fractions_from(str(whole), fraction, bound.exclusive)]
    )
    decade = bound.value.adjusted()
    digit, rest = _split(_mantissa(bound.value))
    mantissas = _fractions_from(str(digit), rest, bound.exclusive)
    if digit < 9:
        mantissas.append(f"[{digit + 1}-9]{_FRACTION}")
    scientific = [
        f"{mantissa}[eE]{exponent}" for mantissa in mantissas if (exponent := _exponents(decade, decade)) is not None
    ]
    if above := _exponents(decade + 1, MAX_EXPONENT):
        scientific.append(f"[1-9]{_FRACTION}[eE]{above}")
    return _either([plain, *scientific])


def _magnitudes_to(bound: Bound) -> str:
    """Numbers without a sign of at most `bound`, which is above zero."""
    whole, fraction = _split(bound.value)
    plain = _fractions_to(str(whole), fraction, bound.exclusive)
    if whole > 0:
        plain.append(_whole_numbers(0, whole - 1) + _FRACTION)
    decade = bound.value.adjusted()
    digit, rest = _split(_mantissa(bound.value))
    mantissas = _fractions_to(str(digit), rest, bound.exclusive)
    if digit > 1:
        mantissas.append(f"[1-{digit - 1}]{_FRACTION}")
    scientific = [
        f"{mantissa}[eE]{exponent}" for mantissa in mantissas if (exponent := _exponents(decade, decade)) is not None
    ]
    if below := _exponents(MIN_EXPONENT, decade - 1):
        scientific.append(f"[1-9]{_FRACTION}[eE]{below}")
    return _either([*plain, *scientific])


def _mantissa(value: Decimal) -> Decimal:
    """The value with one digit before the point; unlike `scaleb` with all its digits."""
    _, digits, _ = value.as_tuple()
    return Decimal((0, digits, 1 - len(digits)))


def _split(value: Decimal) -> tuple[int, str]:
    """The whole part and the digits behind the point, without zeros at their end."""
    whole, _, fraction = f"{value:f}".partition(".")
    return int(whole), fraction.rstrip("0")


def _fractions_from(whole: str, fraction: str, exclusive: bool) -> list[str]:
    """Numbers with this whole part and a fraction of at least `fraction`."""
    behind = MAX_FRACTION - len(fraction)
    if not fraction:
        if not exclusive:
            return [whole + _FRACTION]
        return [rf"{whole}\.0{{0,{MAX_FRACTION - 1}}}[1-9][0-9]{{0,{MAX_FRACTION}}}"]
    parts = []
    for at, digit in enumerate(fraction):
        if digit < "9":
            parts.append(f"{fraction[:at]}[{int(digit) + 1}-9][0-9]{{0,{MAX_FRACTION}}}")
    if exclusive:
        parts.append(rf"{fraction}0{{0,{MAX_FRACTION}}}[1-9][0-9]{{0,{MAX_FRACTION}}}")
    else:
        parts.append(f"{fraction}[0-9]{{0,{max(behind, 0)}}}")
    return [rf"{whole}\.{_either(parts)}"]


def _fractions_to(whole: str, fraction: str, exclusive: bool) -> list[str]:
    """Numbers with this whole part and a fraction of at most `fraction`."""
    if not fraction:
        return [] if exclusive else [rf"{whole}(\.0{{1,{MAX_FRACTION}}})?"]
    parts = []
    for at, digit in enumerate(fraction):
        if at:
            parts.append(fraction[:at])
        if digit > "0":
            parts.append(f"{fraction[:at]}[0-{int(digit) - 1}][0-9]{{0,{MAX_FRACTION}}}")
    if not exclusive:
        parts.append(f"{fraction}0{{0,{MAX_FRACTION}}}")
    return [rf"{whole}(\.{_either(parts)})?"]


def _exponents(low: int, high: int) -> str | None:
    """Exponents from `low` to `high` with their sign; a zero before one digit, as in e-05, is fine."""
    low, high = max(low, MIN_EXPONENT), min(high, MAX_EXPONENT)
    if low > high:
        return None
    parts = []
    if low < 0:
        parts.append(f"-0?{_whole_numbers(max(1, -high), -low)}")
    if low <= 0 <= high:
        parts.append("[+-]?00?")
    if high > 0:
        parts.append(rf"\+?0?{_whole_numbers(max(1, low), high)}")
    return _either(parts)


def _whole_numbers(low: int, high: int | None) -> str:
    """Whole numbers without a sign, from `low` on, which is not below zero, to `high`."""
    first = str(low)
    if high is None:
        longer = f"[1-9][0-9]{{{len(first)},{max(MAX_DIGITS, len(first) + 1) - 1}}}"
        return _either([_same_length(first, "9" * len(first)), longer])
    last = str(high)
    if len(first) == len(last):
        return _same_length(first, last)
    parts = [_same_length(first, "9" * len(first))]
    if len(last) - len(first) > 1:
        parts.append(f"[1-9][0-9]{{{len(first)},{len(last) - 2}}}")
    parts.append(_same_length("1" + "0" * (len(last) - 1), last))
    return _either(parts)


def _same_length(first: str, last: str) -> str:
    """Texts of digits from `first` to `last`, which are equally long."""
    if not first:
        return ""
    if first == last:
        return first
    count = len(first)
    zeros, nines = "0" * (count - 1), "9" * (count - 1)
    low, high = int(first[0]), int(last[0])
    if low == high:
        return first[0] + _same_length(first[1:], last[1:])
    parts = []
    if first[1:] != zeros:
        parts.append(first[0] + _same_length(first[1:], nines))
        low += 1
    if last[1:] != nines:
        parts.append(last[0] + _same_length(zeros, last[1:]))
        high -= 1
    if low <= high:
        rest = f"[0-9]{{{count - 1}}}" if count > 1 else ""
        parts.append((f"[{low}-{high}]" if low < high else str(low)) + rest)
    return _either(parts)


def _either(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({'|'.join(parts)})"
