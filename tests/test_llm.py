"""LLM over a tiny random model with the real tokenizer: conversations in, replies out."""

from __future__ import annotations

import dataclasses
import gc
import json
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import jsonschema
import pytest
from PIL import Image as PILImage

import tessera
from tessera.chat import ChatModel
from tessera.errors import EngineDeadError, ImageError, PromptTooLongError, UsageError
from tessera.llm import LLM
from tessera.load import BUNDLED_FOLDER
from tessera.model.pixtral import Pixtral
from tessera.prompt import Tokenizer, packaged_tokenizer_path
from tessera.quantize.plan import Options
from tessera.quantize.run import quantize
from tessera.quantize.vision import ROUNDING
from tessera.sampling import Grammar, SamplingParams
from tests.engine.tiny import CONFIG, VISION, tiny_model

SHORT = SamplingParams(max_tokens=8, ignore_eos=True)


@cache
def model() -> Pixtral:
    return tiny_model(dataclasses.replace(CONFIG, vocab_size=131072))


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(packaged_tokenizer_path(), VISION)


def make(**options: object) -> LLM:
    return LLM.from_parts(model(), tokenizer(), name="tiny", **options)


@pytest.fixture
def llm() -> Iterator[LLM]:
    with make() as llm:
        yield llm


def ask(text: str, *images: object) -> list[dict[str, object]]:
    parts = [{"type": "image_url", "image_url": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def red(width: int = 12, height: int = 8) -> PILImage.Image:
    return PILImage.new("RGB", (width, height), "red")


def until(condition: object) -> bool:
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.005)
    return bool(condition())  # type: ignore[operator]


def test_chat_is_the_stream_joined(llm: LLM) -> None:
    model: ChatModel = llm
    whole = model.chat(ask("what is this?", red()), SHORT)
    deltas = list(model.stream(ask("what is this?", red()), SHORT))
    assert whole.text == "".join(delta.text for delta in deltas) == str(whole)
    assert [delta.finish_reason for delta in deltas] == [None] * 7 + ["length"]
    assert (whole.model, whole.usage.image_tokens, whole.usage.completion_tokens) == ("tiny", 2 * (3 + 1), 8)
    assert whole.usage.prompt_tokens > 8


def test_special_tokens_are_never_written(llm: LLM) -> None:
    params = SamplingParams(max_tokens=60, temperature=10.0, seed=1)
    written = set(llm.chat(ask("hello"), params).token_ids)
    assert not written & tokenizer().prompt_only_ids
    assert {tokenizer().eos_id, 9}.isdisjoint(tokenizer().prompt_only_ids)


def test_a_batch_gives_each_conversations_reply_in_order_however_small_the_queue() -> None:
    conversations = [ask(f"question {index}", red(4 + index, 8)) for index in range(7)]
    params = [dataclasses.replace(SHORT, max_tokens=1 + index) for index in range(7)]
    with make(max_num_seqs=2, max_queued_requests=1, max_pixel_bytes=5000) as llm:
        replies = llm.batch(conversations, params)
        assert [reply.text for reply in replies] == [
            llm.chat(conversation, each).text for conversation, each in zip(conversations, params, strict=True)
        ]
        assert [reply.usage.completion_tokens for reply in replies] == [1, 2, 3, 4, 5, 6, 7]
        with pytest.raises(UsageError, match="7 conversations came with 2 parameters"):
            llm.batch(conversations, params[:2])


def test_an_error_in_a_batch_names_the_conversation_and_ends_the_others(llm: LLM) -> None:
    endless = SamplingParams(ignore_eos=True)
    with pytest.raises(PromptTooLongError, match=r"conversation 1: the text has more than 1,024 tokens"):
        llm.batch([ask("fine"), ask("far too long " * 400)], endless)
    assert until(lambda: llm.stats().blocks.used == 0)


def test_a_stream_may_be_left_midway(llm: LLM) -> None:
    for _ in llm.stream(ask("tell me", red()), SamplingParams(ignore_eos=True)):
        break
    assert until(lambda: llm.stats().finished == {"abort": 1})
    assert llm.stats().blocks.used == 0


def test_a_conversation_goes_on_after_an_empty_answer(llm: LLM) -> None:
    """As `tessera chat` keeps it, whose turns are these."""
    turns = [*ask("A", red()), {"role": "assistant", "content": ""}, {"role": "user", "content": "B"}]
    joined = ask("A\n\nB", red())
    assert llm.chat(turns, SHORT).token_ids == llm.chat(joined, SHORT).token_ids


def test_wrong_input_is_refused_in_one_sentence() -> None:
    with pytest.raises(UsageError, match="'max_seqs' is unknown; the nearest known one is 'max_num_seqs'"):
        make(max_seqs=3)
    with make(max_images_per_prompt=1) as llm:
        with pytest.raises(UsageError, match=r"2 images .* max_images_per_prompt=1"):
            llm.chat(ask("?", red(), red()))
        with pytest.raises(UsageError, match=r"messages\.0\.role must be one of .*, not 'robot'"):
            llm.chat([{"role": "robot", "content": "hi"}])
        with pytest.raises(ImageError):
            llm.chat(ask("?", b"this is no image"))
        assert llm.chat(ask("still alive"), SHORT).finish_reason == "length"


def test_a_closed_llm_says_so() -> None:
    llm = make()
    llm.close()
    llm.close()
    with pytest.raises(EngineDeadError, match="closed"):
        llm.chat(ask("hello"))


def test_a_forgotten_llm_ends_its_thread() -> None:
    llm = make()
    thread = llm._loop._thread
    assert thread in threading.enumerate()
    del llm
    gc.collect()
    assert until(lambda: not thread.is_alive())


def test_a_schema_holds_over_the_whole_vocabulary(llm: LLM) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "price": {"type": "integer", "maximum": 999}},
        "required": ["name", "price"],
        "additionalProperties": False,
    }
    for seed in range(2):
        params = SamplingParams(grammar=Grammar("json_schema", json.dumps(schema)), temperature=1.0, seed=seed)
        made = llm.chat(ask("name and price?", red()), params)
        assert made.finish_reason == "stop"
        jsonschema.validate(json.loads(made.text), schema)


