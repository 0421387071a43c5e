"""docs/openai.md names every field that OpenAI's own client can send."""

import re
from pathlib import Path
from typing import get_type_hints

from openai.types.chat.completion_create_params import CompletionCreateParamsBase

PAGE = (Path(__file__).parents[3] / "docs" / "openai.md").read_text()


def test_every_field_of_a_chat_completion_is_supported_refused_or_ignored() -> None:
    chat = PAGE[PAGE.index("## Chat completions") : PAGE.index("## Messages")]
    named = set(re.findall(r"`(\w+)[`:]", chat))
    known = set(get_type_hints(CompletionCreateParamsBase)) | {"stream"}
    assert known - named == set()
