"""The command `tessera finetune`; `cli.finetune` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.completion import among
from tessera.cli.options import AsJson, Device, Dtype, Model, Quiet

teaching = typer.Typer()  # without a name: `cli.app` shows its command among its own


@teaching.command(epilog="Example: tessera finetune data.jsonl -m nano --out my-adapter --eval-data held-out.jsonl")
def finetune(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Conversations: a .jsonl, .parquet or .csv file.")],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The adapter or model to write; a run in it is resumed.")
    ] = None,
    model: Model = None,
    eval_data: Annotated[Path | None, typer.Option(metavar="FILE", help="Held-out data; the best is kept.")] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Samples of what must not be forgotten, mixed into each step.")
    ] = None,
    replay_share: Annotated[
        float | None, typer.Option(help="Share of a step's samples that are replayed; default: 0.1.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show samples, tokens, memory, time and what is trained.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Train all weights of decoder and adapter, no LoRA.")] = False,
    qlora: Annotated[int | None, typer.Option(help="Keep the frozen decoder in 4 or 8 bits.")] = None,
    train_vision: Annotated[bool, typer.Option("--train-vision", help="Train the vision encoder as well.")] = False,
    target_modules: Annotated[
        str | None, typer.Option(help="Linears to adapt, by ends of names, with commas; default: decoder and adapter.")
    ] = None,
    rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 16,
    alpha: Annotated[float, typer.Option(help="The adapter counts alpha / rank times.")] = 32.0,
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate; default: 2e-4, full 2e-5.")] = None,
    vision_factor: Annotated[float, typer.Option(help="Of the rate, for the vision encoder.")] = 0.5,
    adapter_factor: Annotated[float, typer.Option(help="Of the rate, for the vision-language adapter.")] = 1.0,
    plus_factor: Annotated[float, typer.Option(help="Of the rate, for B (LoRA+).")] = 1.0,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")] = 0.03,
    epochs: Annotated[int, typer.Option(help="How often each sample is trained.")] = 1,
    step_samples: Annotated[int, typer.Option(help="Samples in a step.")] = 16,
    pass_tokens: Annotated[int, typer.Option(help="Tokens computed at once.")] = 8192,
    recompute: Annotated[
        str,
        typer.Option(
            help="Compute layers again for the gradient, in less memory: auto (as memory allows), always or never.",
            autocompletion=among("auto", "always", "never"),
        ),
    ] = "auto",
    max_tokens: Annotated[int, typer.Option(help="Longest sample.")] = 8192,
    too_long: Annotated[
        str,
        typer.Option(
            help="Longer samples: stop, drop, or shrink their images.", autocompletion=among("stop", "drop", "shrink")
        ),
    ] = "stop",
    drop_bad: Annotated[bool, typer.Option("--drop-bad", help="Leave out bad rows, instead of stopping.")] = False,
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Fetch images from URLs in the data.")] = False,
    eval_steps: Annotated[int, typer.Option(help="Steps between evaluations.")] = 50,
    save_steps: Annotated[int, typer.Option(help="Steps between saved states.")] = 50,
    patience: Annotated[int, typer.Option(help="Evaluations without a better loss before the end; 0: none.")] = 0,
    sample: Annotated[int, typer.Option(help="Held-out samples answered and shown at each evaluation.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of order and beginning.")] = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Teach a model with your own conversations and images: LoRA, QLoRA (--qlora 4) or --full."""
    from tessera.cli.finetune import run_finetune, share_of_replay
    from tessera.finetune.settings import Settings

    settings = Settings(
        full=full, qlora=qlora, train_vision=train_vision, rank=rank, alpha=alpha, rate=learning_rate,
        targets=tuple(filter(None, (target_modules or "").split(","))), vision_factor=vision_factor,
        adapter_factor=adapter_factor,
        plus_factor=plus_factor, warmup=warmup, epochs=epochs, step_samples=step_samples, pass_tokens=pass_tokens,
        replay_share=share_of_replay(replay, replay_share),
        recompute=recompute, max_tokens=max_tokens, too_long=too_long, drop_bad=drop_bad, seed=seed,
        eval_steps=eval_steps, save_steps=save_steps, patience=patience, sample=sample,
    )  # fmt: skip
    run_finetune(
        data, out, model, eval_data, settings, replay=replay,
        dry_run=dry_run, allow_urls=allow_urls, dtype=dtype, device=device, as_json=json, quiet=quiet,
    )  # fmt: skip
