// The review: records with the doubtful ones first, their values, the page beside them, and keys to go through it all.
//
// const review = startReview(root, {title, digest, schema, metrics, counts, limits, imageOf, shelf});
// review.add(records) as they come. A record is what `record_object` in stored.py writes; `key` tells it from others
// and is its number if absent. The page that holds `root` brings colours.css, or colours of its own by those names.

import { Corrections, WHOLE } from "./corrections.js";
import { trust } from "./diagram.js";
import { button, element, foreign, plural, save } from "./dom.js";
import { certainty, editJson, editRow, fieldRow } from "./fields.js";
import { leafOf, textOf } from "./kinds.js";
import { Viewer } from "./viewer.js";

const PAGE = 100; // records drawn at once
const MOST_PRINTED = 200;
const MOST_PREVIEWED = 4; // values beside a document's name
const PREVIEW = 28; // characters of each
const KEYS = [
  ["j, ↓", "next value"], ["k, ↑", "previous value"], ["n", "next doubtful value"], ["p", "previous doubtful value"],
  ["c", "it is right; go to the next doubtful one"], ["Shift C", "all values of the document are right"],
  ["Enter", "correct it (Enter saves, Escape leaves)"], ["x", "there is nothing on the page"], ["u", "undo"], ["?", "these keys"],
];
const HINT = "Choose a document, or press n for the first doubtful value.";
const FILTERS = [["all", "All"], ["review", "To review"], ["failed", "Failed"]];

export function startReview(root, given) {
  return new Review(root, given);
}

class Review {
  constructor(root, given) {
    this.given = given;
    this.corrections = new Corrections(given.digest, given.shelf ?? null);
    this.records = [];
    this.shown = [];
    this.filter = "all";
    this.words = "";
    this.drawn = PAGE;
    this.at = null; // [record, path]: the chosen value; the path is null for a record itself
    this.viewer = new Viewer(given.imageOf);
    this.actions = Object.fromEntries(["select", "confirm", "edit", "takeBack"].map((name) => [name, this[name].bind(this)]));
    this.build(root);
    document.addEventListener("keydown", (event) => this.onKey(event));
    addEventListener("beforeprint", () => this.draw(true));
    addEventListener("afterprint", () => this.draw());
  }

  build(root) {
    this.facts = element("p", { class: "facts" });
    this.codes = element("div", {});
    this.list = element("ol", { class: "records", "aria-label": "Documents" });
    this.more = button("", { class: "quiet" }, () => { this.drawn += PAGE; this.draw(); });
    this.more.hidden = true; // until there are records
    this.status = element("p", { class: "status", role: "status" });
    this.filters = element("fieldset", { class: "filters" }, element("legend", { class: "visually-hidden" }, "Show"));
    const search = element("input", { type: "search", placeholder: "Find a document or value", "aria-label": "Find a document or value", autocomplete: "off" });
    search.addEventListener("input", () => { this.words = search.value.toLowerCase(); this.choose(); });
    this.single = element("input", { type: "checkbox" });
    this.single.checked = this.recall("keys") !== "off";
    this.single.addEventListener("change", () => this.remember("keys", this.single.checked ? "on" : "off"));
    this.help = element("details", { class: "keys" }, element("summary", {}, "Keys"),
      element("dl", {}, ...KEYS.flatMap(([keys, what]) => [element("dt", {}, ...keys.split(", ").flatMap((key, index) => [index ? " " : "", element("kbd", {}, key)])), element("dd", {}, what)])),
      element("label", { class: "line" }, this.single, "Keys are on"));
    const tools = element("div", { class: "line tools" }, this.filters, search,
      button("Labels (JSONL)", { class: "quiet" }, () => this.exportAs("jsonl")), button("Corrections (CSV)", { class: "quiet" }, () => this.exportAs("csv")),
      button("Undo", { class: "quiet" }, () => this.undo()));
    root.replaceChildren(
      element("header", { class: "head" }, foreign(this.given.title, {}, "h1"), this.facts, this.codes, tools, this.help), this.status,
      element("div", { class: "columns" }, element("section", { "aria-label": "Documents" }, this.list, this.more), this.viewer.root),
      trust(this.given.metrics));
    root.classList.add("review");
    this.say(HINT);
  }

