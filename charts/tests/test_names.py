"""Names: short ones as ever, long ones cut so that two stay two, and what is too long is named."""

import pytest
from helm_python import HelmRenderError

from charts.tests.cases import QWEN
from charts.tests.rendering import Json, Render, render_chart

SMALL: Json = {"models": {"m": QWEN}}
LONGEST = 53
"""Characters that Helm allows in a release's name."""


def names(release: str, values: Json = SMALL) -> set[str]:
    """Of all objects."""
    return {item["metadata"]["name"] for item in render_chart(values, release=release).all}


@pytest.mark.parametrize("release", ["headrace", "prod", "headrace-" + "x" * 34, "x" * 34])
def test_a_name_of_up_to_43_characters_is_the_releases_and_the_charts(release: str) -> None:
    begin = release if "headrace" in release else f"{release}-headrace"
    assert len(begin) <= 43
    assert all(name.startswith(f"{begin}-") for name in names(release))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("headrace-" + "x" * 43 + "1", "headrace-" + "x" * 43 + "2"),
        ("headrace-" + "x" * 34 + "1", "headrace-" + "x" * 34 + "2"),
        ("x" * 35, "x" * 36),
        ("headrace-" + "x" * 26 + "-" + "y" * 10, "headrace-" + "x" * 26 + "-" + "z" * 10),
    ],
)
def test_two_long_releases_share_no_name(one: str, other: str) -> None:
    assert not names(one) & names(other)
    assert names(one) == names(one)


def test_the_longest_release_fits_into_every_label_and_service() -> None:
    for name in names("headrace-" + "x" * (LONGEST - 9)):
        assert len(name) <= 63
        assert "--" not in name


def test_a_fullname_override_is_cut_in_the_same_way() -> None:
    first, second = ({**SMALL, "fullnameOverride": "y" * 50 + end} for end in "12")
    assert not names("headrace", first) & names("headrace", second)
    assert f"{'y' * 43}-api" in names("headrace", {**SMALL, "fullnameOverride": "y" * 43})


@pytest.mark.parametrize(
    ("release", "values", "sentences"),
    [
        # The default model alone has 21 characters.
        ("x" * 30, {}, [f'"{"x" * 30}-headrace" (39 characters: the release\'s name)', "at most 34 characters"]),
        ("headrace", {"models": {"m" * 50: QWEN}}, ["allows 63", "at most 5 characters"]),
        ("headrace", {"models": {"m" * 60: QWEN}}, ["allows 63", "Choose a shorter name of the model."]),
        (
            "r",
            {**SMALL, "models": {"m" * 30: QWEN}, "fullnameOverride": "f" * 40},
            ["40 characters: the fullnameOverr"],
        ),
        (
            "headrace",
            {"autoscaling": {"provider": "keda"}, "models": {"m" * 40: {**QWEN, "scaling": {"max": 2}}}},
            ["room for 54", "at most 6 characters"],
        ),
    ],
)
def test_a_name_that_is_too_long_is_refused_with_its_parts(release: str, values: Json, sentences: list[str]) -> None:
    with pytest.raises(HelmRenderError) as refusal:
        render_chart(values, release=release)
    for sentence in sentences:
        assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("Qwen2.5", "qwen2-5"),
        ("qwen2.5-14b", "qwen2-5-14b"),
        ("my_model", "my-model"),
        ("7b", "b"),
        ("a-", "a"),
        ("1.5", "qwen2-5-14b"),
    ],
)
def test_a_models_name_that_is_no_label_is_refused_in_a_sentence(render: Render, name: str, better: str) -> None:
    with pytest.raises(HelmRenderError) as refusal:
        render({"models": {name: QWEN}})
    assert f'a model cannot be called "{name}"' in str(refusal.value)
    assert f"Call it {better};" in str(refusal.value)


def test_a_dot_that_set_has_split_is_recognised(render: Render) -> None:
    with pytest.raises(HelmRenderError, match="call it qwen2-5"):
        render({"models": {"qwen2": {"5": QWEN}}})
