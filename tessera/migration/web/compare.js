// A comparison's page: values that differ first, each with its place, and a person's word on who is right. What is
// clicked is kept in this browser under a name that belongs to one report, and exported as labels.

import { button, element, foreign, plural, save } from "../../documents/review/web/dom.js";
import { leafOf, textOf, typed } from "../../documents/review/web/kinds.js";
import { enlarged, Viewer } from "../../documents/review/web/viewer.js";
import { numbers } from "./numbers.js";

const SHOWN = 100; // values drawn at once
const LONGEST = 600; // characters of a value in its row
const FILTERS = {
  "All that differ": (cell) => !cell.agrees,
  "New errors": (cell) => !cell.agrees && cell.right === "old",
  "Fixed errors": (cell) => !cell.agrees && cell.right === "new",
  "Both wrong": (cell) => cell.right === "neither",
  Undecided: (cell) => !cell.agrees && cell.right === null,
  "Not clicked yet": (cell, clicks) => !cell.agrees && !clicks.has(cell.key),
  "All that agree": (cell) => cell.agrees,
};
const JUDGED = { old: "the old one is right", new: "the new one is right", both: "both are right", neither: "neither is right" };
const SIDES = ["old", "new"];

/** What a person said, by value: {value}. */
class Clicks {
  constructor(name) {
    this.name = `tessera compare ${name}`;
    this.kept = new Map();
    try {
      this.kept = new Map(JSON.parse(localStorage.getItem(this.name) ?? "[]"));
    } catch {
      this.kept = new Map(); // barred or damaged: clicks last as long as the page
    }
  }

  has = (key) => this.kept.has(key);
  get = (key) => this.kept.get(key);

  put(key, click) {
    if (click === null) this.kept.delete(key);
    else this.kept.set(key, click);
    try {
      localStorage.setItem(this.name, JSON.stringify([...this.kept]));
    } catch {
      // full or barred
    }
  }

  /** One line of JSON a document, as --labels reads it. */
  labels(cells) {
    const documents = new Map();
    for (const cell of cells) {
      if (!this.has(cell.key)) continue;
      if (!documents.has(cell.document)) documents.set(cell.document, {});
      documents.get(cell.document)[cell.path] = this.get(cell.key).value;
    }
    return [...documents].map(([name, fields]) => JSON.stringify({ document: name, fields }) + "\n").join("");
  }
}

function openComparison() {
  const textOfScript = (id) => document.getElementById(id).textContent;
  const facts = JSON.parse(textOfScript("facts"));
  const cells = textOfScript("cells").split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
  for (const cell of cells) cell.key = JSON.stringify([cell.document, cell.path]);
  const places = new Map(facts.images.map(({ document: name, page, width, height }, index) => [JSON.stringify([name, page]), { index, width, height }]));
  const imageOf = (name, page) => {
    const found = places.get(JSON.stringify([name, page]));
    return found ? { src: `data:image/jpeg;base64,${textOfScript(`image-${found.index}`)}`, width: found.width, height: found.height } : null;
  };
  const root = document.getElementById("review");
  root.classList.add("review");
  new Comparison(root, facts, cells, imageOf);
}

class Comparison {
  constructor(root, facts, cells, imageOf) {
    Object.assign(this, { facts, cells, imageOf, shown: SHOWN });
    this.clicks = new Clicks(facts.digest);
    this.names = facts.summary.sides.map((side) => side.name);
    this.viewer = new Viewer(async (name, page) => imageOf(name, page));
    this.status = element("p", { class: "status", role: "status" });
    this.list = element("div", { class: "list" });
    this.more = button("Show more", { class: "quiet" }, () => {
      this.shown += SHOWN;
      this.draw();
    });
    this.watch = new IntersectionObserver((seen) => seen.filter((each) => each.isIntersecting).forEach(({ target }) => this.drawCrops(target)), { rootMargin: "200px" });
    this.rows = new Map();
    const columns = element("div", { class: "columns" }, element("div", {}, this.list, this.more), this.viewer.root);
    root.replaceChildren(this.head(), element("section", { "aria-label": "Values" }, this.status, columns), numbers(facts.summary));
    this.draw();
  }