  /** Takes records; those of a key that is there already replace it. */
  add(records) {
    const known = new Map(this.records.map((record, index) => [record.key, index]));
    for (const given of records) {
      const record = prepared(given, this.records.length);
      if (known.has(record.key)) this.records[known.get(record.key)] = { ...record, number: known.get(record.key) };
      else known.set(record.key, this.records.push(record) - 1);
    }
    // A correction that is being written stays; the list follows when it is done.
    this.isStale = this.list.querySelector("form") !== null;
    if (this.isStale) this.summarize();
    else this.choose(this.drawn);
  }

  // ---- what is shown

  isOpen = (record, field) => field.review && !this.corrections.has(record.key, field.path);
  openOf = (record) => record.list.filter((field) => this.isOpen(record, field));
  isDoubtful = (record) => this.openOf(record).length > 0 || (this.asksItself(record) && !this.corrections.get(record.key, WHOLE));
  asksItself = (record) => record.error === null && record.review && (record.checks.length > 0 || !record.list.some(({ review }) => review));

  /** Chooses and orders the records anew: the least certain first. */
  choose(count = PAGE) {
    this.isStale = false;
    const passes = {
      all: () => true,
      review: (record) => record.error === null && this.isDoubtful(record),
      failed: (record) => record.error !== null,
    };
    const fits = (record) => passes[this.filter](record) && (!this.words || record.text().includes(this.words));
    const rank = (record) => (record.error !== null ? 1 : this.isDoubtful(record) ? 0 : 2);
    this.shown = this.records.filter(fits).map((record) => ({ record, rank: rank(record) }))
      .sort((one, other) => one.rank - other.rank || one.record.least - other.record.least || one.record.number - other.record.number)
      .map(({ record }) => record);
    this.drawn = count;
    const chosen = this.at && this.shown.find(({ key }) => key === this.at[0].key);
    this.at = chosen ? [chosen, this.at[1]] : null;
    this.draw();
  }

  draw(isPrinted = false) {
    const count = isPrinted ? MOST_PRINTED : this.drawn;
    const hadFocus = this.list.contains(document.activeElement);
    this.list.replaceChildren(...this.shown.slice(0, count).map((record) => this.item(record, isPrinted || undefined)));
    if (hadFocus && this.at) this.nameOf(...this.at)?.focus({ preventScroll: true });
    const left = this.shown.length - count;
    this.more.hidden = left <= 0;
    this.more.textContent = `Show ${Math.min(PAGE, left)} more of ${left}`;
    if (!this.shown.length) this.list.append(element("li", { class: "note" }, this.words ? "No document or value holds these words." : "There is none."));
    this.summarize();
  }

  /** Draws one record anew, where it stands. */
  redraw(record) {
    const old = this.list.querySelector(`[data-key="${CSS.escape(record.key)}"]`);
    old?.replaceWith(this.item(record));
    this.summarize();
  }

  item(record, isUnfolded = this.at?.[0] === record) {
    const open = this.openOf(record).length;
    const isChecked = record.error === null && !this.isDoubtful(record) && this.corrections.kept.has(record.key);
    const badge = (kind, text) => element("span", { class: `badge ${kind}` }, text);
    const badges = [
      record.error !== null ? badge("bad", record.error) : null,
      open ? badge("warn", `${open} to review`) : record.error === null && this.isDoubtful(record) ? badge("warn", "to review") : null,
      isChecked ? badge("good", "checked") : null,
      record.retried ? badge("", "read again") : null,
    ];
    const name = button("", { class: "document", "aria-expanded": String(Boolean(isUnfolded)) }, () => (isUnfolded ? this.fold() : this.select(record, null)));
    name.append(foreign(record.document), element("span", { class: "note" }, pagesText(record.pages)), ...badges.filter(Boolean));
    if (!isUnfolded && record.error === null) name.append(this.preview(record));
    const made = element("li", { class: "record", "data-key": record.key }, element("h2", {}, name));
    if (isUnfolded) made.append(...this.inside(record));
    return made;
  }

