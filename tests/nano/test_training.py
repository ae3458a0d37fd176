"""The teacher sees what the engine sees, and a resumed run is the run that never stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tessera.model.attention import DensePlan
from tessera.nano import lessons, train
from tessera.nano.evaluate import edit_distance, is_exact
from tessera.nano.fonts import built_in
from tessera.nano.lessons import NOTHING, PRINTABLE, Batch, Example, example_of, pad
from tessera.nano.recipe import NANO, Recipe
from tessera.nano.synthesize import TRAINED, Sample, draw
from tessera.nano.teacher import PaddedVisionPlan, Teacher, WatchedPlan
from tessera.nano.train import cut_tokenizer, new_student
from tessera.prompt import Tokenizer
from tessera.training.optimizer import learning_rate_at

SMALL = dataclasses.replace(
    NANO,
    dim=32,
    head_dim=8,
    hidden_dim=48,
    vision_encoder=dataclasses.replace(
        NANO.vision_encoder, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
    ),
)


def sample(seed: int, difficulty: float = 0.6) -> Sample:
    return draw(seed, difficulty, TRAINED, fonts=built_in())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tekken.json"
    cut_tokenizer(path)
    return Tokenizer.from_file(path, SMALL.vision_encoder)


@pytest.fixture(scope="module")
def examples(tokenizer: Tokenizer) -> list[Example]:
    return [example_of(sample(seed), tokenizer, SMALL) for seed in range(6)]


def test_cut_tokenizer_is_read_by_mistral_common_itself(tmp_path: Path) -> None:
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    cut_tokenizer(tmp_path / "tekken.json")
    base = MistralTokenizer.from_file(tmp_path / "tekken.json").instruct_tokenizer.tokenizer
    assert base.n_words == NANO.vocab_size
    assert base.encode("é!", bos=False, eos=False) == [1000 + byte for byte in "é!".encode()]


def test_dense_targets_name_the_printed_characters(tokenizer: Tokenizer) -> None:
    for seed in range(12):
        drawn = sample(seed)
        example = example_of(drawn, tokenizer, SMALL)
        named = [PRINTABLE[c] for row in example.characters.tolist() for c in row if 0 <= c < NOTHING]
        assert sorted(named) == sorted(glyph.char for glyph in drawn.glyphs)
        quoted = zip(drawn.question + drawn.answer, drawn.question_glyphs + drawn.answer_glyphs, strict=True)
        printed = sum(glyph is not None for _, glyph in quoted) + (drawn.clue_glyph is not None)
        assert int((example.sources >= 0).sum()) == printed
        assert all(int(example.ids[position]) == 10 for position in example.sources[example.sources >= 0])


@torch.no_grad()
def test_training_attention_equals_the_models_own(examples: list[Example]) -> None:
    model = new_student(SMALL, seed=1)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.05)
    batch = pad(examples, pad_id=2)
    vision_plan = PaddedVisionPlan(batch, model.vision_encoder.plan(batch.grids).rotation, torch.float32)
    features = model.vision_encoder(batch.patches.float(), vision_plan)
    embeddings = model.adapt(features, vision_plan)[batch.real_patches.flatten()]
    hidden = model(model.embed(batch.ids.flatten(), [embeddings]), WatchedPlan(batch, torch.float32))
    hidden = hidden.unflatten(0, batch.ids.shape)
    for row, example in enumerate(examples):
        plan = model.vision_encoder.plan([example.grid])
        image = model.adapt(model.vision_encoder(example.patches_PX.float(), plan), plan)
        alone = model(model.embed(example.ids, [image]), DensePlan([len(example)]))
        # Padding changes the order of float32 sums; 1e-4 is far below any effect of a wrong mask.
        torch.testing.assert_close(hidden[row, : len(example)], alone, atol=1e-4, rtol=1e-4)


def test_the_clue_to_a_highest_value_is_that_value() -> None:
    drawn = [draw(seed, 1.0, TRAINED, "chart", built_in()) for seed in range(60)]
    ranked = [chart for chart in drawn if "highest" in chart.question]
    assert ranked
    assert all(chart.clue_glyph is not None for chart in ranked)
    assert all(chart.clue_glyph is None for chart in drawn if "JSON" in chart.question)
    for chart in ranked:
        # The values are the runs of digits in the picture; those of a title or a head are none.
        first = chart.glyphs[chart.clue_glyph or 0]
        assert first.char.isdigit()


def test_one_batch_can_be_learned(examples: list[Example]) -> None:
    torch.manual_seed(0)
    teacher = Teacher(new_student(SMALL, seed=0), Recipe())
    optimizer = train.MasterOptimizer(teacher.named_parameters(), 5e-3)
    batch: Batch = pad(examples[:2], pad_id=2)
    losses = []
    for _ in range(25):
        marks = teacher(batch)
        marks.loss.backward()
        optimizer.step(5e-3)
        losses.append(float(marks.loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_resume_equals_never_having_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "NANO", SMALL)
    monkeypatch.setattr(lessons, "draw", lambda seed, difficulty: sample(seed, difficulty))
    recipe = Recipe(cycle_ends=(4,), samples_per_step=4, samples_per_pass=2, warmup_steps=1, easy_steps=4)
    quiet = {"workers": 0, "log": lambda line: None}
    train.train(tmp_path / "whole", recipe, save_every=2, **quiet)

    class Interrupted(Exception):
        pass

    saved = train.write_weights

    def stop_after_save(out: Path, model: torch.nn.Module) -> None:
        saved(out, model)
        raise Interrupted

    monkeypatch.setattr(train, "write_weights", stop_after_save)
    with pytest.raises(Interrupted):
        train.train(tmp_path / "parts", recipe, save_every=2, **quiet)
    monkeypatch.setattr(train, "write_weights", saved)
    train.train(tmp_path / "parts", recipe, save_every=2, **quiet)
    whole, parts = (load_file(tmp_path / name / "consolidated.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_learning_rate_warms_up_stays_and_falls() -> None:
    rates = [learning_rate_at(step, 1.0, 10, (100, 200)) for step in (0, 9, 10, 29, 65, 99, 100, 130, 165)]
    assert rates == [0.1, 1.0, 1.0, 1.0, 0.5, 0.02, 1.0, 1.0, 0.5]


def test_scores() -> None:
    assert edit_distance("cat", "cart") == 1
    assert edit_distance("", "abc") == 3
    assert is_exact('{"a":1}', '{"a": 1}')
    assert not is_exact('{"a": 2}', '{"a": 1}')
    assert is_exact("12 ", "12")