  head() {
    const { title, summary, left_out: left, images_left_out: missing } = this.facts;
    const { word, reason } = summary.decision;
    const notes = [
      `${plural(summary.documents, "document")}, ${plural(summary.agreement.count, "value")}; old: `, foreign(this.names[0]), ", new: ", foreign(this.names[1]), ". ",
      ...(left ? [`${plural(left, "value")} more are in the table, not here. `] : []),
      ...(missing ? [`${plural(missing, "page")} not shown. `] : []),
    ];
    this.filter = element("select", { "aria-label": "Which values" }, ...Object.keys(FILTERS).map((name) => element("option", {}, name)));
    this.field = element("select", { "aria-label": "Which field" }, element("option", { value: "" }, "All fields"), ...summary.fields.map(({ name }) => element("option", { value: name }, name)));
    this.search = element("input", { type: "search", placeholder: "Find in values and documents", "aria-label": "Find" });
    for (const control of [this.filter, this.field, this.search]) {
      control.addEventListener("input", () => {
        this.shown = SHOWN;
        this.draw();
      });
    }
    const out = button("Save clicks as labels", { class: "quiet export" }, () => save(this.clicks.labels(this.cells), "application/jsonl", "labels.jsonl"));
    return element("header", { class: "head" },
      element("h1", {}, title),
      element("p", { class: `decision ${word}` }, element("strong", {}, word), reason),
      element("p", { class: "facts" }, ...notes, element("a", { href: "#numbers" }, "Numbers")),
      element("div", { class: "line tools" }, this.filter, this.field, this.search, out));
  }

  draw() {
    const [wanted, words] = [FILTERS[this.filter.value], this.search.value.toLowerCase()];
    const found = this.cells.filter((cell) => wanted(cell, this.clicks) && (!this.field.value || cell.field === this.field.value) && (!words || textsOf(cell).includes(words)));
    this.watch.disconnect();
    this.rows.clear();
    this.list.replaceChildren(...found.slice(0, this.shown).map((cell) => this.row(cell)));
    this.more.hidden = found.length <= this.shown;
    this.found = found.length;
    this.say();
  }

  say() {
    const said = [0, 0, 0];
    for (const cell of this.cells) {
      if (!this.clicks.has(cell.key) || cell.agrees) continue;
      const right = SIDES.findIndex((side) => this.isClicked(cell, side));
      said[right < 0 ? 2 : right] += 1;
    }
    const total = said[0] + said[1] + said[2];
    const told = total ? ` Clicked: ${total}, old right ${said[0]}, new right ${said[1]}, neither ${said[2]}; save them, and give the file to --labels.` : "";
    this.status.textContent = `${plural(this.found, "value")} here.${told}`;
  }

  isClicked = (cell, side) => this.clicks.has(cell.key) && textOf(this.clicks.get(cell.key).value) === textOf(valueOf(cell[side]));

  row(cell) {
    const made = element("article", { class: `pair${cell.agrees ? " agree" : ""}${this.clicks.has(cell.key) ? " done" : ""}` });
    const name = button(cell.path, { class: "name" }, () => this.show(cell, cell.new?.box ? "new" : "old"));
    const judged = cell.right ? `${JUDGED[cell.right]} (${cell.by})` : cell.agrees ? "both say the same" : "undecided";
    const truth = "truth" in cell && cell.right !== "both" ? [element("span", { class: "note" }, "label: ", shown(cell.truth))] : [];
    made.append(
      element("div", { class: "where" }, name, foreign(cell.document, { class: "note" }), element("span", { class: "note" }, judged), ...truth),
      ...SIDES.map((side) => this.side(cell, side)),
      this.actions(cell, made),
      element("div", { class: "crops" }),
    );
    this.rows.set(made, cell);
    this.watch.observe(made);
    return made;
  }

