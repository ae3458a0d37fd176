// The settings beside the conversation: reads, checks and keeps them. A field that is wrong says so below itself and
// keeps the question from being sent; nothing is corrected silently. What differs from the beginning is marked at
// the button, because a forgotten system prompt is hard to guess from an answer.

import { byId } from "./dom.js";
import { openPanel, startPanel } from "./panels.js";

const SHELF = `tessera settings ${location.pathname}`;
const FIELDS = ["system", "temperature", "max-tokens", "schema"];

/** {system, temperature, maxTokens, schema}, or null when a field is wrong, which then is shown and focused. */
export function readSettings() {
  const read = CHECKS.map(([id, check]) => checked(id, check));
  const wrong = CHECKS.find((_, index) => read[index] === WRONG);
  if (wrong) {
    openPanel("settings", true);
    byId(wrong[0]).focus();
    return null;
  }
  const [temperature, maxTokens, schema] = read;
  return { system: byId("system").value.trim(), temperature, maxTokens, schema };
}

const WRONG = Symbol("wrong");
const CHECKS = [["temperature", checkTemperature], ["max-tokens", checkMaxTokens], ["schema", checkSchema]];

function checked(id, check) {
  const field = byId(id);
  const shown = byId(`${id}-error`);
  try {
    const value = check(field.value.trim());
    shown.textContent = "";
    field.removeAttribute("aria-invalid");
    return value;
  } catch (error) {
    shown.textContent = error.message;
    field.setAttribute("aria-invalid", "true");
    return WRONG;
  }
}

function checkTemperature(text) {
  const value = Number(text.replace(",", "."));
  if (text === "" || !(value >= 0 && value <= 2)) throw new Error("The temperature is a number from 0 to 2.");
  return value;
}

function checkMaxTokens(text) {
  if (text === "") return null; // as many as the context has room for
  if (!/^\d+$/.test(text) || Number(text) < 1) throw new Error("Max tokens must be a whole number above 0, or empty.");
  return Number(text);
}

function checkSchema(text) {
  if (text === "") return null;
  let schema;
  try {
    schema = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}.`);
  }
  if (schema === null || typeof schema !== "object" || Array.isArray(schema)) {
    throw new Error("A JSON schema is an object, for example {\"type\": \"object\"}.");
  }
  return schema;
}

const values = () => Object.fromEntries(FIELDS.map((id) => [id, byId(id).value]));

function markChanges() {
  const changed = FIELDS.some((id) => byId(id).value !== byId(id).defaultValue);
  byId("settings-button").classList.toggle("changed", changed);
  byId("settings-button").title = changed ? "Some settings are not as they were at first" : "";
}

function keepSettings() {
  markChanges();
  try {
    localStorage.setItem(SHELF, JSON.stringify(values())); // at once, so that a reload right after loses nothing
  } catch {
    return; // a browser that keeps nothing: they last as long as the page
  }
}

/** As they were when the page was last open. */
export function restoreSettings() {
  const kept = keptSettings();
  for (const id of FIELDS) {
    if (typeof kept[id] === "string") byId(id).value = kept[id];
  }
  markChanges();
}

function keptSettings() {
  try {
    return JSON.parse(localStorage.getItem(SHELF)) ?? {};
  } catch {
    return {};
  }
}

export function startSettings() {
  startPanel("settings", "system");
  byId("settings").addEventListener("input", keepSettings);
  byId("settings-reset").addEventListener("click", () => {
    for (const id of FIELDS) byId(id).value = byId(id).defaultValue;
    for (const [id, check] of CHECKS) checked(id, check);
    keepSettings();
  });
  for (const [id, check] of CHECKS) byId(id).addEventListener("change", () => checked(id, check));
}
