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


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3#cr3t@redis.example.com:6379/0",
        "redis://:s3/cr3t@redis.example.com:6379/0",
        "redis://:s3?cr3t@redis.example.com:6379/0",
        "redis://:12#cr3t@redis.example.com:6379/0",  # a port, to those who look no further
        "redis://s3cr3t:12/x@redis.example.com:6379/0",
        "redis://:x@s3cr3t#z@redis.example.com:6379/0",
        "redis://:#s3cr3t@redis.example.com:6379/0",
        "redis://:[s3cr3t@redis.example.com:6379/0",
        "sentinel://:s3#cr3t@a:26379;sentinel://:s3#cr3t@b:26379/0",
        "http://s3cr3t@redis.example.com",
    ],
)
def test_a_url_of_redis_whose_password_can_be_taken_for_its_address_is_refused_without_it(url: str) -> None:
    (sentence,) = wrong(redis_url=url)
    assert sentence.startswith("HEADRACE_REDIS_URL: ")
    assert "percent-encoded" in sentence or "must begin with redis://" in sentence
    for part in ("s3", "cr3t", "12", "x@", "z@"):
        assert part not in sentence.removesuffix(" (%23 %2F %3F %40 %3A %25)").replace("# / ? @ : and %", "")


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://:p%23%2F%40@redis.example.com:6379/0",
        "redis://user:p@ss@[::1]:6379/3",
        "rediss://:pw@r:6380/0?ssl_cert_reqs=required&ssl_ca_certs=/etc/headrace/redis-ca/ca.crt",
        "sentinel://:pw@a:26379;sentinel://:pw@b:26379/0",
    ],
)
def test_a_url_of_redis_that_can_be_read_is_taken(url: str) -> None:
    assert Settings.model_validate({"redis_url": url}).redis_url.get_secret_value() == url


def test_a_combination_that_does_not_fit_is_a_sentence_of_its_own() -> None:
    assert wrong(secret=13) == ["the settings do not fit each other"]
