"""The style and the script of the report's page: filters over the gallery, without anything from elsewhere."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; --good: #2a7d3c; --accent: #c2570c }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1180px; padding: 0 1em }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em }
.wide { overflow-x: auto; margin: 0.6em 0 1.4em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border: 1px solid var(--line); padding: 0.3em 0.6em; text-align: left; vertical-align: top;
         overflow-wrap: break-word }
th { background: var(--soft) } small { opacity: 0.75 }
.bar { position: relative; height: 5px; min-width: 150px; background: var(--soft); margin-top: 3px }
.bar i { position: absolute; height: 5px; background: var(--accent); opacity: 0.4 }
.bar b { position: absolute; width: 3px; height: 5px; background: var(--accent) }
.compared { border-left: 4px solid var(--accent); padding: 0.3em 0.8em; background: var(--soft) }
.filters { display: flex; flex-wrap: wrap; gap: 0.5em 1.2em; align-items: center; position: sticky; top: 0;
           background: Canvas; padding: 0.5em 0 }
.cards { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: 10px; max-width: 100%;
         box-sizing: border-box }
figure[hidden] { display: none }
figure img { max-width: 100%; height: auto; display: block; margin-bottom: 6px; border: 1px solid var(--line) }
figcaption { max-width: 480px; overflow-wrap: anywhere }
dl { margin: 0.4em 0 0; display: grid; grid-template-columns: auto 1fr; gap: 0 0.7em }
dt { opacity: 0.7 }
dd { margin: 0; white-space: pre-wrap; font-family: ui-monospace, monospace; font-size: 0.88em; max-height: 16em;
     overflow: auto }
"""
SCRIPT = """
const cards = [...document.querySelectorAll("figure[data-labels]")];
const labels = cards.map(card => JSON.parse(card.dataset.labels));
const texts = cards.map(card => card.textContent.toLowerCase());
const selects = [...document.querySelectorAll(".filters select")];
const search = document.querySelector(".filters input");
function filter() {
  let count = 0;
  const wanted = search.value.toLowerCase();
  cards.forEach((card, number) => {
    const fits = selects.every(each => !each.value || (labels[number][each.dataset.name] || []).includes(each.value));
    card.hidden = !(fits && texts[number].includes(wanted));
    count += !card.hidden;
  });
  document.getElementById("count").textContent = count + " shown";
}
if (search) {
  [...selects, search].forEach(each => each.addEventListener("input", filter));
  filter();
}
"""
