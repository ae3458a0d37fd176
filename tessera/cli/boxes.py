"""`tessera boxes calibrate` and `tessera nano calibrate`: what is found out about a model on printed papers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tessera.cli.session import say
from tessera.errors import UsageError

HEAD_PAPERS = "printed receipts and invoices"


def run_boxes(model: str, papers: int, out: Path | None) -> None:
    """Find the heads that look at what is read, and write them beside the model's weights."""
    from tessera.heads import heads_file, write_heads
    from tessera.llm import LLM
    from tessera.load import find_model
    from tessera.nano.calibrate import all_heads, best_heads, rank_heads
    from tessera.nano.measure.papers import drawn_papers

    target = out or heads_file(find_model(model))
    with LLM(model) as llm:
        config = llm.model.config
        heads = list(all_heads(config.n_layers, config.n_heads))
        shares = rank_heads(llm, drawn_papers(papers, seed="heads", scans=False), heads)
        fingerprint = llm.fingerprint
    if not shares or not (chosen := best_heads(shares)):
        raise UsageError(f"no head of {model} looks at what it reads; its values get places from text layers only.")
    write_heads(target, chosen, {"model": fingerprint, "papers": papers, "drawn": HEAD_PAPERS})
    print("| layer | head | before | characters right |\n| --- | --- | --- | --- |")
    for head, share in list(shares.items())[:10]:
        mark = " (kept)" if head in chosen else ""
        print(f"| {head.layer} | {head.head} | {head.before} | {share:.3f}{mark} |")
    say(str(target))


def run_nano_calibrate(model: str, papers: int, out: Path, *, verify: bool) -> None:
    """Measure a model on papers as scans and with text layers, and write the calibration of both together."""
    from tessera.llm import LLM
    from tessera.nano.calibrate import calibrate, measure
    from tessera.nano.measure.papers import drawn_papers
    from tessera.trust import report_of

    samples = []
    with LLM(model) as llm:
        for name, scans in (("scans", True), ("text layers", False)):
            drawn = list(drawn_papers(papers, seed=f"calibration {name}", scans=scans))
            found, tally = measure(llm, drawn, reread=verify, log=say)
            samples += found
            print(f"Boxes, {name}\n\n{tally.markdown()}\n")
        calibration = calibrate(llm, samples)
    report = report_of(calibration, samples)
    replace(calibration, report=report.as_json()).save(out)
    print(report.markdown())
    say(str(out))
