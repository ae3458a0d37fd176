"""The older completions route's `echo`: a reply's deltas with the prompt before them, for scoring texts."""

from __future__ import annotations

from dataclasses import replace

from tessera.chat import Delta, Usage
from tessera.prompt import Prompt, Tokenizer


class EchoReader:
    """Puts the prompt's text and log-probabilities before a reply; with `prompt_only` nothing follows them.

    The engine always writes a token, which is left out then.
    """

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer, *, prompt_only: bool) -> None:
        self._text = tokenizer.decode(prompt.ids)
        self._prompt_only = prompt_only

    def read(self, delta: Delta) -> Delta:
        text, self._text = self._text, ""
        if not self._prompt_only:
            return replace(delta, text=text + delta.text, logprobs=delta.prompt_logprobs + delta.logprobs)
        usage = replace(delta.usage or Usage(), completion_tokens=0)
        reason = "length" if delta.finish_reason == "stop" else delta.finish_reason
        return replace(
            delta, text=text, logprobs=delta.prompt_logprobs, token_ids=(), finish_reason=reason, usage=usage
        )
