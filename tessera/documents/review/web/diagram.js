// How far the confidences can be trusted: a reliability diagram with its numbers, as a calibration's report has them:
//
// metrics = {documents, fields, right, numbers: {name: [value, low, high]}, diagram: [[count, confidence, right]],
//            kinds: {kind: [count, right]}, before: {name: [value, low, high]}}, the last of scores without calibration.
// A point of the diagram is a mean confidence and the share that was right. What is absent is not shown.

import { drawn, element, foreign, plural } from "./dom.js";

const SIDE = 220;
const EDGE = 34;
const SHARES = /coverage|caught|error/i; // the numbers that are shares; the others are no percentages
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export function trust(metrics) {
  const section = element("section", { class: "trust", "aria-labelledby": "trust-title" }, element("h2", { id: "trust-title" }, "How far the confidence can be trusted"));
  if (!metrics) {
    section.append(element("p", {}, "These values come with scores, which rank them and are no probabilities: no calibration was used. Check some documents here, export the labels, and make one with ", element("code", {}, "tessera extract calibrate LABELS"), "."));
    return section;
  }
  const bins = (Array.isArray(metrics.diagram) ? metrics.diagram : []).filter((bin) => Array.isArray(bin) && bin.every(isNumber));
  if (isNumber(metrics.fields) && isNumber(metrics.documents)) {
    const right = isNumber(metrics.right) && metrics.fields > 0 ? `, ${percent(metrics.right / metrics.fields)} of them right` : "";
    section.append(element("p", {}, `Measured on ${plural(metrics.fields, "labelled value")} of ${plural(metrics.documents, "document")}${right}. No document's confidence comes from a calibration that saw it.`));
  }
  section.append(element("div", { class: "side-by-side" }, bins.length ? diagram(bins) : null, element("div", {}, ...tables(metrics, bins))));
  return section;
}

function tables(metrics, bins) {
  const hasBefore = metrics.before !== null && typeof metrics.before === "object"; // older calibrations have none
  const numbers = Object.entries(metrics.numbers ?? {}).filter(([, value]) => Array.isArray(value)).map(([name, [value, low, high]]) => {
    const shown = (number) => (SHARES.test(name) ? percent(number) : number.toFixed(3));
    const interval = isNumber(low) && isNumber(high) ? `${shown(low)} to ${shown(high)}` : "";
    const score = hasBefore ? [isNumber(metrics.before[name]?.[0]) ? shown(metrics.before[name][0]) : "none"] : [];
    return [name, ...score, isNumber(value) ? shown(value) : "none", interval];
  });
  const points = bins.map(([count, confidence, right]) => {
    const [low, high] = wilson(right, count);
    return [percent(confidence), percent(right), `${percent(low)} to ${percent(high)}`, count.toLocaleString("en")];
  });
  const kinds = Object.entries(metrics.kinds ?? {}).filter(([, value]) => Array.isArray(value) && value.every(isNumber) && value[0] > 0)
    .map(([kind, [count, right]]) => [kind, percent(right / count), count.toLocaleString("en")]);
  return [
    table(hasBefore ? ["Measure", "Score, before", "Confidence", "95 % interval"] : ["Measure", "Value", "95 % interval"], numbers),
    table(["Confidence", "Right", "95 % interval", "Values"], points),
    table(["Kind of value", "Right", "Values"], kinds),
  ].filter(Boolean);
}

function table(heads, rows) {
  if (!rows.length) return null;
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((text) => foreign(text, {}, "td"))))));
}

/** The 95 % interval of a share among so many (Wilson, 1927). */
function wilson(share, count) {
  if (count <= 0) return [0, 1];
  const square = 1.96 ** 2;
  const middle = share + square / (2 * count);
  const half = 1.96 * Math.sqrt((share * (1 - share)) / count + square / (4 * count * count));
  return [middle - half, middle + half].map((end) => Math.min(1, Math.max(0, end / (1 + square / count))));
}

const across = (share) => EDGE + share * SIDE;
const up = (share) => 8 + (1 - share) * SIDE;

function diagram(bins) {
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  const marks = bins.map(([count, confidence, right]) => {
    const [low, high] = wilson(right, count);
    const x = across(confidence);
    return drawn("g", {}, drawn("line", { class: "range", x1: x, x2: x, y1: up(low), y2: up(high) }), drawn("circle", { class: "point", cx: x, cy: up(right), r: 4 }));
  });
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
