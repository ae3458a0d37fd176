"""`tessera finetune`: the data is checked, memory is estimated, and then the run starts or resumes."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tessera.cli.batch import sigterm_as_interrupt
from tessera.cli.batch_models import digest_of_model
from tessera.cli.session import in_flags, stopping_is_said
from tessera.errors import UsageError, counted
from tessera.finetune.claim import RUN
from tessera.finetune.data import Reader
from tessera.finetune.memory import GB, Estimate, check_fits, estimate, free_bytes, gathered_bytes, recomputes
from tessera.finetune.preview import counts, hours_with_replay, largest_pass, problems, product_rate, report
from tessera.finetune.run import CURVE, Outcome, Run
from tessera.finetune.samples import Encoder, Sample, Samples
from tessera.finetune.settings import Settings
from tessera.load import compute_dtype, find_model, load_model, locate, target_device
from tessera.machine import use_device
from tessera.prompt import Tokenizer
from tessera.shelf import BUNDLED, ModelSource
from tessera.sources import ImageLimits
from tessera.training.ranks import Ranks, joined, local_device
from tessera.weights.checkpoint import Checkpoint, open_checkpoint

REPLAY_SHARE = 0.1  # of a step, if a file is replayed and no share is given


@dataclass(frozen=True)
class _Plan:
    """What is known before the model is loaded."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    settings: Settings
    device: torch.device
    dtype: torch.dtype

    def memory(self, samples: Sequence[Sample], ranks: Ranks) -> Estimate:
        config = self.checkpoint.config
        sizes = largest_pass(samples, self.settings, config)
        stored = self.checkpoint.weight_bytes(self.dtype) if self.checkpoint.is_quantized else None
        found = estimate(config, self.settings, self.dtype, self.device, *sizes, quantized_bytes=stored)
        return found.cut(ranks.size, gathered_bytes(config, self.dtype)) if self.settings.full else found


def run_finetune(
    data: Path, out: Path | None, model: str | None, eval_data: Path | None, settings: Settings,
    *, replay: Path | None = None, dry_run: bool, allow_urls: bool, dtype: str, device: str, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    if out is None and not dry_run:
        raise UsageError("--out is missing; name the folder to write, or add --dry-run.")
    source = ModelSource(name=model or BUNDLED, dtype=dtype, device=local_device(device))
    checkpoint = open_checkpoint(find_model(source.name))
    chosen = target_device(source.device)
    use_device(chosen)
    _repeat_sums(chosen)
    plan = _Plan(checkpoint, checkpoint.load_tokenizer(), settings, chosen, compute_dtype(dtype, checkpoint, chosen))
    with joined(chosen) as ranks, tempfile.TemporaryDirectory() as folder:
        quiet = quiet or not ranks.first
        keep = (Path(folder) if out is None or dry_run else out / RUN) / "images"
        read = ranks.from_first(lambda: _read(plan, keep, allow_urls, [data, eval_data, replay]))
        found, held_out, replayed = read
        assert found is not None
        memory = plan.memory([*found.samples, *(replayed.samples if replayed else ())], ranks)
        if dry_run:
            if ranks.first:
                _show(plan, found, replayed, memory, as_json)
            return
        assert out is not None
        check_fits(memory, chosen, settings, ranks.on_machine)
        recompute = recomputes(memory, free_bytes(chosen, ranks.on_machine), settings.recompute)
        memory = memory if recompute else memory.of_all_layers
        many = f", on each of {ranks.size} ranks" if ranks.size > 1 else ""
        _say_unless(quiet, f"{counted(len(found.samples), 'sample')}, about {memory}{many}")
        run = Run(
            out, load_model(source), checkpoint, settings, found.samples,
            held_out=held_out.samples if held_out else (), replay=replayed.samples if replayed else (),
            recompute=recompute,
            say=lambda line: _say_unless(quiet, line), ranks=ranks,
            facts={"weights": digest_of_model(Path(locate(source).name)), "dtype": str(plan.dtype)},
        )  # fmt: skip
        # A rank of several ends at once on SIGTERM: within an exchange with the others it could not be interrupted.
        with sigterm_as_interrupt() if ranks.size == 1 else nullcontext(), stopping_is_said():
            try:
                outcome = run.go()
            except KeyboardInterrupt:
                _say_unless(not ranks.first, run.kept())
                raise
        _report(outcome, memory, out, as_json=as_json, quiet=quiet, prints=ranks.first)


def _repeat_sums(device: torch.device) -> None:
    """Ask torch for sums in a fixed order on a GPU, so that a resumed run equals one that never stopped."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # see torch's notes on reproducibility
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _report(outcome: Outcome, memory: Estimate, out: Path, *, as_json: bool, quiet: bool, prints: bool) -> None:
    _say_unless(quiet, f"loss {outcome.first_loss:.4f} to {outcome.last_loss:.4f}  {outcome.curve}")
    _say_unless(quiet, f"the curve is in {out / RUN / CURVE}")
    _say_unless(quiet, f"peak memory {outcome.peak_bytes / GB:.2f} GB, estimated {memory.total / GB:.2f}")
    if prints:
        values = asdict(outcome) | {"out": str(out), "estimated_bytes": memory.total}
        print(json.dumps(values) if as_json else out)


def share_of_replay(replay: Path | None, share: float | None) -> float:
    """Return the share of a step's samples that are replayed; raises UsageError for a share of nothing."""
    if replay is None and share is not None:
        raise UsageError("--replay-share is given without --replay; name the file of samples to replay.")
    if share is not None and not 0 < share <= 0.9:
        raise UsageError(f"--replay-share is {share:g}; it must be above 0 and at most 0.9.")
    return 0.0 if replay is None else REPLAY_SHARE if share is None else share


def _read(plan: _Plan, keep: Path, allow_urls: bool, paths: Sequence[Path | None]) -> list[Samples | None]:
    """Read and check the files that are named before anything starts; raises UsageError with the bad rows."""
    settings = plan.settings
    encoder = Encoder(
        plan.tokenizer, plan.checkpoint.config.vision_encoder,
        max_tokens=settings.max_tokens, too_long=settings.too_long, limits=ImageLimits(),
    )  # fmt: skip
    reader = Reader(keep, allow_urls=allow_urls)
    read = [None if path is None else encoder.encode_all(reader.read(path)) for path in paths]
    for found, path in zip(read, paths, strict=True):
        if found is None:
            continue
        lines = problems(found)
        for line in lines:
            print(in_flags(line), file=sys.stderr)
        if lines and not settings.drop_bad:
            raise UsageError(
                f"{len(found.problems):,} of {counted(found.counts['rows'], 'row')} of {path} cannot be used; "
                "correct them, or leave them out with --drop-bad."
            )
        if not found.samples:
            raise UsageError(f"no row of {path} is left to train on.")
    return read


def _show(plan: _Plan, found: Samples, replay: Samples | None, memory: Estimate, as_json: bool) -> None:
    config, settings = plan.checkpoint.config, plan.settings
    time_h = hours_with_replay(found, replay, settings, config, product_rate(plan.device, plan.dtype))
    if as_json:
        print(json.dumps(counts(found, settings, replay) | {"memory_bytes": memory.total, "hours": time_h}))
    else:
        print(report(found, settings, config, plan.tokenizer, memory, time_h, replay=replay))


def _say_unless(quiet: bool, line: str) -> None:
    if not quiet:
        print(line, file=sys.stderr, flush=True)