  /** The first values of a record, so that the list tells one document from the next. */
  preview(record) {
    const values = [];
    for (const { path } of record.list) {
      const text = textOf(this.corrections.current(record, path)).replace(/\s+/g, " ").trim();
      if (text) values.push(text.length > PREVIEW ? `${text.slice(0, PREVIEW - 1)}…` : text);
      if (values.length === MOST_PREVIEWED) break;
    }
    return element("span", { class: "note preview" }, ...values.flatMap((text, index) => [index ? " · " : "", foreign(text)]));
  }

  inside(record) {
    if (record.error !== null) return [element("p", { class: "error" }, foreign(record.message ?? record.error))];
    const checks = record.checks.map((text) => foreign(text, { class: "check" }, "li"));
    const isWhole = this.corrections.get(record.key, WHOLE) !== undefined;
    const all = isWhole
      ? button("Take back: all are right", { class: "quiet" }, () => this.takeBack(record, WHOLE))
      : button("All are right", { class: "quiet", "aria-label": `All values of ${record.document} are right` }, () => this.confirm(record, WHOLE));
    const context = { actions: this.actions, corrections: this.corrections, schema: this.given.schema };
    const rows = record.list.map((field) => fieldRow(record, field, { ...context, isSelected: this.at?.[0] === record && this.at[1] === field.path }));
    const notes = (record.notes ?? []).map((text) => element("p", { class: "note" }, foreign(text)));
    return [checks.length ? element("ul", { class: "checks whole" }, ...checks) : null, ...notes, element("ol", { class: "fields", "aria-label": "Values" }, ...rows), this.wholeOf(record), element("div", { class: "line" }, all, button("Correct as JSON", { class: "quiet", "aria-label": `Correct ${record.document} as JSON` }, () => this.editWhole(record)))].filter(Boolean);
  }

  /** What a record was corrected to as JSON: rows that were added have no place among its values. */
  wholeOf(record) {
    const whole = this.corrections.get(record.key, WHOLE);
    if (!whole || !("value" in whole)) return null;
    return element("pre", { tabindex: "0", "aria-label": "Corrected as JSON", dir: "auto" }, JSON.stringify(this.corrections.corrected(record), null, 1));
  }

  summarize() {
    const { counts = {} } = this.given;
    const failed = this.records.filter(({ error }) => error !== null);
    const doubtful = this.records.filter((record) => record.error === null && this.isDoubtful(record));
    const open = doubtful.reduce((sum, record) => sum + this.openOf(record).length, 0);
    const parts = [plural(this.records.length, "document"), `${doubtful.length} to review with ${plural(open, "doubtful value")}`, `${failed.length} failed`, `${this.corrections.count} confirmed or corrected`];
    if (!this.corrections.isKept) parts.push("this browser keeps nothing: export before you close the page");
    this.facts.textContent = parts.join(" · ");
    const left = [[counts.records_left_out, "document"], [counts.images_left_out, "page image"], [counts.images_failed, "page image"]];
    const why = ["left out, since the report was full", "left out, since the report was full", "could not be drawn"];
    const notes = left.flatMap(([count, noun], index) => (count ? [`${plural(count, noun)} ${why[index]}`] : []));
    const tally = new Map();
    for (const { error } of failed) tally.set(error, (tally.get(error) ?? 0) + 1);
    const errors = [...tally].sort((one, other) => other[1] - one[1]).map(([code, count]) => `${code} ${count}`);
    this.codes.replaceChildren(...[errors.length ? `Failures: ${errors.join(", ")}` : "", notes.join("; ")].filter(Boolean).map((text) => element("p", { class: "note" }, text)));
    const totals = { all: this.records.length, review: doubtful.length, failed: failed.length };
    for (const [name, label] of FILTERS) {
      let control = this.filters.querySelector(`[value=${name}]`);
      if (!control) {
        control = element("input", { type: "radio", name: "filter", value: name, class: "visually-hidden" });
        control.checked = name === this.filter;
        control.addEventListener("change", () => { this.filter = name; this.choose(); });
        this.filters.append(element("label", {}, control, element("span", {})));
      }
      control.nextSibling.textContent = `${label} ${totals[name]}`;
    }
  }

