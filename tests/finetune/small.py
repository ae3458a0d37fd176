"""A small model in a folder, and price tags with their questions as a data file and as samples."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from tessera.finetune.data import Reader
from tessera.finetune.run import Run
from tessera.finetune.samples import Encoder, Sample
from tessera.finetune.settings import Settings
from tessera.load import ModelSource, load_model
from tessera.prompt import Tokenizer
from tessera.sources import ImageLimits
from tessera.training.ranks import Ranks
from tessera.weights.checkpoint import open_checkpoint
from tests.engine.tiny import tiny_model
from tests.nano.small import SMALL, tag
from tests.tokenizers import NANO

CONFIG = dataclasses.replace(SMALL, n_layers=2, hidden_dim=64)


def write_model(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    tensors = {name: each.contiguous() for name, each in tiny_model(CONFIG).state_dict().items()}
    save_file(tensors, folder / "consolidated.safetensors")
    (folder / "params.json").write_text(json.dumps(CONFIG.to_params()))
    shutil.copyfile(NANO, folder / "tekken.json")
    return folder


def write_data(folder: Path, count: int, first: int = 0) -> Path:
    """Tags with a question each; every third row is text alone."""
    folder.mkdir(exist_ok=True)
    rows = []
    for seed in range(first, first + count):
        page = tag(seed)
        asked, name = page.questions[0], f"{seed}.png"
        page.pictures[0].save(folder / name)
        row = {"question": asked.question.text, "answer": asked.answer.text}
        rows.append(row if seed % 3 == 2 else row | {"image": name})
    path = folder / f"data{first}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(NANO, CONFIG.vision_encoder)


def read_samples(path: Path) -> list[Sample]:
    encoder = Encoder(tokenizer(), CONFIG.vision_encoder, max_tokens=400, too_long="stop", limits=ImageLimits())
    found = encoder.encode_all(Reader(path.parent / "kept").read(path))
    assert not found.problems
    return found.samples


def make_run(folder: Path, out: Path, settings: Settings, ranks: Ranks | None = None, *, recompute: bool = True) -> Run:
    """A run on the model and the data that lie in a folder."""
    torch.set_num_threads(1)
    model = folder / "model"
    source = ModelSource(name=str(model), device="cpu")
    samples, held_out = (read_samples(folder / "data" / f"data{first}.jsonl") for first in (0, 100))
    return Run(
        out, load_model(source), open_checkpoint(model), settings, samples, held_out=held_out, recompute=recompute,
        say=lambda _: None, ranks=ranks,
    )  # fmt: skip


def prepare(folder: Path) -> Path:
    write_model(folder / "model")
    write_data(folder / "data", 9)
    write_data(folder / "data", 4, 100)
    return folder
