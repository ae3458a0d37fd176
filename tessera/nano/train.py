"""Training nano: builds the model, trains it stage by stage, and writes it in the official layout.

The run keeps a checkpoint in its folder and resumes from it when restarted, also elsewhere. It
computes in bfloat16 with float32 master weights, on GPU and CPU alike; on a CPU without products in
16 bits all is float32.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor

from tessera.kernels.wide_linear import lacks_products
from tessera.machine import written_whole
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.nano.lessons import Example, LessonOrder, Lessons, batches_of, lesson_batches
from tessera.nano.pictures.mix import Course
from tessera.nano.recipe import NANO, SPECIAL_TOKENS, VOCABULARY_RANKS, Recipe, Stage
from tessera.nano.teacher import Marks, Teacher
from tessera.parallel.group import Group, connect
from tessera.prompt import Tokenizer, packaged_tokenizer_path
from tessera.training.average import WeightAverage
from tessera.training.checkpoint import load_checkpoint, save_checkpoint
from tessera.training.loop import Record, training_steps
from tessera.training.optimizer import MasterOptimizer, ParameterGroup, learning_rate_at

CHECKPOINT = "checkpoint.safetensors"
INITIAL_STD = 0.02
TABLES = ("tok_embeddings", "output", "head")
HELD_OUT_PAGES = 64
REPORT_EVERY = 20
Log = Callable[[str], None]


def cut_tokenizer(path: Path) -> None:
    """Write the official tekken.json, cut to nano's vocabulary by rank, to `path`."""
    tekken = json.loads(packaged_tokenizer_path().read_text())
    tekken["vocab"] = tekken["vocab"][:VOCABULARY_RANKS]
    tekken["config"] |= {
        "num_vocab_tokens": VOCABULARY_RANKS,
        "default_vocab_size": SPECIAL_TOKENS + VOCABULARY_RANKS,
    }
    vision = NANO.vision_encoder
    tekken["image"] |= {"image_patch_size": vision.patch_size, "max_image_size": vision.image_size}
    path.write_text(json.dumps(tekken, indent=1))


def new_student(config: ModelConfig, seed: int) -> Pixtral:
    """Make a newly initialized model; the outputs of each layer start small, scaled by depth."""
    torch.manual_seed(seed)
    model = Pixtral(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            std = INITIAL_STD if "embeddings" in name or name == "output.weight" else parameter[0].numel() ** -0.5
            torch.nn.init.normal_(parameter, std=std)
            if name.endswith(("wo.weight", "w2.weight")):
                torch.nn.init.zeros_(parameter)
        elif "norm" not in name and "ln_pre" not in name:
            torch.nn.init.zeros_(parameter)
    return model


def train(
    out: Path,
    recipe: Recipe,
    *,
    device: str = "cpu",
    workers: int = 1,
    processes: int = 1,
    save_seconds: float = 300.0,
    seconds: float = float("inf"),
    log: Log = print,
) -> None:
    """Run or resume the recipe in the folder `out`, which then is a loadable model.

    `processes` share each step's pages, with `workers` drawing for each. On a CPU one process a core
    trains twice as fast as one with a thread per core: its many small operations are serial. After
    `seconds` the run saves its state and ends.
    """
    out.mkdir(parents=True, exist_ok=True)
    cut_tokenizer(out / "tekken.json")
    (out / "params.json").write_text(json.dumps(NANO.to_params(), indent=2) + "\n")
    arguments = (out, recipe, device, workers, save_seconds, seconds, log)
    if processes == 1:
        Run(None, 0, *arguments).go()
        return
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_join_and_train, (processes, Path(folder), *arguments), nprocs=processes)  # type: ignore[no-untyped-call, attr-defined]


def _join_and_train(rank: int, ranks: int, folder: Path, *arguments: Any) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    Run(connect(folder, rank, ranks, torch.device("cpu")), rank, *arguments).go()


