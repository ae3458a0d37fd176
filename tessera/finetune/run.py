"""A fine-tuning run in a folder: resumes as if it had never stopped, keeps the best and the last, logs every step.

The batches are a function of the seed and the step, so the state is the trained weights with the optimizer's
moments, the step, and the best held-out loss so far. The folder holds the best (or, without held-out data, the
newest) adapter or model itself, the newest in `last/`, and the run's own files in `run/`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tessera.errors import TesseraError, UsageError
from tessera.finetune.log import Progress, RunLog, Say, curve, read_log, step_values
from tessera.finetune.loss import Marks, checkpoint_blocks, mark
from tessera.finetune.packing import Order, Pack, packs
from tessera.finetune.samples import Sample
from tessera.finetune.settings import Settings
from tessera.finetune.tower import Tower
from tessera.finetune.trained import Trained
from tessera.load import LoadedModel
from tessera.sources import ImageLimits
from tessera.training.checkpoint import load_checkpoint, save_checkpoint
from tessera.training.loop import training_steps
from tessera.training.optimizer import MasterOptimizer
from tessera.weights.checkpoint import Checkpoint

RUN, SETTINGS, STATE, LOG = "run", "settings.json", "state.safetensors", "log.jsonl"
MAY_DIFFER = {"pass_tokens", "recompute", "save_steps"}  # of a resumed run: none changes what is learned
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass
class Best:
    """The best held-out loss so far, its step, and the evaluations since then."""

    loss: float = float("inf")
    step: int = 0
    stale: int = 0

    def tensors(self) -> dict[str, Tensor]:
        return {"best": torch.tensor([self.loss, self.step, self.stale], dtype=torch.float64)}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Best:
        loss, step, stale = tensors["best"].tolist()
        return cls(loss, int(step), int(stale))


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    steps: int
    first_loss: float
    last_loss: float
    best: Best
    seconds: float
    curve: str


class Run:
    """One run: its model, its data, and its progress in the folder `out`.

    `recompute` says whether each layer's inner values are computed again for the gradient, instead of kept.
    """

    def __init__(
        self, out: Path, loaded: LoadedModel, checkpoint: Checkpoint, settings: Settings, samples: Sequence[Sample],
        *, held_out: Sequence[Sample] = (), limits: ImageLimits | None = None, recompute: bool = True,
        say: Say = print,
    ) -> None:  # fmt: skip
        self.out, self.settings, self.samples, self.held_out = out, settings, samples, held_out
        self.say = say
        self._check_folder(loaded.name)
        torch.manual_seed(settings.seed)
        self.trained = Trained(loaded, checkpoint, settings)
        self.model = loaded.model
        self.groups = self.trained.groups()
        self.optimizer = MasterOptimizer(self.groups, betas=(0.9, 0.999))
        self.tower = Tower(self.model, limits or ImageLimits(), trained=self.trained.sees_pixels)
        self.order = Order(len(samples), settings.step_samples, settings.seed)
        self.steps = settings.epochs * self.order.steps_per_epoch
        self.step, self.best = 0, Best()
        if recompute:
            checkpoint_blocks(self.model)

    @property
    def _state(self) -> Path:
        return self.out / RUN / STATE

    def _check_folder(self, model: str) -> None:
        """Remember what this run is; raises UsageError if the folder holds another."""
        identity = self.settings.as_json() | {
            "model": model, "data": _digest(self.samples), "held_out": _digest(self.held_out),
        }  # fmt: skip
        path = self.out / RUN / SETTINGS
        if path.exists():
            before = json.loads(path.read_text())
            differing = [name for name in identity.keys() - MAY_DIFFER if before.get(name) != identity[name]]
            if differing:
                raise UsageError(
                    f"{self.out} holds a run with another {', '.join(sorted(differing))}; "
                    "name another folder, or remove it."
                )
        elif self.out.exists() and any(each.name != RUN for each in self.out.iterdir()):
            raise UsageError(f"{self.out} holds other files; name a new folder.")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(identity, indent=2) + "\n")

    def go(self) -> Outcome:
        """Run what is left; raises TesseraError with the option to change if memory runs out."""
        began = time.monotonic()
        self._resume()
        log = RunLog(self.out / RUN / LOG, self.step)
        try:
            self._train(log)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
                raise TesseraError(_out_of_memory(self.settings)) from error
            raise
        finally:
            log.close()
        losses = [line["loss"] for line in read_log(log.path) if "loss" in line]
        return Outcome(self.step, losses[0], losses[-1], self.best, time.monotonic() - began, curve(losses))

    def _resume(self) -> None:
        if not self._state.exists():
            return
        tensors, self.step = load_checkpoint(self._state)
        self.best = Best.of(tensors)
        self.optimizer.load_state_tensors(tensors)
        self.say(f"resuming after step {self.step} of {self.steps}")

    def _train(self, log: RunLog) -> None:
        progress = Progress(self.say, self.steps, self.step)
        since = time.monotonic()
        first = self.step == 0
        if self._over():
            return
        for record in training_steps(
            self.optimizer,
            (self._packs(step) for step in range(self.step, self.steps)),
            self._mark,
            lambda step: self.trained.rates_at(step, self.steps, self.groups),
            self.step,
        ):
            self.step = record.step + 1
            if first:
                self.trained.check_gradients(self.optimizer.masters, any(mark.images for mark in record.marks))
                first = False
            now = time.monotonic()
            values = step_values(record, now - since)
            since = now
            log.write(**values)
            progress.step(values)
            self._keep(log)
            if self._over():
                return

    def _packs(self, step: int) -> list[Pack]:
        return packs([self.samples[number] for number in self.order.step(step)], self.settings.pass_tokens)

    def _mark(self, pack: Pack) -> Marks:
        return mark(self.model, pack, self.tower.embed(pack.images))

    def _over(self) -> bool:
        patience = self.settings.patience
        return self.step >= self.steps or bool(patience and self.best.stale >= patience)

    def _keep(self, log: RunLog) -> None:
        """Evaluate and save when it is time. The state is written last: what a kill leaves behind is made again."""
        settings, end = self.settings, self.step == self.steps
        if self.held_out and (end or self.step % settings.eval_steps == 0):
            loss, right = self._evaluate()
            better = loss < self.best.loss
            self.best = Best(loss, self.step) if better else Best(self.best.loss, self.best.step, self.best.stale + 1)
            log.write(step=self.step, held_out=loss, held_out_right=right, best=better)
            self.say(f"held out after step {self.step}: loss {loss:.4f}, {right:.0%} of tokens right")
            if better:
                self.trained.write(self.out)
        if end or self.step % settings.save_steps == 0 or self._over():
            self.trained.write(self.out / "last")
            if not self.held_out:
                self.trained.write(self.out)
            save_checkpoint(self._state, self.optimizer.state_tensors() | self.best.tensors(), self.step)

    @torch.no_grad()
    def _evaluate(self) -> tuple[float, float]:
        """Return the mean loss of the held-out samples' labelled tokens, and the share that is right."""
        marks = [self._mark(pack) for pack in packs(self.held_out, self.settings.pass_tokens)]
        labelled = sum(mark.labelled for mark in marks)
        return sum(mark.total for mark in marks) / labelled, sum(mark.right for mark in marks) / labelled


def _digest(samples: Sequence[Sample]) -> str:
    seen = hashlib.sha256()
    for sample in samples:
        seen.update(sample.ids.tobytes() + sample.labels)
        for picture in sample.images:
            seen.update(f"{Path(picture.source).name} {picture.grid}".encode())
    return seen.hexdigest()


def _out_of_memory(settings: Settings) -> str:
    other = "" if settings.full or settings.qlora else "; in a new folder, qlora 4 or shrunk images need less as well"
    return (
        f"memory ran out in a training pass; start again with recompute always, or pass_tokens below "
        f"{settings.pass_tokens:,}, and the run goes on from its last state{other}."
    )
