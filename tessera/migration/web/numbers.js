// The numbers of a comparison as tables: agreement and errors by field, rows of lists, and what each model cost.

import { element, foreign } from "../../documents/review/web/dom.js";

const grouped = (value) => Number(value).toLocaleString("en");
const share = (value) => `${(100 * value).toFixed(1)} %`;
const ratio = (value, count, digits) => (count ? (value / count).toLocaleString("en", { maximumFractionDigits: digits }) : "");
const bytes = (value) => `${(value / 2 ** 20).toLocaleString("en", { maximumFractionDigits: 0 })} MiB`;

export function numbers(summary) {
  return element("section", { class: "numbers", id: "numbers", "aria-label": "Numbers" },
    overall(summary), fields(summary), ...(summary.groups.length ? [groups(summary)] : []), costs(summary), conditions(summary));
}

function overall(summary) {
  const rows = [["Agreement", interval(summary.agreement)]];
  if (summary.old_right) {
    rows.push([`Right, ${summary.sides[0].name}`, interval(summary.old_right)], [`Right, ${summary.sides[1].name}`, interval(summary.new_right)]);
  }
  const { value, low, high } = summary.difference;
  rows.push(
    ["Right values, new less old", `${signed(value)} (${signed(low)} to ${signed(high)})`],
    ["New errors, fixed errors", `${grouped(summary.new_errors)}, ${grouped(summary.fixed)} (McNemar's p = ${summary.p.toPrecision(2)})`],
    ["Both wrong, undecided", `${grouped(summary.neither)}, ${grouped(summary.undecided)}`],
    ["Documents with all values alike", `${grouped(summary.equal_documents)} of ${grouped(summary.documents)}`],
  );
  if (summary.surety.count) {
    const shift = summary.surety;
    rows.push(["Sureness, new less old", `${signed(shift.value)} (${signed(shift.low)} to ${signed(shift.high)}), ${grouped(shift.count)} values`]);
  }
  return part("All values", ["", "95 % intervals"], rows);
}

function fields(summary) {
  const isLabelled = summary.fields.some((field) => field.labelled);
  const heads = ["Field", "Agreement", "Exact", "Normalised", "As numbers", "As dates", "As texts", "ANLS", "New errors", "Fixed", "Undecided", ...(isLabelled ? ["Right, old", "Right, new", "Labels"] : [])];
  const rows = summary.fields.map((field) => [
    foreign(field.name), interval(field.agreement),
    ...["exact", "normalised", "number", "date", "text"].map((how) => grouped(field.how[how] ?? 0)),
    field.similarity === null ? "" : field.similarity.toFixed(3), grouped(field.new_errors), grouped(field.fixed), grouped(field.undecided),
    ...(isLabelled ? [grouped(field.old_right), grouped(field.new_right), grouped(field.labelled)] : []),
  ]);
  return part("By field", heads, rows);
}

function groups(summary) {
  const heads = ["List", "Rows, old", "Rows, new", "Alike in all values", "Rows by labels", "Wholly right, old", "Wholly right, new"];
  const rows = summary.groups.map((group) => [
    foreign(group.name), grouped(group.old), grouped(group.new), `${grouped(group.agree)} of ${grouped(group.rows)}`,
    ...(group.labelled ? [grouped(group.truth), grouped(group.old_right), grouped(group.new_right)] : ["", "", ""]),
  ]);
  return part("Rows of lists", heads, rows);
}

function costs(summary) {
  const both = (name, of) => [name, ...summary.sides.map(of)];
  const codes = (failed) => Object.entries(failed).map(([code, count]) => `${code} ${grouped(count)}`).join(", ");
  return part("What happened", ["", ...summary.sides.map((side) => foreign(side.name))], [
    both("Documents, pages", (side) => `${grouped(side.documents)}, ${grouped(side.pages)}`),
    both("Failed documents", (side) => codes(side.failed) || "0"),
    both("Refusals", (side) => grouped(side.refused)),
    both("Replies that looped, were cut or no JSON", (side) => grouped(side.problems)),
    both("Asked again", (side) => grouped(side.retried)),
    both("Records for review", (side) => grouped(side.review)),
    both("Seconds a page, in replies", (side) => ratio(side.seconds, side.pages, 2)),
    both("Tokens a page, in", (side) => ratio(side.prompt_tokens, side.pages, 0)),
    both("Tokens a page, out", (side) => ratio(side.completion_tokens, side.pages, 0)),
    both("Most memory, if here", (side) => (side.facts.memory_bytes ? bytes(side.facts.memory_bytes) : "")),
  ]);
}

function conditions(summary) {
  const names = [...new Set(summary.sides.flatMap((side) => Object.keys(side.facts)))].filter((name) => name !== "memory_bytes");
  return part("Conditions", ["", ...summary.sides.map((side) => foreign(side.name))],
    names.map((name) => [name.replaceAll("_", " "), ...summary.sides.map((side) => foreign(String(side.facts[name] ?? "")))]));
}

function part(title, heads, rows) {
  const cells = (tag, row) => row.map((cell) => element(tag, {}, cell));
  return element("div", {}, element("h2", {}, title), element("div", { class: "wide" },
    element("table", {}, element("tr", {}, ...cells("th", heads)), ...rows.map((row) => element("tr", {}, ...cells("td", row))))));
}

/** A share with its interval, drawn and written. Widths are set through the object model: the policy bars style attributes. */
function interval({ value, low, high, count }) {
  if (!count) return "";
  const bar = element("span", { class: "bar", "aria-hidden": "true" });
  const range = element("i");
  const middle = element("b");
  Object.assign(range.style, { left: `${100 * low}%`, width: `${Math.max(1, 100 * (high - low))}%` });
  middle.style.left = `${Math.min(98, 100 * value)}%`;
  bar.append(range, middle);
  return element("span", {}, bar, `${share(value)} (${share(low)} to ${share(high)})`);
}

const signed = (value) => `${value >= 0 ? "+" : "−"}${share(Math.abs(value))}`;
