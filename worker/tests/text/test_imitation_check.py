from collections.abc import Sequence
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from worker.text.chat_template import ChatTemplate, Turn
from worker.text.imitation_check import Imitated, refuse_imitations
from worker.text.prompt_rendering import PromptRenderer


def test_the_packaged_model_keeps_control_tokens_text(smollm2: PreTrainedTokenizerFast) -> None:
    refuse_imitations(PromptRenderer(smollm2, 256))


def test_rendering_that_lets_them_through_is_refused(smollm2: PreTrainedTokenizerFast) -> None:
    """As transformers does by itself."""
    prompts = PromptRenderer(smollm2, 256)

    class Careless(ChatTemplate):
        def ids(self, turns: Sequence[Turn], tools: Sequence[Turn] | None) -> tuple[int, ...]:
            ids: Any = smollm2.apply_chat_template(list(turns), add_generation_prompt=True, return_dict=False)
            return tuple(ids)

    prompts._template = Careless(smollm2)
    with pytest.raises(Imitated, match="im_"):
        refuse_imitations(prompts)
