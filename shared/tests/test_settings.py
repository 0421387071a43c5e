import pytest
from pydantic import ValidationError, model_validator

from shared.settings import SharedSettings, wrong_settings


class Settings(SharedSettings):
    """Of one service."""

    secret: int = 0

    @model_validator(mode="after")
    def _fits(self) -> "Settings":
        if self.secret == 13:
            raise ValueError("the settings do not fit each other")
        return self


def wrong(**fields: object) -> list[str]:
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate(fields)
    return list(wrong_settings(refused.value))


def test_each_wrong_setting_is_a_sentence_with_its_variable_and_without_its_value() -> None:
    sentences = wrong(secret="sesame", max_failures=0)
    assert len(sentences) == 2
    assert sentences[0] == "HEADRACE_MAX_FAILURES: Input should be greater than or equal to 1"
    assert sentences[1].startswith("HEADRACE_SECRET: Input should be a valid integer")
    assert "sesame" not in "".join(sentences)


def test_a_combination_that_does_not_fit_is_a_sentence_of_its_own() -> None:
    assert wrong(secret=13) == ["the settings do not fit each other"]
