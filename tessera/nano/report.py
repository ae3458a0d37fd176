"""An HTML report on nano: its tables, and a gallery of wrong answers.

Everything is in one file, pictures included, so that it can be shared.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from difflib import SequenceMatcher
from html import escape

from PIL import Image

from tessera.nano.evaluate import Result, Table
from tessera.nano.measure.trial import GROUPS

EXAMPLES = 6  # wrong answers shown for each skill in each group
WIDEST = 640  # pixels; a larger picture is shown smaller
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #fff; margin: 2em auto;
       max-width: 1180px; padding: 0 1em }
h1 { font-size: 1.6em } h2 { font-size: 1.25em; margin-top: 2em }
h3 { font-size: 1.05em; color: #444; margin-bottom: 0.4em }
table { border-collapse: collapse; margin: 0.6em 0 1.6em;
        font-variant-numeric: tabular-nums }
th, td { border: 1px solid #ccc; padding: 0.25em 0.6em; text-align: left } th { background: #f2f2f2 }
.wrongs { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start }
figure { margin: 0; border: 1px solid #ccc; border-radius: 6px; padding: 10px; max-width: 100%; background: #fafafa }
figure img { max-width: 100%; display: block; margin-bottom: 6px; border: 1px solid #ddd }
figcaption { max-width: 460px; overflow-wrap: anywhere }
dl { margin: 0; display: grid; grid-template-columns: auto 1fr; gap: 0 0.7em }
dt { color: #666 } dd { margin: 0; white-space: pre-wrap; font-family: ui-monospace, monospace; font-size: 0.9em }
del { background: #ffd7d5; text-decoration: none } ins { background: #ccf2d2; text-decoration: none }
"""


def report(results: Sequence[Result], tables: Sequence[Table], model: str) -> str:
    """Build the page. Passages missing from the reply are green in the right answer, added ones red in the reply."""
    title = f"What {model} reads"
    parts = [f"<h1>{escape(title)}</h1>", *(_table(table) for table in tables)]
    for group in GROUPS:
        skills = sorted({result.trial.skill for result in results if result.trial.group == group})
        sections = [_wrongs(results, group, skill) for skill in skills]
        if any(sections):
            parts += [f"<h2>Wrong: {escape(group)}</h2>", *sections]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return head + "\n".join(parts) + "</html>\n"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<h2>{escape(table.title)}</h2><table><tr>{head}</tr>{rows}</table>"


def _wrongs(results: Sequence[Result], group: str, skill: str) -> str:
    chosen = [result for result in results if (result.trial.group, result.trial.skill) == (group, skill)]
    wrong = [result for result in chosen if not result.right]
    if not wrong:
        return ""
    shown = wrong[:: -(-len(wrong) // EXAMPLES)]
    title = f"{skill}: {len(wrong)} of {len(chosen)} wrong, {len(shown)} shown"
    return f'<h3>{escape(title)}</h3><div class="wrongs">{"".join(map(_figure, shown))}</div>'


def _figure(result: Result) -> str:
    trial = result.trial
    pictures = "".join(
        f'<img src="{_data_uri(picture)}" width="{min(WIDEST, picture.width)}" alt="{escape(trial.source)}">'
        for picture in trial.pictures
    )
    wanted, reply = _marked(trial.answer, result.reply)
    told = (("asked", escape(trial.question)), ("right", wanted), ("reply", reply), ("from", escape(trial.source)))
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in told)
    return f"<figure>{pictures}<figcaption><dl>{listed}</dl></figcaption></figure>"


def _data_uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _marked(wanted: str, reply: str) -> tuple[str, str]:
    """Return both texts as HTML with their differences marked."""
    right, given = [], []
    for kind, a, b, c, d in SequenceMatcher(None, wanted, reply, autojunk=False).get_opcodes():
        lacking, added = escape(wanted[a:b]), escape(reply[c:d])
        right.append(lacking if kind == "equal" or not lacking else f"<ins>{lacking}</ins>")
        given.append(added if kind == "equal" or not added else f"<del>{added}</del>")
    return "".join(right), "".join(given)
