// What a schema says of a value, by the value's path ("items[2].amount"), and texts as typed values. A name may itself
// hold dots or brackets, so a path is followed along what is there, the longest name first.

const MOST_STEPS = 64;
const NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i;

/** The steps of a path within a value: names and indices, or null if it leads nowhere. */
export function stepsOf(value, path) {
  const steps = [];
  let rest = path;
  while (rest && steps.length < MOST_STEPS) {
    let step;
    if (Array.isArray(value)) {
      const found = /^\[(\d+)\]\.?/.exec(rest);
      if (!found || Number(found[1]) >= value.length) return null;
      step = Number(found[1]);
      rest = rest.slice(found[0].length);
    } else {
      const fits = (name) => rest === name || (rest.startsWith(name) && ".[".includes(rest[name.length]));
      const names = Object.keys(value ?? {}).filter(fits).sort((one, other) => other.length - one.length);
      if (!names.length) return null;
      step = names[0];
      rest = rest.slice(step.length).replace(/^\./, "");
    }
    steps.push(step);
    value = value[step];
  }
  return rest ? null : steps;
}

export const valueAt = (value, steps) => steps.reduce((inner, step) => inner?.[step], value);

/** Puts a value where the steps lead; nothing is made on the way. */
export function putAt(value, steps, put) {
  const holder = valueAt(value, steps.slice(0, -1));
  if (holder !== null && typeof holder === "object") {
    Object.defineProperty(holder, steps.at(-1), { value: put, writable: true, enumerable: true, configurable: true });
  }
}

/** {kind, choices, description} of a leaf: kind is text, number, integer, boolean or choice. */
export function leafOf(schema, path, value) {
  let part = resolved(schema, schema);
  let rest = path;
  for (let step = 0; rest && part && step < MOST_STEPS; step++) {
    const index = /^\[\d+\]\.?/.exec(rest);
    if (index) {
      part = resolved(part.items, schema);
      rest = rest.slice(index[0].length);
      continue;
    }
    const fits = (name) => rest === name || (rest.startsWith(name) && ".[".includes(rest[name.length]));
    const name = Object.keys(part.properties ?? {}).filter(fits).sort((one, other) => other.length - one.length)[0];
    part = name === undefined ? null : resolved(part.properties[name], schema);
    rest = name === undefined ? "" : rest.slice(name.length).replace(/^\./, "");
  }
  const description = typeof part?.description === "string" ? part.description : "";
  if (Array.isArray(part?.enum)) return { kind: "choice", choices: part.enum.filter((each) => each !== null), description };
  const kinds = { number: "number", integer: "integer", boolean: "boolean", string: "text" };
  const types = [part?.type].flat().filter((type) => type in kinds);
  const known = kinds[types[0]] ?? { number: "number", boolean: "boolean" }[typeof value] ?? "text";
  return { kind: types.length > 1 ? "text" : known, choices: [], description };
}

/** A part of a schema with its reference followed, and of "this or null" the first that says something. */
function resolved(part, schema) {
  for (let step = 0; part && typeof part === "object" && step < MOST_STEPS; step++) {
    const options = part.anyOf ?? part.oneOf;
    if (typeof part.$ref === "string") {
      const names = part.$ref.replace(/^#\/?/, "").split("/").filter(Boolean);
      part = names.reduce((inner, name) => (inner && Object.hasOwn(inner, name) ? inner[name] : null), schema);
    } else if (Array.isArray(options)) {
      part = options.find((option) => option?.type !== "null") ?? null;
    } else {
      return part;
    }
  }
  return null;
}

/** {value} of what was typed for a leaf, or {problem}. */
export function typed(text, leaf) {
  if (leaf.kind === "choice") return { value: leaf.choices.find((each) => String(each) === text) ?? null };
  if (leaf.kind === "boolean") return { value: text === "" ? null : text === "true" };
  if (leaf.kind === "text") return { value: text };
  const kept = text.trim();
  if (kept === "") return { value: null };
  if (!NUMBER.test(kept)) return { problem: "Write a number with a point and without other signs, such as 1234.50." };
  const value = Number(kept);
  if (!Number.isFinite(value)) return { problem: "The number is too large." };
  if (leaf.kind === "integer" && !Number.isSafeInteger(value)) return { problem: "Write a whole number." };
  return { value };
}

/** A value as text: what is null is empty. */
export const textOf = (value) => (value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));