  // ---- going through

  select(record, path, focus = true) {
    if (this.isStale) this.choose(this.drawn);
    const before = this.at?.[0];
    const index = this.shown.findIndex(({ key }) => key === record.key);
    if (index < 0) return;
    record = this.shown[index]; // which may have come anew
    this.at = [record, path];
    if (this.status.textContent === HINT) this.say("");
    if (index >= this.drawn) {
      this.drawn = Math.ceil((index + 1) / PAGE) * PAGE;
      this.draw();
    } else {
      if (before && before !== record) this.redraw(before);
      this.redraw(record);
    }
    const target = this.nameOf(record, path);
    if (focus) target?.focus({ preventScroll: true });
    target?.closest("li")?.scrollIntoView({ block: "nearest" });
    if (record.pages.length) this.viewer.show(record, record.fields[path] ?? null);
  }

  nameOf(record, path) {
    const item = this.list.querySelector(`[data-key="${CSS.escape(record.key)}"]`);
    return item?.querySelector(path === null ? ".document" : `[data-path="${CSS.escape(path)}"] .name`);
  }

  fold() {
    const [record] = this.at;
    this.at = null;
    this.redraw(record);
    this.nameOf(record, null)?.focus();
  }

  /** Goes to the next value, or the next that passes `wanted`; records without values count as one. */
  move(by, wanted = null) {
    const count = this.shown.length;
    const stopsOf = (record) => {
      const own = record.list.map(({ path }) => path);
      if (!wanted) return own.length ? own : [null];
      const open = this.openOf(record).map(({ path }) => path);
      return open.length || record.error !== null ? open : this.isDoubtful(record) ? [null] : [];
    };
    let index = this.at ? this.shown.indexOf(this.at[0]) : by > 0 ? -1 : count;
    if (this.at) {
      const [record, path] = this.at;
      const place = record.list.findIndex((field) => field.path === path);
      const stops = stopsOf(record).filter((stop) => stop !== null).map((stop) => record.list.findIndex((field) => field.path === stop));
      const next = by > 0 ? stops.find((stop) => stop > place) : stops.findLast((stop) => stop < place);
      if (next !== undefined) return this.select(record, record.list[next].path);
    }
    // A search for doubtful values goes round once; plain steps end at the ends.
    for (let step = 0; step < count; step++) {
      index += by;
      if (wanted) index = (index + count) % count;
      if (index < 0 || index >= count) return;
      const stops = stopsOf(this.shown[index]);
      if (stops.length) return this.select(this.shown[index], by > 0 ? stops[0] : stops.at(-1));
    }
    if (wanted) this.say("No doubtful value is left here.");
  }

