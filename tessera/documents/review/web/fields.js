// One value of a record as a row: what was read, how sure that is, what speaks against it, and the field to correct it.

import { button, element, foreign } from "./dom.js";
import { leafOf, textOf, typed } from "./kinds.js";
import { placeOf } from "./viewer.js";

const LONG = 60; // characters, from which on a value gets a field of several lines
const MOST_SHOWN = 600; // characters of a value in its row
const STATES = { blank: "left blank", missing: "not on the page", unreadable: "unreadable" };

/** A calibrated probability in per cent, never rounded to certainty; else a score by that name. */
export function sureness({ confidence, score }) {
  if (Number.isFinite(confidence)) {
    const percent = Math.min(99, Math.max(1, Math.round(100 * confidence)));
    return confidence > 0.995 ? "over 99 %" : confidence < 0.005 ? "under 1 %" : `${percent} %`;
  }
  return Number.isFinite(score) ? `score ${score.toFixed(2)}` : "";
}

/** What doubtful values are ordered by: the least certain first. */
export const certainty = ({ confidence, score }) => (Number.isFinite(confidence) ? confidence : Number.isFinite(score) ? score : 1);

const cut = (text) => (text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}…` : text);
const hidden = (text) => element("span", { class: "visually-hidden" }, text);

/** Whether a written text says more than the value made of it: "118,40" does of 118.4, and "118.40" does not. */
const saysMore = (raw, value) => raw !== "" && raw !== textOf(value) && !(value === null && raw === "null") && !(typeof value === "number" && Number(raw) === value);

/** `actions`: select, confirm, correct, edit, takeBack, each of a record and a path; `corrections` has what is kept. */
export function fieldRow(record, field, { actions, corrections, schema, isSelected }) {
  const { path } = field;
  const entry = corrections.get(record.key, path);
  const isDone = corrections.has(record.key, path);
  const value = corrections.current(record, path);
  const kind = isDone ? "done" : field.review ? "doubtful" : "";
  const name = button("", { class: "name", "aria-current": isSelected ? "true" : null }, () => actions.select(record, path));
  const parts = path.split(/(?=[.[])/).flatMap((part, index) => (index ? [element("wbr"), part] : [part]));
  name.append(element("bdi", { dir: "auto" }, ...parts), hidden(isDone ? ", checked" : field.review ? ", to review" : ""));
  const shown = value === null || value === undefined || value === "" ? element("span", { class: "nothing" }, "nothing") : foreign(cut(textOf(value)));
  const holder = element("div", { class: "value" }, hidden("Value: "), shown);
  const read = entry && "value" in entry ? textOf(field.value) : field.raw;
  if (saysMore(read, value)) holder.append(element("div", { class: "raw" }, "read: ", foreign(cut(read))));
  const checks = field.checks.map((text) => foreign(text, { class: "check" }, "li"));
  const facts = [STATES[field.state], field.box ? placeOf(field) : null].filter(Boolean).join(" · ");
  const about = element("div", { class: "about" }, checks.length ? element("ul", { class: "checks", "aria-label": "Failed checks" }, ...checks) : null, element("span", { class: "note" }, facts));
  const confirm = isDone
    ? button("Take back", { class: "quiet", "aria-label": `Take back ${path}` }, () => actions.takeBack(record, path))
    : button("Right", { class: "quiet", "aria-label": `${path} is right` }, () => actions.confirm(record, path));
  const edit = button("Correct", { class: "quiet", "aria-label": `Correct ${path}` }, () => actions.edit(record, path));
  const badge = isDone ? (entry && "value" in entry ? "corrected" : "confirmed") : "";
  const sure = element("div", { class: "sure" }, badge ? element("span", { class: "badge good" }, badge) : hidden("How sure: "), sureness(field));
  const row = element("li", { class: `field ${kind}`, "data-path": path, title: leafOf(schema, path, value).description || null }, name, holder, sure, about, element("div", { class: "actions" }, confirm, edit));
  // A click beside the buttons chooses the row as well; by keyboard its name does the same.
  row.addEventListener("click", (event) => {
    if (!event.target.closest("button, input, select, textarea, form")) actions.select(record, path);
  });
  return row;
}

/** Turns a row's value into a form; `end(value)` with what was written, `end()` when nothing is to change. */
export function editRow(row, path, value, leaf, end) {
  const control = controlOf(path, value, leaf);
  const isLong = control.tagName === "TEXTAREA";
  const form = formOf(control, (text) => typed(text, leaf), end, button("Nothing there", { class: "quiet" }, () => end(null)));
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !isLong || event.shiftKey || event.target !== control) return;
    event.preventDefault();
    form.requestSubmit();
  });
  row.querySelector(".value").replaceChildren(form);
  control.focus({ preventScroll: true });
  control.select?.();
  row.scrollIntoView({ block: "nearest" });
}

/** Turns an element into a form for a whole record. */
export function editJson(holder, label, value, end) {
  const control = element("textarea", { class: "json", rows: "14", "aria-label": label, spellcheck: "false" });
  control.value = JSON.stringify(value, null, 2);
  const parsed = (text) => {
    try {
      const found = JSON.parse(text);
      if (found !== null && typeof found === "object" && !Array.isArray(found)) return { value: found };
    } catch (error) {
      return { problem: `This is no JSON: ${error.message}` };
    }
    return { problem: "A record is an object: write {...}." };
  };
  holder.replaceChildren(element("li", { class: "whole" }, formOf(control, parsed, end)));
  control.focus();
}

function formOf(control, parsed, end, ...more) {
  const problem = element("p", { class: "error", role: "alert" });
  const buttons = [element("button", { type: "submit" }, "Save"), ...more, button("Cancel", { class: "quiet" }, () => end())];
  const form = element("form", { class: "edit" }, control, element("div", { class: "line" }, ...buttons), problem);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const found = parsed(control.value);
    if (!found.problem) return end(found.value);
    problem.textContent = found.problem;
    control.setAttribute("aria-invalid", "true");
    return control.focus();
  });
  form.addEventListener("keydown", (event) => {
    event.stopPropagation(); // the page's own keys
    if (event.key === "Escape") end();
  });
  return form;
}

function controlOf(path, value, leaf) {
  const attributes = { "aria-label": `Value of ${path}`, dir: "auto", autocomplete: "off", spellcheck: "false" };
  const text = textOf(value);
  if (leaf.kind === "choice" || leaf.kind === "boolean") {
    const choices = leaf.kind === "boolean" ? ["true", "false"] : leaf.choices.map(String);
    const made = element("select", attributes, ...["", ...choices].map((choice) => element("option", { value: choice }, choice || "nothing")));
    made.value = choices.includes(text) ? text : "";
    return made;
  }
  const isLong = text.length > LONG || text.includes("\n");
  const made = element(isLong ? "textarea" : "input", isLong ? { ...attributes, rows: "4" } : { ...attributes, inputmode: leaf.kind === "text" ? null : "decimal" });
  made.value = text;
  return made;
}
