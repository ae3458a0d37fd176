"""`tessera bench`: turns an optional model and the names of peers into tables.

Without a model, random ones of true widths and the requested layers are written: for transformers in
bfloat16, for llama.cpp the same numbers in our packed folder and in its own files. A given model is one
readable by both: a folder in bfloat16, or a GGUF file.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from tessera import __version__
from tessera.bench.compare import Result, measure, rows_of, table
from tessera.bench.limits import Limits, measure_limits
from tessera.bench.llama_cpp import interpreter, llama_cpp_command
from tessera.bench.process import Side, python
from tessera.bench.random_gguf import file_names
from tessera.bench.random_weights import Format, widths, with_layers, write_random
from tessera.bench.work import decoder_parameters
from tessera.errors import MissingExtraError, UsageError
from tessera.load import find_model
from tessera.machine import processor_name
from tessera.model.config import ModelConfig
from tessera.quantize.plan import AS_IT_IS
from tessera.quantize.vision import check_vision_bits
from tessera.weights.checkpoint import open_checkpoint

Peer = Literal["transformers", "llama.cpp"]
OURS = "Tessera"
PROGRAM = "tessera.bench.run_python"
ANSWER_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of a bench."""

    model: str | None = None  # None: random weights
    mmproj: Path | None = None  # for a GGUF model
    peers: tuple[Peer, ...] = ()
    widths: str = "12b"
    layers: int = 4
    vision_layers: int = 4
    bits: int = 4  # of random weights; always 16 against transformers
    vision_bits: str = AS_IT_IS  # of our side
    rounds: int = 3
    threads: int = field(default_factory=torch.get_num_threads)
    folder: Path | None = None  # keeps random weights for later runs; None: nowhere


@dataclass(frozen=True)
class Answer:
    """One chat about one image, in a fresh process."""

    side: int
    prompt_tokens: int
    seconds: float
    peak_bytes: int  # of the process, including its libraries


@dataclass(frozen=True)
class Contest:
    """Sides measured on the same weights, ours first."""

    title: str
    sides: tuple[str, ...]
    answer: Answer
    results: tuple[Result, ...]

    def __str__(self) -> str:
        answer = self.answer
        return (
            f"{self.title}\n\n{table(self.results, self.sides)}\n\nA question about an image of "
            f"{answer.side}x{answer.side} ({answer.prompt_tokens} tokens) and {ANSWER_TOKENS} tokens of reply: "
            f"{answer.seconds:.1f} s, at most {answer.peak_bytes / 2**30:.2f} GiB of memory in all."
        )


@dataclass(frozen=True)
class Report:
    """A whole bench: the machine, its limits at the start and end, and the contests."""

    machine: str
    limits: tuple[Limits, Limits]
    contests: tuple[Contest, ...]

    def __str__(self) -> str:
        before, after = self.limits
        return "\n\n".join(
            [f"{self.machine}\nat the start it {before};\nat the end it {after}", *map(str, self.contests)]
        )

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def run(plan: Plan, note: Callable[[str], None]) -> Report:
    """Measure, in minutes to an hour; `note` receives progress messages.

    Raises UsageError, and MissingExtraError for a peer that is not installed before anything is written.
    """
    check_vision_bits(plan.vision_bits)
    for peer in plan.peers:
        _check_installed(peer)
        if plan.model:
            _given_files(plan, peer)  # refused before another peer is measured for an hour
    torch.set_num_threads(plan.threads)
    before = measure_limits()
    with ExitStack() as stack:
        folder = plan.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tessera-bench-")))
        contests = tuple(_contest(plan, peer, folder, note) for peer in plan.peers or (None,))
    machine = f"{processor_name()}, {plan.threads} threads, torch {torch.__version__}, tessera {__version__}"
    return Report(machine, (before, measure_limits()), contests)