  nextDoubtful = () => this.move(1, "doubtful");

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.single.checked) return;
    if (event.target.closest?.("input:not([type=radio], [type=checkbox]), select, textarea")) return;
    const isControl = event.target.closest?.("button:not(.name), summary, a, input");
    const [record, path] = this.at ?? [];
    const field = record?.fields[path];
    const acts = {
      j: () => this.move(1), ArrowDown: () => this.move(1), k: () => this.move(-1), ArrowUp: () => this.move(-1),
      n: this.nextDoubtful, p: () => this.move(-1, "doubtful"), u: () => this.undo(), "?": () => (this.help.open = !this.help.open),
      c: () => record && record.error === null && (this.confirm(record, field ? path : WHOLE), this.nextDoubtful()),
      C: () => record && record.error === null && (this.confirm(record, WHOLE), this.nextDoubtful()),
      x: () => field && this.correct(record, path, null),
      Enter: () => field && this.edit(record, path),
    };
    const act = acts[event.key];
    const isOwn = event.key === "Enter" ? isControl || !field : event.key.startsWith("Arrow") && event.target.closest?.("input");
    if (!act || isOwn) return;
    event.preventDefault();
    act();
  }

  // ---- what a person says

  confirm(record, path) {
    if (this.corrections.get(record.key, path) === undefined) this.corrections.confirm(record.key, path);
    this.say(`${path || record.document}: confirmed.`);
    this.select(record, path || this.at?.[1] || null);
  }

  correct(record, path, value) {
    this.corrections.correct(record.key, path, value);
    this.say(`${path}: corrected.`);
    this.select(record, path);
  }

  takeBack(record, path) {
    // What was confirmed with its whole record is taken back with it.
    const isOwn = this.corrections.get(record.key, path) !== undefined;
    this.corrections.remove(record.key, isOwn ? path : WHOLE);
    this.say(`${isOwn ? path || record.document : record.document}: taken back.`);
    this.select(record, path || null);
  }

  edit(record, path) {
    this.select(record, path, false);
    const row = this.list.querySelector(`[data-key="${CSS.escape(record.key)}"] [data-path="${CSS.escape(path)}"]`);
    const value = this.corrections.current(record, path);
    editRow(row, path, value, leafOf(this.given.schema, path, record.fields[path].value), (found) => {
      if (found === undefined) this.select(record, path);
      else if (found === value) this.confirm(record, path);
      else this.correct(record, path, found);
    });
  }

  /** Corrects a record in one text: line items that were missed can be added there, and others taken away. */
  editWhole(record) {
    this.select(record, null, false);
    const item = this.list.querySelector(`[data-key="${CSS.escape(record.key)}"]`);
    editJson(item.querySelector(".fields"), `${record.document} as JSON`, this.corrections.corrected(record), (found) => {
      if (found === undefined) return this.select(record, null);
      this.corrections.correct(record.key, WHOLE, found);
      this.say(`${record.document}: corrected.`);
      return this.select(record, null);
    });
  }

  undo() {
    const undone = this.corrections.undo();
    if (!undone) return this.say("There is nothing to undo.");
    const [key, path] = undone;
    const record = this.records.find((each) => each.key === key);
    this.say(`${path || record?.document}: undone.`);
    if (record && !this.shown.some((each) => each.key === key)) this.choose();
    if (record) this.select(record, path || null);
  }

  exportAs(kind) {
    const stem = this.given.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "review";
    if (!this.corrections.count) return this.say("Nothing is confirmed or corrected yet, so there is nothing to export.");
    if (kind === "csv") return save(this.corrections.csv(this.records), "text/csv", `${stem}-corrections.csv`);
    const text = this.corrections.labels(this.records);
    if (!text) return this.say("Of a list only some values are checked; a label needs all of them, so check the rest.");
    save(text, "application/jsonl", `${stem}-labels.jsonl`);
    return this.say(`${plural(text.split("\n").length - 1, "label")} exported.`);
  }

  say(text) {
    this.status.textContent = text;
  }

  recall(name) {
    try {
      return this.given.shelf?.getItem(`tessera review ${name}`) ?? null;
    } catch {
      return null;
    }
  }

  remember(name, value) {
    try {
      this.given.shelf?.setItem(`tessera review ${name}`, value);
    } catch {
      this.corrections.isKept = false;
      this.summarize();
    }
  }
}

/** A record with what is asked of it often. */
function prepared(given, number) {
  const list = Object.values(given.fields);
  const doubts = list.filter(({ review }) => review).map(certainty);
  let text = null;
  return {
    ...given, list, number, key: String(given.key ?? number),
    least: doubts.length ? Math.min(...doubts) : 1,
    text: () => (text ??= `${given.document}\n${given.error ?? ""}\n${JSON.stringify(given.value)}`.toLowerCase()),
  };
}

function pagesText(pages) {
  if (!pages.length) return "";
  const isRange = pages.length > 1 && pages.at(-1) - pages[0] === pages.length - 1;
  return pages.length === 1 ? `page ${pages[0]}` : `pages ${isRange ? `${pages[0]} to ${pages.at(-1)}` : pages.slice(0, 20).join(", ") + (pages.length > 20 ? ", …" : "")}`;
}
