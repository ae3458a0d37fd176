"""A lesson is what the engine would see: tokens, positions, and where each character is printed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from tessera.images import prepare
from tessera.messages import Image, Message
from tessera.model.attention import DensePlan
from tessera.nano import lessons
from tessera.nano.lessons import IGNORED, NOTHING, PRINTABLE, SHARED, Example, batches_of, example_of, join, page_of
from tessera.nano.pictures.mix import CLEAN, Course
from tessera.nano.pictures.page import Glyph, Page, side_by_side
from tessera.nano.recipe import NANO
from tessera.nano.teacher import PlainVisionPlan, WatchedPlan
from tessera.nano.train import cut_tokenizer, new_student
from tessera.prompt import Tokenizer
from tests.nano.small import SMALL, tag


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tekken.json"
    cut_tokenizer(path)
    return Tokenizer.from_file(path, SMALL.vision_encoder)


def pages() -> list[Page]:
    pair = side_by_side([tag(8), tag(9)], tag(8).questions)
    talk = Page((), (), tag(1).questions[1:])
    instructed = replace(tag(5), system="You read labels. Be brief.")
    return [*(tag(seed) for seed in range(5)), pair, talk, instructed]


@pytest.fixture(scope="module")
def examples(tokenizer: Tokenizer) -> list[Example]:
    return [example_of(page, tokenizer, SMALL) for page in pages()]


def test_cut_tokenizer_is_read_by_mistral_common_itself(tmp_path: Path) -> None:
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    cut_tokenizer(tmp_path / "tekken.json")
    base = MistralTokenizer.from_file(tmp_path / "tekken.json").instruct_tokenizer.tokenizer
    assert base.n_words == NANO.vocab_size
    assert base.encode("é!", bos=False, eos=False) == [1000 + byte for byte in "é!".encode()]


def alone(example: Example, number: int) -> torch.Tensor:
    """Which tokens the model sees where question `number` is the only one."""
    return (example.segments == SHARED) | (example.segments == number)


def test_each_question_is_tokenized_as_the_engine_would(tokenizer: Tokenizer, examples: list[Example]) -> None:
    for page, example in zip(pages(), examples, strict=True):
        prepared = [prepare(picture, SMALL.vision_encoder) for picture in page.pictures]
        for number, question in enumerate(page.questions, 1):
            system = [Message("system", (page.system,))] if page.system else []
            message = Message("user", (*map(Image, page.pictures), question.question.text))
            prompt = tokenizer.encode_chat([*system, message], prepared)
            answer = [*tokenizer.encode_text(question.answer.text, bos=False), tokenizer.eos_id]
            kept = alone(example, number)
            assert example.ids[kept].tolist() == [*prompt.ids, *answer]
            assert example.positions[kept].tolist() == list(range(len(prompt.ids) + len(answer)))
            taught = example.weights[kept] > 0
            assert taught.nonzero().flatten().tolist() == list(
                range(len(prompt.ids) - 1, len(prompt.ids) + len(answer) - 1)
            )
            assert float(example.weights[kept].square().sum()) == pytest.approx(1.0)


def test_sources_are_the_image_tokens_of_printed_characters(examples: list[Example]) -> None:
    image_token = SMALL.vision_encoder.image_token_id
    for page, example in zip(pages(), examples, strict=True):
        printed = sum(
            sum(glyph is not None for glyph in (*q.question.glyphs, *q.answer.glyphs)) + (q.clue is not None)
            for q in page.questions
        )
        found = example.sources[example.sources >= 0]
        assert len(found) == printed
        assert all(int(example.ids[place]) == image_token for place in found)


def test_dense_targets_name_every_printed_character_once(examples: list[Example]) -> None:
    for page, example in zip(pages(), examples, strict=True):
        named = [PRINTABLE[c] for row in example.characters.tolist() for c in row if 0 <= c < NOTHING]
        assert sorted(named) == sorted(glyph.char for glyph in page.glyphs)
        assert len(example.characters) == len(example.patches_PX)


def test_characters_of_a_patch_stand_in_reading_order(tokenizer: Tokenizer) -> None:
    from PIL import Image as Pictures

    # Two lines of 9 px type share the first patch; a slant of a pixel does not break a line.
    places = {"d": (10, 8), "a": (2, 3), "c": (3, 9), "b": (8, 2)}
    glyphs = tuple(Glyph(char, x, y, 9.0) for char, (x, y) in places.items())
    page = Page((Pictures.new("RGB", (24, 12)),), glyphs, ())
    first, second = example_of(page, tokenizer, SMALL).characters.tolist()
    assert [PRINTABLE[c] for c in first[:4]] == list("abcd")
    assert first[4:] == [NOTHING, IGNORED]
    assert second == [NOTHING] + [IGNORED] * 5


def test_targets_are_classes_also_without_pictures(examples: list[Example]) -> None:
    assert any(len(example.characters) == 0 for example in examples)
    assert {example.characters.dtype for example in examples} == {torch.int64}


@torch.no_grad()
def test_a_question_among_others_is_to_the_model_the_only_one(examples: list[Example]) -> None:
    model = new_student(SMALL, seed=1)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.05)
    batch = join(examples)
    vision_plan = PlainVisionPlan(batch.grids, model.vision_encoder.plan(batch.grids).rotation)
    embeddings = model.adapt(model.vision_encoder(batch.patches_PX.float(), vision_plan), vision_plan)
    hidden = model(model.embed(batch.ids, [embeddings]), WatchedPlan(batch, torch.float32))
    first, compared = 0, 0
    for example in examples:
        in_batch = hidden[first : first + len(example)]
        first += len(example)
        images = []
        if example.grids:
            plan = model.vision_encoder.plan(example.grids)
            images = [model.adapt(model.vision_encoder(example.patches_PX.float(), plan), plan)]
        for number in range(1, int(example.segments.max()) + 1):
            kept = alone(example, number)
            own = model(model.embed(example.ids[kept], images), DensePlan([int(kept.sum())]))
            # Other shapes sum in another order; 1e-4 is far below any effect of a wrong mask.
            torch.testing.assert_close(in_batch[kept], own, atol=1e-4, rtol=1e-4)
            compared += 1
    assert compared == sum(len(page.questions) for page in pages())


def test_a_batch_numbers_its_questions_in_order(examples: list[Example]) -> None:
    batch = join(examples)
    wanted = [
        example.ids[example.segments == number].tolist()
        for example in examples
        for number in range(1, int(example.segments.max()) + 1)
    ]
    found = [batch.ids[batch.answers == number].tolist() for number in range(int(batch.answers.max()) + 1)]
    assert found == wanted
    places = sorted((part.start, part.stop) for part in (*batch.shared, *(run.own for run in batch.runs)))
    assert [start for start, _ in places] == [0, *(stop for _, stop in places[:-1])]
    assert places[-1][1] == len(batch.ids)


def test_long_questions_are_attended_in_runs(monkeypatch: pytest.MonkeyPatch, examples: list[Example]) -> None:
    whole = join(examples)
    monkeypatch.setattr(lessons, "RUN_TOKENS", 8)
    cut = join(examples)
    assert len(cut.runs) == int(cut.answers.max()) + 1 > len(whole.runs)
    model = new_student(SMALL, seed=1)
    with torch.no_grad():
        embeddings = model.tok_embeddings.weight.new_ones(len(whole.patches_PX), SMALL.dim)
        both = [model(model.embed(b.ids, [embeddings]), WatchedPlan(b, torch.float32)) for b in (whole, cut)]
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)


def test_batches_hold_every_example_within_the_budget(examples: list[Example]) -> None:
    batches = batches_of(examples, tokens=400)
    assert sum(batch.pages for batch in batches) == len(examples)
    assert all(len(batch.ids) <= 400 or batch.pages == 1 for batch in batches)
    assert len(batches) > 1


def test_pages_without_questions_come_in_batches_of_their_own(examples: list[Example]) -> None:
    unasked = [replace(e, weights=torch.zeros_like(e.weights)) for e in examples[:2]]
    batches = batches_of([unasked[0], *examples, unasked[1]], tokens=10_000)
    assert [batch.pages for batch in batches] == [len(examples), 2]
    assert [bool((batch.weights > 0).any()) for batch in batches] == [True, False]


def test_a_page_that_cannot_be_drawn_ends_no_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tag(1)

    def draw(course: Course, random: Random) -> Page:
        if random.random() == Random(5).random():
            raise ValueError("Unrecognized signal name")
        return page

    monkeypatch.setattr(lessons, "draw_page", draw)
    assert page_of(CLEAN, 5) is page
    assert "page 5 could not be drawn: ValueError: Unrecognized signal name" in capsys.readouterr().out


def test_a_renderer_that_always_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(course: Course, random: Random) -> Page:
        raise ValueError("no fonts")

    monkeypatch.setattr(lessons, "draw_page", draw)
    with pytest.raises(ValueError, match="no fonts"):
        page_of(CLEAN, 5)
