"""A fine-tuning run in a folder: resumes as if it had never stopped, keeps the best and the last, logs every step.

The batches are a function of the seed and the step, so the state is the trained weights with the optimizer's
moments, the step, and the best held-out loss so far. The folder holds the best (or, without held-out data, the
newest) adapter or model itself, the newest in `last/`, and the run's own files in `run/`. Several ranks each compute
some of a step's passes: adapters are copies on each, which take one mean of gradients, full training is cut over them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from tessera.errors import TesseraError, UsageError, counted
from tessera.finetune.answers import answer, chosen
from tessera.finetune.claim import RUN, SETTINGS, alone, claim, digest
from tessera.finetune.curve import curve_svg
from tessera.finetune.features import Features
from tessera.finetune.lean import lean_blocks
from tessera.finetune.log import Progress, RunLog, Say, curve, read_log, step_values
from tessera.finetune.loss import Marks, checkpoint_blocks, mark, mark_beside, nothing
from tessera.finetune.packing import Order, Pack, shares
from tessera.finetune.samples import Sample
from tessera.finetune.settings import Settings
from tessera.finetune.sharding import Whole, shard
from tessera.finetune.state import has_state, load_state, save_state
from tessera.finetune.tower import Tower
from tessera.finetune.trained import Trained
from tessera.load import LoadedModel
from tessera.machine import disk_room, peak_bytes, return_freed_memory, written_whole
from tessera.sources import ImageLimits
from tessera.training.loop import Record, training_steps
from tessera.training.optimizer import MasterOptimizer
from tessera.training.ranks import Ranks
from tessera.weights.checkpoint import Checkpoint

LOG, CURVE, FEATURES = "log.jsonl", "curve.svg", "features"
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
SHOWN_ANSWER = 200  # characters of one in the terminal
TIDY_STEPS = 8  # between which what is freed stays with the C library, in pieces that fit no other pack's tensors
ResultT = TypeVar("ResultT")


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
    peak_bytes: int  # of this process; on a GPU of its tensors
    curve: str


class Run:
    """One run: its model, its data, and its progress in the folder `out`.

    `recompute` says whether each layer's inner values are computed again for the gradient, instead of kept.
    `replay` are samples that are mixed in, so that what they teach is not forgotten.
    `facts` tell the base, such as its files' digest and its dtype: a run goes on with the same ones only.
    """

    def __init__(
        self, out: Path, loaded: LoadedModel, checkpoint: Checkpoint, settings: Settings, samples: Sequence[Sample],
        *, held_out: Sequence[Sample] = (), replay: Sequence[Sample] = (), limits: ImageLimits | None = None,
        recompute: bool = True, say: Say = print, ranks: Ranks | None = None, facts: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.out, self.settings, self.samples, self.held_out = out, settings, [*samples, *replay], held_out
        if bool(replay) != (settings.replay_share > 0):
            raise UsageError("replay and replay_share belong together; give both, or neither.")
        self.ranks = ranks or Ranks()
        self.say: Say = say if self.ranks.first else lambda line: None
        replayed = {"replay": digest(replay)} if replay else {}
        self._check_folder({"model": loaded.name} | dict(facts or {}) | replayed)
        torch.manual_seed(settings.seed)
        self.trained = Trained(loaded, checkpoint, settings)
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.cut = settings.full and self.ranks.size > 1
        self.whole = Whole(self.model)
        sees_pixels = self.trained.sees_pixels
        if self.cut:
            shard(self.whole, self.ranks)
        self.groups = self.trained.groups()
        summed = None if self.cut else self.ranks.group
        self.optimizer = MasterOptimizer(self.groups, betas=(0.9, 0.999), ranks=summed)
        features = Features(out / RUN / FEATURES)
        self.tower = Tower(self.model, limits or ImageLimits(), trained=sees_pixels, features=features)
        self.order = Order(len(samples), settings.step_samples, settings.seed, len(replay), settings.replay_share)
        self.steps = settings.epochs * self.order.steps_per_epoch
        self.step, self.saved, self.best = 0, 0, Best()
        lean_blocks(self.model)
        self.recompute = recompute
        if recompute:
            checkpoint_blocks(self.model)

    def _check_folder(self, facts: Mapping[str, str]) -> None:
        """Remember what this run is; raises UsageError if the folder holds another, or other ranks see another one."""
        if self.ranks.first:
            data = {"data": digest(self.samples), "held_out": digest(self.held_out)}
            claim(self.out, self.settings.as_json() | dict(facts) | data)
        self.ranks.wait()
        if not (self.out / RUN / SETTINGS).exists():
            raise UsageError(f"{self.out} is not what rank 0 sees; name a folder on a disk that all ranks share.")

    def go(self) -> Outcome:
        """Run what is left; raises TesseraError that says what to change if memory, disk or numbers run out."""
        with disk_room(self.out), alone(self.out) if self.ranks.first else nullcontext():
            return self._go()

    def kept(self) -> str:
        """Return what there is of a run that was interrupted."""
        if not self.saved:
            return f"nothing was kept of {counted(self.steps, 'step')} yet; the same command begins anew"
        return f"the state after step {self.saved:,} of {self.steps:,} is kept; the same command goes on from there"

    def _go(self) -> Outcome:
        began = time.monotonic()
        self._resume()
        log = RunLog(self.out / RUN / LOG, self.step, writes=self.ranks.first)
        try:
            self._train(log)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
                raise TesseraError(_out_of_memory(self.settings, self.recompute)) from error
            raise
        finally:
            log.close()
        self.ranks.wait()
        losses = [line["loss"] for line in read_log(log.path) if "loss" in line]
        seconds, most = time.monotonic() - began, peak_bytes(self.model.device)
        return Outcome(self.step, losses[0], losses[-1], self.best, seconds, most, curve(losses))

    def _resume(self) -> None:
        folder, full = self.out / RUN, self.settings.full
        if not has_state(folder, full=full):
            return
        if full:
            self.optimizer.prepare_state()
        into = self.optimizer.state_tensors() | self.best.tensors() if full else {}
        tensors, self.step = load_state(folder, into, self.ranks, full=full)
        self.best, self.saved = Best.of(tensors), self.step
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
            (self._packs(step)[self.ranks.rank] for step in range(self.step, self.steps)),
            self._mark,
            lambda step: self.trained.rates_at(step, self.steps, self.groups),
            self.step,
        ):
            self.step = record.step + 1
            record = self._of_all_ranks(record)
            self._check_finite(record)
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
            if self.step % TIDY_STEPS == 0:
                return_freed_memory()

    def _check_finite(self, record: Record[Marks]) -> None:
        """Raise TesseraError before weights without meaning are saved."""
        total = sum(mark.total for mark in record.marks)
        if not (math.isfinite(total) and math.isfinite(record.norm)):
            raise TesseraError(
                f"step {self.step} gave a loss of {total:g} and a gradient of {record.norm:g}, so nothing of it is "
                f"saved; start in a new folder with a rate below {self.settings.peak_rate:g} or in a wider dtype."
            )

    def _packs(self, step: int) -> list[list[Pack]]:
        samples = [self.samples[number] for number in self.order.step(step)]
        return shares(samples, self.settings.pass_tokens, self.ranks.size)

    def _mark(self, pack: Pack) -> Marks:
        if not self.cut:
            return mark(self.model, pack, self.tower.embed(pack.images)) if pack.samples else nothing()
        _, marks = self._call(lambda: self._mark_beside(pack))
        return marks

    def _mark_beside(self, pack: Pack) -> tuple[Tensor, Marks]:
        unseen = self.tower.unseen() if pack.beside_images and not pack.images else None
        marks = mark_beside(self.model, pack, self.tower.embed(pack.images), unseen)
        return marks.loss, marks  # FSDP2 looks for tensors in tuples

    def _call(self, work: Callable[[], ResultT]) -> ResultT:
        """Do what needs the model's weights, all ranks together where they are cut."""
        result: ResultT = self.whole(work)
        return result

    def _of_all_ranks(self, record: Record[Marks]) -> Record[Marks]:
        """Return a step's record with the marks of all ranks' passes, for the log."""
        counted = [replace(mark, loss=torch.zeros(())) for mark in record.marks]
        return replace(record, marks=[mark for marks in self.ranks.gather(counted) for mark in marks])

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
            self._answer_some(log)
            if better:
                self._write(self.out)
        if end or self.step % settings.save_steps == 0 or self._over():
            self._write(self.out / "last")
            if not self.held_out:
                self._write(self.out)
            if self.ranks.first:
                self._draw(log)
            tensors = self.optimizer.state_tensors() | self.best.tensors()
            save_state(self.out / RUN, tensors, self.step, self.ranks, full=settings.full)
            self.saved = self.step

    def _write(self, folder: Path) -> None:
        self.trained.write(folder, first=self.ranks.first)

    def _draw(self, log: RunLog) -> None:
        with written_whole(self.out / RUN / CURVE) as partial:
            partial.write_text(curve_svg(read_log(log.path), f"Loss of {self.out.absolute().name}"), encoding="utf-8")

    @torch.no_grad()
    def _evaluate(self) -> tuple[float, float]:
        """Return the mean loss of the held-out samples' labelled tokens, and the share that is right."""
        parts = shares(self.held_out, self.settings.pass_tokens, self.ranks.size)
        found = [self._mark(pack) for pack in parts[self.ranks.rank]]
        counts = torch.tensor([(mark.total, mark.right, mark.labelled) for mark in found], dtype=torch.float64)
        total, right, labelled = torch.cat(self.ranks.gather(counts)).sum(0).tolist()
        return total / labelled, right / labelled

    def _answer_some(self, log: RunLog) -> None:
        """Answer some held-out samples, show the answers, and log them."""
        if not (self.cut or self.ranks.first):
            return
        ranks = self.ranks if self.cut else Ranks()
        for sample in chosen(self.held_out, self.settings.sample):
            found = self._call(partial(answer, self.model, self.tower, self.tokenizer, sample, ranks))
            log.write(step=self.step, **asdict(found))
            shown = (json.dumps(text, ensure_ascii=False)[:SHOWN_ANSWER] for text in (found.answer, found.expected))
            self.say("  {}: {}, expected {}".format(found.place, *shown))


def _out_of_memory(settings: Settings, recompute: bool) -> str:
    again = "" if recompute else "recompute always, or "
    other = "" if settings.full or settings.qlora else "; in a new folder, qlora 4 or shrunk images need less as well"
    return (
        f"memory ran out in a training pass; start again with {again}pass_tokens below "
        f"{settings.pass_tokens:,}, and the run goes on from its last state{other}."
    )
