// The settings beside the conversation: reads and checks them. A field that is wrong says so below itself and
// keeps the question from being sent; nothing is corrected silently.

import { byId } from "./dom.js";

/** {system, temperature, maxTokens, schema}, or null when a field is wrong, which then is shown and focused. */
export function readSettings() {
  const checks = [
    ["temperature", checkTemperature],
    ["max-tokens", checkMaxTokens],
    ["schema", checkSchema],
  ];
  const values = checks.map(([id, check]) => checked(id, check));
  const wrong = checks.find((_, index) => values[index] === WRONG);
  if (wrong) {
    openSettings(true);
    byId(wrong[0]).focus();
    return null;
  }
  const [temperature, maxTokens, schema] = values;
  return { system: byId("system").value.trim(), temperature, maxTokens, schema };
}

const WRONG = Symbol("wrong");

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
  if (!/^\d+$/.test(text) || Number(text) < 1) throw new Error("The most tokens of a reply are a whole number above 0, or empty.");
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

function openSettings(open) {
  byId("settings").hidden = !open;
  byId("settings-button").setAttribute("aria-expanded", String(open));
}

export function startSettings() {
  const panel = byId("settings");
  const opener = byId("settings-button");
  const close = () => {
    openSettings(false);
    opener.focus();
  };
  opener.addEventListener("click", () => {
    openSettings(panel.hidden);
    if (!panel.hidden) byId("system").focus();
  });
  byId("settings-close").addEventListener("click", close);
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    close();
  });
  for (const [id, check] of [["temperature", checkTemperature], ["max-tokens", checkMaxTokens], ["schema", checkSchema]]) {
    byId(id).addEventListener("change", () => checked(id, check));
  }
}