def _check_installed(peer: Peer) -> None:
    if peer == "llama.cpp":
        interpreter()
    elif importlib.util.find_spec("transformers") is None:
        raise MissingExtraError("transformers is not installed; pip install 'tessera[dev]'")


def _contest(plan: Plan, peer: Peer | None, folder: Path, note: Callable[[str], None]) -> Contest:
    ours_files, peer_files = _given_files(plan, peer) if plan.model else _random_files(plan, peer, folder, note)
    note("loading")
    with ExitStack() as stack:
        command = python(PROGRAM, "tessera", *map(str, ours_files), "--vision-bits", plan.vision_bits)
        ours = stack.enter_context(Side(OURS, command, plan.threads))
        facts = ours.ask("facts")
        config = ModelConfig.from_params(facts["config"])
        note("answering about an image")
        answer = ours.ask("answer", side=config.vision_encoder.image_size, new_tokens=ANSWER_TOKENS)
        sides = [ours]
        if peer is not None:
            command = _peer_command(peer, peer_files)
            sides.append(stack.enter_context(Side(peer, command, plan.threads)))
        rows = rows_of(config, facts["step_bytes"], known=plan.model is None, peer=peer is not None)
        results = measure(rows, sides, plan.rounds, measure_limits, note)
    return Contest(
        _title(plan, config, facts["step_bytes"]),
        tuple(side.name for side in sides),
        Answer(config.vision_encoder.image_size, answer["tokens"], answer["seconds"], answer["peak_bytes"]),
        tuple(results),
    )


def _title(plan: Plan, config: ModelConfig, step_bytes: int) -> str:
    origin = "random weights" if plan.model is None else str(plan.model)
    vision = "" if plan.vision_bits == AS_IT_IS else f", our vision side in {plan.vision_bits} bits"
    return (
        f"{origin}, {config.n_layers} decoder and {config.vision_encoder.num_hidden_layers} vision layers, "
        f"{8 * step_bytes / decoder_parameters(config):.2f} bits for each of the decoder's weights "
        f"({step_bytes / 1e9:.2f} GB a step){vision}; medians of {plan.rounds} rounds, in turns"
    )


def _given_files(plan: Plan, peer: Peer | None) -> tuple[list[Path], list[Path]]:
    """The same given files for our side and the peer's."""
    path = find_model(plan.model or "")
    checkpoint = open_checkpoint(path, plan.mmproj)
    if peer == "llama.cpp" and checkpoint.layout != "gguf":
        raise UsageError(f"{path} is not a GGUF file, and llama.cpp reads nothing else; `tessera convert` makes one.")
    if peer == "transformers" and (checkpoint.layout == "gguf" or checkpoint.is_quantized):
        raise UsageError(f"{path} is not a folder of unquantized weights, which is what is measured beside {peer}.")
    files = list(checkpoint.files)
    return files, files


def _random_files(
    plan: Plan, peer: Peer | None, folder: Path, note: Callable[[str], None]
) -> tuple[list[Path], list[Path]]:
    """The files of random weights for both sides, written if missing."""
    bits = 16 if peer == "transformers" else plan.bits
    config, tokenizer = widths(plan.widths)
    config = with_layers(config, plan.layers, plan.vision_layers)

    def made(form: Format) -> Path:
        target = folder / f"{plan.widths}-{plan.layers}-{plan.vision_layers}-{form}-{bits}"
        if not target.exists():
            note(f"writing random weights to {target}")
            write_random(target, config, tokenizer, form, bits)
        return target

    ours = made("mistral" if bits == 16 else "tessera")
    if peer != "llama.cpp":
        return [ours], [ours]
    theirs = made("gguf")
    return [ours], [theirs / name for name in file_names(bits)]


def _peer_command(peer: Peer, files: Sequence[Path]) -> list[str]:
    if peer == "llama.cpp":
        text, mmproj = files
        return llama_cpp_command(text, mmproj)
    return python(PROGRAM, "transformers", *map(str, files))
