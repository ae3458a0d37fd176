// How far the confidences can be trusted: a reliability diagram with its numbers.
//
// metrics = {labels, documents, ece, ece_interval: [low, high],
//            bins: [{confidence, right, count, low, high}],       mean confidence, share that was right, its interval
//            coverage: [{max_error, share, low, high}]}           what needs no look at that error
// Every entry may be absent.

import { drawn, element, plural } from "./dom.js";

const SIDE = 220;
const EDGE = 34;
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const interval = (low, high) => (Number.isFinite(low) && Number.isFinite(high) ? ` (95 %: ${percent(low)} to ${percent(high)})` : "");

export function trust(metrics) {
  const section = element("section", { class: "trust", "aria-labelledby": "trust-title" }, element("h2", { id: "trust-title" }, "How far the confidence can be trusted"));
  if (!metrics) {
    section.append(element("p", {}, "These values come with scores, which rank them and are no probabilities: no calibration was used. Check some documents here, export the labels, and make one with ", element("code", {}, "tessera extract calibrate LABELS"), "."));
    return section;
  }
  const bins = (Array.isArray(metrics.bins) ? metrics.bins : []).filter(({ confidence, right }) => Number.isFinite(confidence) && Number.isFinite(right));
  const facts = element("ul", { class: "plain" }, ...factsOf(metrics).map((text) => element("li", {}, text)));
  section.append(element("div", { class: "side-by-side" }, bins.length ? diagram(bins) : null, element("div", {}, facts, bins.length ? table(bins) : null)));
  return section;
}

function factsOf(metrics) {
  const facts = [];
  if (Number.isFinite(metrics.labels)) {
    const documents = Number.isFinite(metrics.documents) ? ` of ${plural(metrics.documents, "document")}` : "";
    facts.push(`Measured on ${plural(metrics.labels, "labelled value")}${documents}, each by a calibration that had not seen its document.`);
  }
  if (Number.isFinite(metrics.ece)) {
    facts.push(`Expected calibration error: ${percent(metrics.ece)}${interval(...(metrics.ece_interval ?? []))}.`);
  }
  for (const { max_error: error, share, low, high } of Array.isArray(metrics.coverage) ? metrics.coverage : []) {
    if (Number.isFinite(error) && Number.isFinite(share)) {
      facts.push(`At most ${percent(error)} wrong: ${percent(share)}${interval(low, high)} of the values need no look.`);
    }
  }
  return facts;
}

const across = (share) => EDGE + share * SIDE;
const up = (share) => 8 + (1 - share) * SIDE;

function diagram(bins) {
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  const marks = bins.map(({ confidence, right, low, high }) =>
    drawn("g", {},
      Number.isFinite(low) && Number.isFinite(high) ? drawn("line", { class: "range", x1: across(confidence), x2: across(confidence), y1: up(low), y2: up(high) }) : null,
      drawn("circle", { class: "point", cx: across(confidence), cy: up(right), r: 4 }),
    ));
  const label = (x, y, anchor, text) => drawn("text", { x, y, "text-anchor": anchor }, text);
  return element("figure", { class: "diagram" },
    drawn("svg", { viewBox: `0 0 ${SIDE + EDGE + 16} ${SIDE + 48}`, role: "img", "aria-label": "Reliability diagram: the share of right values at each confidence. The table beside it has the numbers." },
      ...ticks.flatMap((tick) => [
        drawn("line", { class: "grid", x1: across(0), x2: across(1), y1: up(tick), y2: up(tick) }),
        drawn("line", { class: "grid", x1: across(tick), x2: across(tick), y1: up(0), y2: up(1) }),
        label(across(tick), up(0) + 14, "middle", String(100 * tick)),
        label(across(0) - 6, up(tick) + 4, "end", String(100 * tick)),
      ]),
      drawn("line", { class: "ideal", x1: across(0), y1: up(0), x2: across(1), y2: up(1) }),
      ...marks,
      label(across(0.5), up(0) + 32, "middle", "confidence, %"),
    ),
    element("figcaption", {}, "Right values in %, over confidence. On the dashed line, a confidence is what it says."),
  );
}

function table(bins) {
  const heads = ["Confidence", "Right", "Values"].map((text) => element("th", { scope: "col" }, text));
  const rows = bins.map(({ confidence, right, count, low, high }) =>
    element("tr", {}, ...[percent(confidence), percent(right) + interval(low, high), Number.isFinite(count) ? count.toLocaleString("en") : ""].map((text) => element("td", {}, text))));
  return element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
}
