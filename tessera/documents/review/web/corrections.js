// What a person said of the values: confirmed, or corrected to another value. Kept in this browser under a name that
// belongs to one report, and exported as labels and as CSV. It knows nothing of the page.
//
// A label holds only what a person looked at. A value that nobody confirmed or corrected is left out of it: labels made
// of unseen values would count them as right.

import { putAt, stepsOf, textOf, valueAt } from "./kinds.js";

const MOST_UNDONE = 500;
const FORMULA = /^\s*[=+\-@\t\r]/;
export const WHOLE = ""; // the path that stands for a whole record

export class Corrections {
  /** `shelf` is a Storage, or null where the browser keeps nothing. */
  constructor(name, shelf) {
    this.name = `tessera review ${name}`;
    this.shelf = shelf;
    this.kept = this.read(); // record's key -> path -> {} if confirmed, {value} if corrected
    this.done = []; // [key, path, what was said of the record before], the latest last
    this.isKept = shelf !== null;
  }

  read() {
    const kept = new Map();
    try {
      const { records } = JSON.parse(this.shelf?.getItem(this.name) ?? '{"records": []}');
      for (const [key, entries] of records) kept.set(String(key), new Map(entries));
    } catch {
      kept.clear(); // what is damaged or barred counts as nothing; it is written anew with the first change
    }
    return kept;
  }

  write() {
    try {
      const records = [...this.kept].map(([key, entries]) => [key, [...entries]]);
      this.shelf?.setItem(this.name, JSON.stringify({ records }));
      this.isKept = this.shelf !== null;
    } catch {
      this.isKept = false; // full or barred
    }
  }

  get = (key, path) => this.kept.get(key)?.get(path);
  has = (key, path) => this.get(key, path) !== undefined || this.get(key, WHOLE) !== undefined;

  get count() {
    return [...this.kept.values()].reduce((sum, entries) => sum + entries.size, 0);
  }

  confirm = (key, path) => this.put(key, path, {});
  correct = (key, path, value) => this.put(key, path, { value });

  put(key, path, entry) {
    const before = this.kept.get(key) ?? new Map();
    this.done.push([key, path, before]);
    if (this.done.length > MOST_UNDONE) this.done.shift();
    // A new whole value is made of what was corrected before, and replaces it.
    const entries = new Map(path === WHOLE && entry && "value" in entry ? [] : before);
    if (entry === undefined) entries.delete(path);
    else entries.set(path, entry);
    this.replace(key, entries);
  }

  /** Takes back what was said of a value. */
  remove = (key, path) => this.put(key, path, undefined);

  /** Takes back the last step and returns [key, path], or null. */
  undo() {
    const last = this.done.pop();
    if (!last) return null;
    const [key, path, entries] = last;
    this.replace(key, entries);
    return [key, path];
  }

  replace(key, entries) {
    if (entries.size) this.kept.set(key, entries);
    else this.kept.delete(key);
    this.write();
  }

  /** A value as it is now: as corrected, else as read. */
  current(record, path) {
    const [entry, whole] = [this.get(record.key, path), this.get(record.key, WHOLE)];
    if (entry && "value" in entry) return entry.value;
    if (!whole || !("value" in whole)) return this.asRead(record, path);
    const steps = stepsOf(whole.value, path);
    return steps === null ? null : valueAt(whole.value, steps);
  }

  /** The record's value with its corrections, in full. */
  corrected(record) {
    const whole = this.get(record.key, WHOLE);
    const value = structuredClone(whole && "value" in whole ? whole.value : record.value);
    for (const [path, entry] of this.kept.get(record.key) ?? []) {
      const steps = path === WHOLE || !("value" in entry) ? null : stepsOf(value, path);
      if (steps?.length) putAt(value, steps, entry.value);
    }
    return value;
  }

  /** One line of JSON for each record of which anything was confirmed or corrected. */
  labels(records) {
    const lines = [];
    for (const record of records) {
      if (record.value === null || !this.kept.has(record.key)) continue;
      const value = this.corrected(record);
      const seen = this.get(record.key, WHOLE) !== undefined ? value : this.seen(record, value, "");
      if (seen !== undefined) lines.push(line({ document: record.document, value: seen }));
    }
    return lines.join("");
  }

  /** The part of a value that a person looked at. In a list of objects, unseen ones are {}, so that others keep their
      numbers and none is lost; a list of texts or numbers counts only as a whole. */
  seen(record, value, path) {
    if (Array.isArray(value) && value.length) {
      const items = value.map((item, index) => this.seen(record, item, `${path}[${index}]`));
      const isOpen = items.every((item, index) => item !== undefined || (value[index] !== null && typeof value[index] === "object"));
      const isSeen = items.some((item) => item !== undefined);
      return isSeen && isOpen ? items.map((item) => item ?? {}) : undefined;
    }
    if (value !== null && typeof value === "object" && !Array.isArray(value)) {
      const parts = Object.entries(value)
        .map(([name, inner]) => [name, this.seen(record, inner, path ? `${path}.${name}` : name)])
        .filter(([, inner]) => inner !== undefined);
      return parts.length ? Object.fromEntries(parts) : undefined;
    }
    return this.get(record.key, path) === undefined ? undefined : value;
  }

  /** One row for each value that was confirmed or corrected; with the mark that tells spreadsheets of UTF-8. */
  csv(records) {
    const rows = [["document", "page", "field", "action", "read", "value"]];
    for (const record of records) {
      for (const [path, entry] of this.kept.get(record.key) ?? []) {
        const field = record.fields[path];
        const read = path === WHOLE ? record.value : this.asRead(record, path);
        const isCorrected = "value" in entry;
        const action = isCorrected ? "corrected" : "confirmed";
        const page = field?.box?.[0] ?? (record.pages.length === 1 ? record.pages[0] : "");
        rows.push([record.document, page, path || "(all)", action, textOf(read), textOf(isCorrected ? entry.value : read)]);
      }
    }
    return "\ufeff" + rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
  }

  asRead(record, path) {
    const steps = stepsOf(record.value, path);
    return steps === null ? record.fields[path]?.value : valueAt(record.value, steps);
  }
}

/** A line of JSON; what some readers take for the end of a line is escaped. */
const line = (value) => JSON.stringify(value).replace(/[\u0085\u2028\u2029]/g, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`) + "\n";

/** A cell of CSV; a text that a spreadsheet would run as a formula begins with an apostrophe (CWE-1236). */
function cell(value) {
  const text = String(value);
  const safe = FORMULA.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
