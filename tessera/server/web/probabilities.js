// Shows how sure the model was of each token of an answer, so that a doubtful digit is seen at a glance. Four
// bands rather than a scale of colours: a band can be named in a legend, and the least sure ones are underlined
// as well, for those who see colours differently. Tokens that hold parts of one character are shown as one.

import { element } from "./dom.js";

// From the surest down: the least probability of a band, its class, its name in the legend.
const BANDS = [
  [0.95, "sure", "95 % and more"],
  [0.8, "likely", "80 to 95 %"],
  [0.5, "doubtful", "50 to 80 %"],
  [0, "unsure", "below 50 %"],
];
const DOUBT = 0.8;

/** The tokens that may be shown, from the logprobs of the API: text, probability, and what else was possible. */
export function tokensOf(entries) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const tokens = [];
  let parts = [];
  for (const entry of entries) {
    parts.push(entry);
    const text = decoder.decode(bytesOf(entry), { stream: true });
    if (text) {
      tokens.push(joined(text, parts));
      parts = [];
    }
  }
  const rest = decoder.decode();
  if (rest && parts.length) tokens.push(joined(rest, parts));
  return tokens;
}

const bytesOf = (entry) => (entry.bytes ? Uint8Array.from(entry.bytes) : new TextEncoder().encode(entry.token));

function joined(text, parts) {
  const probability = Math.exp(parts.reduce((sum, part) => sum + part.logprob, 0));
  const leastSure = parts.reduce((least, part) => (part.logprob < least.logprob ? part : least));
  const alternatives = (leastSure.top_logprobs ?? []).map((other) => ({
    text: other.token,
    probability: Math.exp(other.logprob),
    chosen: other.token === leastSure.token,
  }));
  if (!alternatives.some((other) => other.chosen)) {
    alternatives.push({ text: leastSure.token, probability: Math.exp(leastSure.logprob), chosen: true });
  }
  alternatives.sort((a, b) => b.probability - a.probability);
  return { text, probability, alternatives };
}

export const isDoubtful = (token) => token.probability < DOUBT;

/**
 * The answer as coloured tokens. One stop for the Tab key; the left and right arrows go from token to token, up
 * and down from one doubtful token to the next, and the token in focus or under the pointer shows its alternatives.
 */
export function renderProbabilities(tokens) {
  const tip = element("div", { class: "tip", role: "tooltip", hidden: "" });
  const list = element("div", {
    class: "tokens",
    role: "listbox",
    "aria-orientation": "horizontal",
    "aria-label": "Tokens with their probabilities; up and down go to the doubtful ones",
  });
  const spans = tokens.map((token, index) => {
    const span = element(
      "span",
      { class: `token ${band(token)}`, role: "option", "aria-label": spoken(token), "aria-selected": "false", tabindex: "-1" },
      token.text.replaceAll("\n", "↵\n"),
    );
    span.dataset.index = index;
    list.append(span);
    return span;
  });
  if (spans.length) spans[0].tabIndex = 0;

  const show = (span) => span && showTip(tip, span, tokens[span.dataset.index]);
  const hide = () => (tip.hidden = true);
  list.addEventListener("pointerover", (event) => show(event.target.closest(".token")));
  list.addEventListener("pointerleave", hide);
  list.addEventListener("focusin", (event) => {
    for (const span of spans) {
      const current = span === event.target;
      if (current === (span.tabIndex === 0)) continue;
      span.tabIndex = current ? 0 : -1;
    }
    event.target.setAttribute("aria-selected", "true");
    show(event.target);
  });
  list.addEventListener("focusout", (event) => {
    event.target.setAttribute("aria-selected", "false");
    hide();
  });
  list.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !tip.hidden) {
      event.stopPropagation(); // it closes this, not an answer that is being written
      hide();
    }
    const next = target(event.key, Number(event.target.dataset.index), tokens);
    if (next === undefined) return;
    event.preventDefault();
    spans[next]?.focus();
  });
  return element("div", { class: "probabilities" }, list, tip);
}

/** The index that a key leads to, undefined for keys that mean nothing here. */
function target(key, index, tokens) {
  const clamp = (value) => Math.max(0, Math.min(value, tokens.length - 1));
  switch (key) {
    case "ArrowRight":
      return clamp(index + 1);
    case "ArrowLeft":
      return clamp(index - 1);
    case "Home":
      return 0;
    case "End":
      return tokens.length - 1;
    case "ArrowDown":
      return orStay(tokens.findIndex((token, other) => other > index && isDoubtful(token)), index);
    case "ArrowUp":
      return orStay(tokens.findLastIndex((token, other) => other < index && isDoubtful(token)), index);
    default:
      return undefined;
  }
}

const orStay = (found, index) => (found === -1 ? index : found);

const band = (token) => BANDS.find(([least]) => token.probability >= least)?.[1] ?? "unsure";

function spoken(token) {
  const others = token.alternatives.filter((other) => !other.chosen);
  const instead = others.map((other) => `${visible(other.text)}, ${percent(other.probability)}`).join("; ");
  return `${visible(token.text)}, ${percent(token.probability)}${instead ? `; other choices: ${instead}` : ""}`;
}

export const percent = (probability) =>
  probability < 0.001 ? "< 0.1 %" : `${(100 * probability).toFixed(probability > 0.1 && probability < 0.9 ? 0 : 1)} %`;

/** A token whose whitespace can be seen. */
const visible = (text) => (text === "" ? "end" : text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣"));

/** What the colours mean, once for the whole page. */
export const legendItems = () =>
  BANDS.map(([, name, label]) => element("li", {}, element("span", { class: `token ${name}`, "aria-hidden": "true" }, "abc"), label));

function showTip(tip, span, token) {
  const rows = token.alternatives.map((other) => {
    const bar = element("span", { class: "bar" });
    bar.style.width = `${Math.max(100 * other.probability, 1)}%`;
    return element(
      "li",
      { class: other.chosen ? "chosen" : null },
      element("code", {}, visible(other.text)),
      element("span", { class: "track" }, bar),
      element("span", { class: "percent" }, percent(other.probability)),
    );
  });
  tip.replaceChildren(element("ul", {}, ...rows));
  tip.hidden = false;
  placeTip(tip, span);
}

/** Beside the answer and no lower than its line, so that the buttons below stay free; else above the token's line, else below it. Never out of the window. */
function placeTip(tip, span) {
  const at = [...span.getClientRects()].at(-1) ?? span.getBoundingClientRect();
  const { width, height } = tip.getBoundingClientRect();
  const right = document.documentElement.clientWidth - width - 8;
  const text = document.createRange();
  text.selectNodeContents(span.parentElement);
  const beside = text.getBoundingClientRect().right + 16;
  const within = (least, value, most) => Math.max(least, Math.min(value, most));
  const above = at.top - height - 6;
  const isBeside = beside <= right;
  const top = isBeside ? at.bottom - height : above >= 8 ? above : at.bottom + 6;
  tip.style.left = `${isBeside ? beside : within(8, at.left, right)}px`;
  tip.style.top = `${within(8, top, Math.max(8, innerHeight - height - 8))}px`;
}
