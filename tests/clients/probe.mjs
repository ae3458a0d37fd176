// What the scripts of all JavaScript clients share, the twin of probe.py: the question they ask, and one JSON line
// for each feature. The suite (`run.py`) passes the server's address, key and model in CLIENT_SUITE.

import { readFileSync } from "node:fs";

const suite = JSON.parse(process.env.CLIENT_SUITE);
export const { url: URL_, key: KEY, model: MODEL, question: QUESTION, answer: ANSWER, tools: TOOLS } = suite;
export const IMAGE_TOKENS = suite.image_tokens;
export const IMAGE = `data:image/png;base64,${readFileSync(suite.image).toString("base64")}`;
export const BROKEN_IMAGE = "data:image/png;base64,AAAA";
export const NO_MODEL = "a-model-that-is-not-here";
export const TOOL = "convert"; // the one of the tools that is asked for by name
export const RESULT = '{"amount": 16.2, "currency": "USD"}';
export const MAX_TOKENS = 300;

export function same(found, expected) {
  const [one, other] = [found, expected].map((value) => JSON.stringify(value));
  if (one !== other) throw new Error(`got ${one}, not ${other}`);
}

export function holds(condition, text) {
  if (!condition) throw new Error(text);
}

/** The text of the error that `action` must end with, all `words` in it. */
export async function refused(action, kind, ...words) {
  let result;
  try {
    result = await action();
  } catch (error) {
    holds(error instanceof kind, `${error.name} is raised, not ${kind.name}: ${error.message}`);
    const text = [error.message, error.code, error.status, error.statusCode, error.body, error.responseBody].join(" ");
    holds(words.every((word) => text.includes(word)), `${words} not all in ${text}`);
    return text;
  }
  throw new Error(`no ${kind.name}, but ${JSON.stringify(result)}`);
}

/** A tool call must name a tool, fit its schema, and have an id in Mistral's form; gives the arguments. */
export function checkCall(name, given, id) {
  const tool = TOOLS.find((tool) => tool.function.name === name);
  holds(tool, `${name} is no tool`);
  holds(/^[a-zA-Z0-9]{9}$/.test(id), `the id of a call is ${id}`);
  const values = typeof given === "string" ? JSON.parse(given) : given;
  const { properties } = tool.function.parameters;
  for (const [field, schema] of Object.entries(properties)) {
    holds(schema.enum.includes(values[field]), `${field} is ${values[field]}`);
  }
  same(Object.keys(values).sort(), Object.keys(properties).sort());
  return values;
}

/** Try every feature, `{name: function}`, and print a line for each. */
export async function run(features) {
  for (const [feature, action] of Object.entries(features)) {
    let line;
    try {
      line = { feature, ok: true, seen: String(await action()) };
    } catch (error) {
      console.error(error);
      line = { feature, ok: false, seen: `${error.name}: ${error.message}`.slice(0, 2000) };
    }
    console.log(`{"feature": ${JSON.stringify(line.feature)}, "ok": ${line.ok}, "seen": ${JSON.stringify(line.seen)}}`);
  }
}
