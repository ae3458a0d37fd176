"""The teacher's losses can be descended, and a resumed run is the run that never stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from tessera.nano import lessons, train
from tessera.nano.lessons import example_of, join
from tessera.nano.pictures.mix import MIXED, Course
from tessera.nano.pictures.page import Page
from tessera.nano.recipe import Recipe, Stage
from tessera.nano.teacher import Teacher
from tessera.prompt import Tokenizer
from tessera.training.checkpoint import load_checkpoint
from tests.nano.small import SMALL, tag

STAGES = (
    Stage("letters", 2, MIXED, 3, encoder_rate=3e-3, decoder_rate=0.0, dense_weight=1.0, warmup=1),
    Stage("answers", 2, MIXED, 3, encoder_rate=0.0, decoder_rate=3e-3, pointer_weight=0.5, warmup=1),
    Stage("together", 3, MIXED, 4, encoder_rate=1e-3, decoder_rate=2e-3, dense_weight=0.5, average_steps=2, warmup=1),
)
RECIPE = Recipe(stages=STAGES, tokens_per_pass=300)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of the small model on price tags."""

    def draw(course: Course, random: Random) -> Page:
        return tag(random.getrandbits(16))

    monkeypatch.setattr(train, "NANO", SMALL)
    monkeypatch.setattr(train, "HELD_OUT_PAGES", 3)
    monkeypatch.setattr(lessons, "draw_page", draw)


def run(out: Path, log: Callable[[str], None] = lambda line: None, recipe: Recipe = RECIPE, **options: float) -> None:
    train.train(out, recipe, workers=0, log=log, **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small")
def test_resume_equals_never_having_stopped(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    lines: list[str] = []
    for _ in range(RECIPE.steps + 1):
        run(tmp_path / "parts", lines.append, seconds=0)  # ends after each step
    assert sum(line.startswith("continuing") for line in lines) == RECIPE.steps
    for file in ("consolidated.safetensors", "checkpoint.safetensors"):
        whole, parts = (load_file(tmp_path / name / file) for name in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole), file


@pytest.mark.usefixtures("small")
def test_several_processes_share_a_steps_pages() -> None:
    whole = lessons.LessonOrder(MIXED, range(2, 4), 5, 100)
    shares = [list(lessons.LessonOrder(MIXED, range(2, 4), 5, 100, rank, 2)) for rank in range(2)]
    for step, seeds in enumerate(whole):
        assert sorted(shares[0][step] + shares[1][step], key=lambda lesson: lesson[1]) == seeds


@pytest.mark.usefixtures("small")
def test_a_stage_trains_what_it_names_alone(tmp_path: Path) -> None:
    def weights(stages: tuple[Stage, ...]) -> dict[str, torch.Tensor]:
        folder = tmp_path / str(len(stages))
        run(folder, recipe=Recipe(stages=stages, tokens_per_pass=300))
        return load_file(folder / "consolidated.safetensors")

    one, two = weights(STAGES[:1]), weights(STAGES[:2])
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed
    assert not any(name.startswith(("vision_encoder", "vision_language_adapter")) for name in changed)


@pytest.mark.usefixtures("small")
def test_a_stage_without_an_average_drops_that_of_the_stage_before(tmp_path: Path) -> None:
    run(tmp_path, recipe=Recipe(stages=(*STAGES, STAGES[0]), tokens_per_pass=300))
    written = load_file(tmp_path / "consolidated.safetensors")
    masters, _ = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert not any(name.startswith("average.") for name in masters)
    for name, tensor in written.items():
        assert torch.equal(tensor, masters[f"master.student.{name}"].to(tensor.dtype)), name


def test_one_batch_can_be_learned(tmp_path: Path) -> None:
    train.cut_tokenizer(tmp_path / "tekken.json")
    tokenizer = Tokenizer.from_file(tmp_path / "tekken.json", SMALL.vision_encoder)
    torch.manual_seed(0)
    teacher = Teacher(train.new_student(SMALL, seed=0))
    optimizer = train.MasterOptimizer(train.parameter_groups(teacher))
    batch = join([example_of(tag(seed), tokenizer, SMALL) for seed in range(2)])
    losses = []
    for _ in range(40):
        marks = teacher(batch, STAGES[2])
        marks.loss.backward()
        optimizer.step({"encoder": 5e-3, "decoder": 5e-3})
        losses.append(float(marks.loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert marks.answers == 4
    assert 0 <= marks.answers_right <= 4


def test_an_answer_is_right_when_each_of_its_tokens_is(tmp_path: Path) -> None:
    from tessera.nano.teacher import _whole_answers

    train.cut_tokenizer(tmp_path / "tekken.json")
    tokenizer = Tokenizer.from_file(tmp_path / "tekken.json", SMALL.vision_encoder)
    batch = join([example_of(tag(seed), tokenizer, SMALL) for seed in range(3)])
    right = torch.ones(int((batch.weights > 0).sum()), dtype=torch.bool)
    assert _whole_answers(batch, right) == (6, 6)
    right[0] = right[1] = False  # both of the first answer
    right[-1] = False
    assert _whole_answers(batch, right) == (6, 4)