class Run:
    """One process's part of a run: its model, its optimizer, and its progress."""

    def __init__(
        self,
        group: Group | None,
        rank: int,
        out: Path,
        recipe: Recipe,
        device: str,
        workers: int,
        save_seconds: float,
        seconds: float,
        log: Log,
    ) -> None:
        self.group, self.rank, self.out, self.recipe, self.workers = group, rank, out, recipe, workers
        self.device = torch.device(device)
        self.save_seconds, self.seconds, self.log = save_seconds, seconds, log
        self.tokenizer = Tokenizer.from_file(out / "tekken.json", NANO.vision_encoder)
        dtype = torch.float32 if lacks_products(self.device, torch.bfloat16) else torch.bfloat16
        self.teacher = Teacher(new_student(NANO, seed=0)).to(device, dtype)
        self.optimizer = MasterOptimizer(parameter_groups(self.teacher), ranks=group)
        self.average: WeightAverage | None = None
        self.held_out: dict[Course, list[Example]] = {}  # the current stage's pages
        self.step = 0
        self.began = self.saved = time.monotonic()

    def go(self) -> None:
        self._resume()
        for stage, end in zip(self.recipe.stages, self.recipe.ends, strict=True):
            if self.step < end and not self._run_stage(stage, end):
                return

    def _resume(self) -> None:
        path = self.out / CHECKPOINT
        if not path.exists():
            return
        tensors, self.step = load_checkpoint(path)
        self.optimizer.load_state_tensors(tensors)
        if any(name.startswith("average.") for name in tensors):
            self._start_average()
            self.average.load_state_tensors(tensors)  # type: ignore[union-attr]
        self.log(f"continuing from step {self.step} of {self.recipe.steps}")

    def _start_average(self) -> None:
        self.average = WeightAverage(self.optimizer.masters, self.recipe.average_decay)

    def _run_stage(self, stage: Stage, end: int) -> bool:
        """Run the rest of a stage; return False if time runs out before its end."""
        begin = end - stage.steps
        ranks = 1 if self.group is None else self.group.size
        order = LessonOrder(stage.course, range(self.step, end), stage.pages, self.recipe.first_seed, self.rank, ranks)
        batches = lesson_batches(order, self.tokenizer, NANO, self.recipe.tokens_per_pass, self.workers)
        meter = Meter()
        for record in training_steps(
            self.optimizer,
            ([batch.to(self.device) for batch in parts] for parts in batches),
            lambda batch: self.teacher(batch, stage),
            lambda step: rates_at(stage, step - begin),
            self.step,
        ):
            self.step = record.step + 1
            self._follow(stage, end)
            meter.add(record)
            if self.rank == 0 and self.step % REPORT_EVERY == 0:
                self.log(f"{stage.name} step {self.step}/{self.recipe.steps} {meter.report(record)}")
                meter = Meter()
            over = time.monotonic() - self.began > self.seconds
            if self.rank == 0 and (over or self.step == end or time.monotonic() - self.saved > self.save_seconds):
                self._save(stage)
            if over:
                return False
        return True

    def _follow(self, stage: Stage, end: int) -> None:
        if not stage.average_steps or self.step < end - stage.average_steps:
            self.average = None  # of an earlier stage
        elif self.average is None:
            self._start_average()
        else:
            self.average.update(self.optimizer.masters)

    def _save(self, stage: Stage) -> None:
        averaged = self.average.state_tensors() if self.average else {}
        save_checkpoint(self.out / CHECKPOINT, self.optimizer.state_tensors() | averaged, self.step)
        write_weights(self.out, self.teacher.student, self.average)
        self.log(f"saved step {self.step}; held out: {self._held_out(stage)}")
        self.saved = time.monotonic()

    @torch.no_grad()
    def _held_out(self, stage: Stage) -> str:
        """Measure the marks on pages with seeds below the first, which are never trained on."""
        if stage.course not in self.held_out:
            lessons = Lessons(self.tokenizer, NANO)
            self.held_out = {stage.course: [lessons[stage.course, seed] for seed in range(HELD_OUT_PAGES)]}
        meter = Meter()
        for batch in batches_of(self.held_out[stage.course], self.recipe.tokens_per_pass):
            meter.marks.append(self.teacher(batch.to(self.device), stage))
        return meter.shares()


def parameter_groups(teacher: Teacher) -> list[ParameterGroup]:
    """Group the reading part (encoder, adapter, character head) and the answering part (the decoder)."""
    reads = ("student.vision_encoder", "student.vision_language_adapter", "character_head")
    named = list(teacher.named_parameters())
    return [
        ParameterGroup.of("encoder", [(n, p) for n, p in named if n.startswith(reads)], TABLES),
        ParameterGroup.of("decoder", [(n, p) for n, p in named if not n.startswith(reads)], TABLES),
    ]


def rates_at(stage: Stage, step: int) -> dict[str, float]:
    """Return the learning rate of each group at a step of the stage."""
    peaks = {"encoder": stage.encoder_rate, "decoder": stage.decoder_rate}
    return {
        name: learning_rate_at(step, stage.steps, peak, warmup=stage.warmup, fall=stage.fall)
        for name, peak in peaks.items()
    }


def write_weights(out: Path, model: Pixtral, average: WeightAverage | None = None) -> None:
    """Write consolidated.safetensors, the official layout's tensors in bfloat16, completely or not at all."""
    from safetensors.torch import save_file

    averaged = average.tensors if average else {}

    def of(name: str, tensor: Tensor) -> Tensor:
        return averaged.get(f"student.{name}", tensor).to(torch.bfloat16).cpu().contiguous()

    with written_whole(out / "consolidated.safetensors") as partial:
        save_file({name: of(name, tensor) for name, tensor in model.state_dict().items()}, partial)


class Meter:
    """Sums the marks of several steps and reports them as fractions."""

    COUNTS = tuple(field.name for field in fields(Marks) if field.name != "loss")

    def __init__(self) -> None:
        self.marks: list[Marks] = []
        self.began = time.monotonic()

    def add(self, record: Record[Marks]) -> None:
        self.marks += record.marks

    def shares(self) -> str:
        sums = {name: sum(getattr(mark, name) for mark in self.marks) for name in self.COUNTS}
        parts = [f"loss {sum(float(mark.loss.detach()) for mark in self.marks) / max(1, len(self.marks)):.3f}"]
        if sums["tokens"]:
            parts.append(f"token loss {sums['token_loss'] / sums['tokens']:.3f}")
        parts += [
            f"{name} {sums[f'{name}_right'] / sums[name]:.1%}"
            for name in ("characters", "pointed", "tokens", "answers")
            if sums[name]
        ]
        return " ".join(parts)

    def report(self, record: Record[Marks]) -> str:
        seconds = time.monotonic() - self.began
        speeds = {
            name: sum(getattr(mark, name) for mark in self.marks) / seconds
            for name in ("pages", "patches", "characters", "answers")
        }
        rates = " ".join(f"{name} {rate:.1e}" for name, rate in record.rates.items() if rate)
        told = ", ".join(f"{value:.0f} {name}" for name, value in speeds.items() if value)
        return f"{self.shares()} rate {rates} norm {record.norm:.2f} ({told} a second)"
