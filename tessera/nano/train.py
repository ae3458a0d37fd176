"""One command that makes nano: builds it, teaches it by the recipe, writes it in the official layout.

The run keeps a checkpoint in its folder and goes on from it when started again. It computes in
bfloat16 over float32 master weights, on a GPU or a CPU alike.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing

from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.nano.lessons import Batch, lesson_batches
from tessera.nano.recipe import NANO, SPECIAL_TOKENS, VOCABULARY_RANKS, Recipe
from tessera.nano.teacher import Marks, Teacher
from tessera.prompt import Tokenizer, packaged_tokenizer_path
from tessera.training.checkpoint import load_checkpoint, save_checkpoint
from tessera.training.optimizer import MasterOptimizer, learning_rate_at

CHECKPOINT = "checkpoint.safetensors"
INITIAL_STD = 0.02


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
    """A freshly drawn model; the outputs of each layer start small, as its depth asks for."""
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
    save_every: int = 200,
    log: Callable[[str], None] = print,
) -> None:
    """Run or resume the recipe in the folder `out`, whose files then are a loadable model.

    `processes` share each step's samples, with `workers` drawing for each. On a CPU one process a
    core trains twice as fast as one with a thread a core: its many small operations are serial.
    """
    out.mkdir(parents=True, exist_ok=True)
    cut_tokenizer(out / "tekken.json")
    (out / "params.json").write_text(json.dumps(NANO.to_params(), indent=2) + "\n")
    if processes == 1:
        _train_rank(0, 1, out, recipe, device, workers, save_every, log)
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments = (processes, out, recipe, device, workers, save_every, log, f"file://{folder}/meeting")
        multiprocessing.spawn(_join_and_train, arguments, nprocs=processes)  # type: ignore[no-untyped-call, attr-defined]


def _join_and_train(rank: int, ranks: int, *arguments: Any) -> None:
    *rest, meeting = arguments
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    _train_rank(rank, ranks, *rest)
    distributed.destroy_process_group()


def _train_rank(
    rank: int,
    ranks: int,
    out: Path,
    recipe: Recipe,
    device: str,
    workers: int,
    save_every: int,
    log: Callable[[str], None],
) -> None:
    tokenizer = Tokenizer.from_file(out / "tekken.json", NANO.vision_encoder)
    teacher = Teacher(new_student(NANO, seed=0), recipe).to(device, torch.bfloat16)
    optimizer = MasterOptimizer(teacher.named_parameters(), recipe.learning_rate)
    start = 0
    if (out / CHECKPOINT).exists():
        tensors, start = load_checkpoint(out / CHECKPOINT)
        optimizer.load_state_tensors(tensors)
        log(f"going on from step {start} of {recipe.steps}")
    began = time.perf_counter()
    for step, batches in enumerate(lesson_batches(recipe, tokenizer, NANO, start, workers, rank, ranks), start):
        marks = [_teach(teacher, batch.to(torch.device(device)), len(batches)) for batch in batches]
        rate = learning_rate_at(step, recipe.learning_rate, recipe.warmup_steps, recipe.cycle_ends)
        norm = optimizer.step(rate)
        if rank > 0:
            continue
        if step % 20 == 0:
            speed = (step + 1 - start) * recipe.samples_per_step / (time.perf_counter() - began)
            log(_report(step, recipe.difficulty(step), marks, rate, norm, speed))
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(out / CHECKPOINT, optimizer.state_tensors(), step + 1)
            write_weights(out, teacher.student)


def _teach(teacher: Teacher, batch: Batch, passes: int) -> Marks:
    marks: Marks = teacher(batch)
    (marks.loss / passes).backward()
    return marks


def write_weights(out: Path, model: Pixtral) -> None:
    """Write consolidated.safetensors, the official layout's tensors, whole or not at all."""
    from safetensors.torch import save_file

    partial = out / "consolidated.partial"
    save_file({name: tensor.cpu() for name, tensor in model.state_dict().items()}, partial)
    os.replace(partial, out / "consolidated.safetensors")


def _report(step: int, difficulty: float, marks: list[Marks], rate: float, norm: float, speed: float) -> str:
    def share(right: str, of: str) -> float:
        return float(sum(getattr(m, right) for m in marks) / max(1, sum(getattr(m, of) for m in marks)))

    return (
        f"step {step} difficulty {difficulty:.2f} token loss {share('token_loss', 'tokens'):.3f} "
        f"tokens {share('tokens_right', 'tokens'):.1%} characters {share('characters_right', 'characters'):.1%} "
        f"pointer {share('pointed_right', 'pointed'):.1%} rate {rate:.1e} norm {norm:.2f} {speed:.1f} samples/s"
    )
