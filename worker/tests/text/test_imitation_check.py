import pytest
from transformers import PreTrainedTokenizerFast

from worker.text.imitation_check import Imitated, refuse_imitations
from worker.text.prompt_rendering import PromptRenderer


def test_the_packaged_model_keeps_control_tokens_text(smollm2: PreTrainedTokenizerFast) -> None:
    refuse_imitations(PromptRenderer(smollm2, 256))


@pytest.mark.parametrize("field", ["marked", "ids"])
def test_rendering_that_lets_them_through_is_refused(smollm2: PreTrainedTokenizerFast, field: str) -> None:
    """As transformers below 5.21 does, whose templates ignore what is asked of them."""
    prompts = PromptRenderer(smollm2, 256)

    class Unmarked(type(prompts._control_tokens)):  # type: ignore[misc]  # a class found out
        def marked(self, value: object) -> object:
            return value

    prompts._control_tokens = Unmarked(smollm2)
    with pytest.raises(Imitated, match="im_"):
        refuse_imitations(prompts)