  side(cell, side) {
    const read = cell[side];
    const isRight = this.clicks.has(cell.key) ? this.isClicked(cell, side) : cell.right === side || cell.right === "both";
    const sure = read && read.value !== null ? `, sure to ${(100 * (read.confidence ?? read.score)).toFixed(0)} %` : "";
    const checks = (read?.checks ?? []).map((check) => element("span", { class: "note check" }, foreign(check)));
    return element("div", { class: `side${isRight ? " right" : ""}` },
      element("span", { class: "side-label" }, `${side === "old" ? "Old" : "New"}${sure}`), element("span", { class: "value" }, shown(valueOf(read), read === null)), ...checks);
  }

  actions(cell, made) {
    const choose = (side) => {
      const is = cell.agrees || this.isClicked(cell, side);
      const label = cell.agrees ? "Right" : side === "old" ? "Old is right" : "New is right";
      const pressed = this.isClicked(cell, side);
      return button(label, { class: "quiet", "aria-pressed": String(pressed) }, () => this.click(cell, made, pressed && is ? null : { value: valueOf(cell[side]) }));
    };
    const isOther = this.clicks.has(cell.key) && !SIDES.some((side) => this.isClicked(cell, side));
    const other = button("Other…", { class: "quiet", "aria-pressed": String(isOther) }, () => this.type(cell, made));
    return element("div", { class: "actions" }, ...(cell.agrees ? [choose("new")] : SIDES.map(choose)), other);
  }

  click(cell, made, click) {
    this.clicks.put(cell.key, click);
    const drawn = this.row(cell);
    this.rows.delete(made);
    made.replaceWith(drawn);
    drawn.querySelector(".name").focus();
    this.say();
  }

  /** Asks for the value that the page shows. */
  type(cell, made) {
    made.querySelector(".edit")?.remove();
    const leaf = leafOf(this.facts.schema, cell.path, valueOf(cell.new) ?? valueOf(cell.old));
    const input = element("input", { type: "text", "aria-label": `What the page shows for ${cell.path}`, value: textOf(this.clicks.get(cell.key)?.value) });
    const problem = element("p", { class: "error" });
    const keep = () => {
      const { value, problem: why } = leaf.kind === "choice" ? { value: input.value } : typed(input.value, leaf);
      problem.textContent = why ?? "";
      if (!why) this.click(cell, made, { value: value === "" ? null : value });
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") keep();
      if (event.key === "Escape") made.querySelector(".edit").remove();
    });
    made.append(element("div", { class: "edit" }, input, problem, element("div", { class: "line" }, button("Keep", {}, keep), element("span", { class: "note" }, "Empty: the page does not show it."))));
    input.focus();
  }

  show(cell, side) {
    this.list.querySelector("[aria-current]")?.removeAttribute("aria-current");
    for (const [made, each] of this.rows) {
      if (each === cell) made.querySelector(".name").setAttribute("aria-current", "true");
    }
    const read = cell[side] ?? cell.old ?? cell.new;
    this.viewer.show({ document: cell.document, pages: cell.pages }, { ...read, path: cell.path });
  }

  /** The places of both values, enlarged, once the row is near. */
  drawCrops(made) {
    this.watch.unobserve(made);
    const cell = this.rows.get(made);
    if (!cell) return;
    const boxes = new Map();
    for (const side of SIDES) {
      if (cell[side]?.box) boxes.set(JSON.stringify(cell[side].box), [...(boxes.get(JSON.stringify(cell[side].box)) ?? []), side]);
    }
    const figures = [...boxes].map(([box, sides]) => {
      const [page, ...place] = JSON.parse(box);
      const image = this.imageOf(cell.document, page);
      if (!image) return null;
      const text = sides.length === 2 ? "both" : sides[0];
      return element("figure", {}, enlarged(image, place, `Page ${page} of ${cell.document}`), element("figcaption", {}, `${text}, page ${page}`));
    });
    made.querySelector(".crops").replaceChildren(...figures.filter((figure) => figure !== null));
  }
}

const valueOf = (read) => read?.value ?? null;
const textsOf = (cell) => [cell.document, cell.path, textOf(valueOf(cell.old)), textOf(valueOf(cell.new))].join("\n").toLowerCase();

function shown(value, isAbsent = false) {
  if (value === null || value === "") return element("span", { class: "nothing" }, isAbsent ? "no such value" : value === "" ? "left blank" : "nothing");
  const text = textOf(value);
  return foreign(text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text);
}

openComparison();
