import pytest
from jsonschema_rs import Draft202012Validator, FancyRegexOptions

from shared.json_schema.ecma_patterns import MAX_PATTERN, InvalidPattern, rust_pattern


def found(pattern: str, text: str) -> bool:
    """Whether the rewritten pattern is found in the text, by the engine that judges documents."""
    schema = {"pattern": rust_pattern(pattern)}
    return Draft202012Validator(schema, pattern_options=FancyRegexOptions(), offline=True).is_valid(text)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (r"^\p{L}+$", "Größe", "a1"),
        (r"^\p{Script=Greek}$", "λ", "l"),
        (r"^(?<y>\d{4})-(?<m>\d\d)$", "2026-11", "26-11"),
        (r"^[^]$", "\n", ""),
        (r"^a[]?$", "a", "ab"),
        (r"^\u{1F600}$", "😀", "😁"),
        (r"^\ud83d\ude00$", "😀", "😁"),
        (r"^[\ud83d\ude00-\ud83d\ude4f]$", "😁", "a"),
        (r"^\u00e9\xe9$", "éé", "ee"),
        (r"^a\cJb$", "a\nb", "aJb"),
        (r"^\0$", "\0", "0"),
        (r"^[\b]$", "\b", "b"),
        (r"^\/\-\_\@\ $", "/-_@ ", "/-_@"),
        (r"^[\w-.]+$", "a-.b", "a b"),
        (r"^[a-\d]+$", "a-1", "b"),
        (r"^[-a]+$", "-a", "b"),
        (r"^[+--]+$", "+,-", "."),
        (r"^[[:alpha:]]$", "a]", "a"),
        (r"^[a&&b]+$", "a&b", "c"),
        (r"^[^^]$", "a", "^"),
        (r"^\$\{[^}]+\}$", "${x}", "${}"),
        (r"^a{,3}$", "a{,3}", "aa"),
        (r"^x{2,}{$", "xx{", "x{"),
        (r"^]}$", "]}", "]"),
        (r"^(?=.*\d)(?!0).+$", "a1", "01"),
        (r"^(a|b)\1$", "aa", "ab"),
        (r"^\Aab\Z$", "ab", "abc"),
        (r"\bword\b", "a word.", "swords"),
    ],
)
def test_a_pattern_means_what_ecma_262_says(pattern: str, matching: str, other: str) -> None:
    assert found(pattern, matching)
    assert not found(pattern, other)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"\ud83d", "half a surrogate pair"),
        (r"[\ude00]", "half a surrogate pair"),
        (r"\u{110000}", "beyond Unicode"),
        ("[a-z", "class at character 0 is not closed"),
        ("a\\", "ends with a backslash"),
        ("a" * (MAX_PATTERN + 1), "more than"),
    ],
)
def test_what_stands_for_no_character_has_a_reason(pattern: str, reason: str) -> None:
    with pytest.raises(InvalidPattern, match=reason):
        rust_pattern(pattern)