def test_one_question_is_one_line(llm: LLM) -> None:
    assert llm.ask("what is this?", red(), params=SHORT) == dataclasses.replace(
        llm.chat(ask("what is this?", red()), SHORT), timings=ANY, usage=ANY
    )
    assert llm.ask("which is red?", red(), red(4, 4), params=SHORT).usage.image_tokens == 2 * (3 + 1) + 1 * (1 + 1)
    with pytest.raises(UsageError, match="question must be a non-empty string, not '  '"):
        llm.ask("  ")


def test_an_llm_says_what_it_is(llm: LLM) -> None:
    assert repr(llm) == f"LLM('tiny', float32 on cpu, {llm.config.max_model_len:,} tokens of context)"
    assert {"LLM", "SamplingParams", "Grammar"} <= set(dir(tessera))
    assert "import_module" not in dir(tessera)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("hi", "a conversation is a list of messages, not 'hi'; .* use `ask` for one question"),
        ({"role": "user", "content": "hi"}, "a conversation is a list of messages"),
        ([{"role": "user"}], r"messages\.0\.content is missing"),
        ([{"role": "system", "content": None}, {"role": "user", "content": "hi"}], r"messages\.0\.content is missing"),
    ],
)
def test_what_is_no_conversation_is_refused_in_words(llm: LLM, messages: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        llm.chat(messages, SHORT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"topp": 1}, "sampling parameter 'topp' is unknown; the nearest known one is 'top_p'"),
        ({"max_token": 1}, "nearest known one is 'max_tokens'"),
        ({"stop": 5}, "stop must be a tuple of non-empty strings, not 5"),
        ({"stop": "a"}, "stop must be a tuple of non-empty strings, not 'a'"),
        ({"stop_token_ids": 5}, "stop_token_ids must be a tuple of token ids, not 5"),
        ({"stop_token_ids": ("a",)}, "stop_token_ids must be a tuple of token ids"),
    ],
)
def test_sampling_params_are_refused_at_once(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SamplingParams(**values)


def test_loading_can_be_watched() -> None:
    seen: list[tuple[int, int]] = []
    with LLM("nano", progress=lambda name, done, total: seen.append((done, total))):
        pass
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_loading_and_rounding_are_watched_to_their_ends(tmp_path: Path) -> None:
    """Quantized linears count as well: packing another program's codes takes minutes at true sizes."""
    quantize(BUNDLED_FOLDER, tmp_path / "q", Options("4"))
    seen: list[tuple[str, int, int]] = []
    with LLM(tmp_path / "q", vision_bits="8", progress=lambda *told: seen.append(told)):
        pass
    loading = [(done, total) for name, done, total in seen if not name.startswith(ROUNDING)]
    rounding = [(done, total) for name, done, total in seen if name.startswith(ROUNDING)]
    assert seen[0][0] == "layers.0.attention.wq"
    assert loading[-1][0] == loading[-1][1] > 0
    assert len({total for _, total in loading}) == 1
    assert [done for done, _ in rounding] == list(range(rounding[0][1]))


def test_of_a_text_that_is_somewhat_too_long_the_length_is_told_and_more_is_not_read() -> None:
    with make(max_model_len=64, kv_cache_bytes=2**20) as llm:
        for num_words, words in ((100, r"10\d tokens.*64"), (2_000, "more than 128 tokens")):
            with pytest.raises(PromptTooLongError, match=words):
                llm.chat(ask("a" + " a" * (num_words - 1)))
