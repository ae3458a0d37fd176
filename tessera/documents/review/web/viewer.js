// Shows a page with the place of a value marked, and that place enlarged. Images come from `imageOf(document, page)`:
// a promise of {src, width, height}, or of null where there is none.

import { button, drawn, element, foreign } from "./dom.js";

const SOURCES = {
  text: "place from the text layer",
  text_fuzzy: "place from similar words of the text layer",
  attention: "place where the model looked",
  none: "no place known",
};
const MARGIN = 0.6; // around a place, as a share of its height
const LEAST = 0.16; // of the page's width, shown enlarged

export const placeOf = (field) => SOURCES[field?.box ? field.box_source : "none"] ?? SOURCES.none;

export class Viewer {
  constructor(imageOf) {
    this.imageOf = imageOf;
    this.name = element("h2", { class: "viewer-name" });
    this.stage = element("div", { class: "viewer-stage" });
    this.close = button("Hide the page", { class: "quiet narrow-only" }, () => this.hide());
    this.root = element("aside", { class: "viewer", "aria-label": "Page" }, element("div", { class: "line" }, this.name, this.close), this.stage);
    this.name.textContent = "Page";
    this.stage.append(element("p", { class: "note" }, "Choose a value to see where it stands."));
    this.hide();
  }

  hide() {
    this.root.classList.add("put-away");
  }

  /** Shows a field of a record (null: the record itself) on its page, or on another page of the document. */
  async show(record, field, page = field?.box?.[0] ?? record.pages[0]) {
    const turn = (this.turn = Symbol());
    this.root.classList.remove("put-away");
    this.name.replaceChildren(...(field ? [foreign(field.path), " on page "] : ["Page "]), String(page ?? "?"));
    const image = page === undefined ? null : await this.imageOf(record.document, page);
    if (turn !== this.turn) return; // another one was asked for meanwhile
    const place = field?.box && field.box[0] === page ? field.box.slice(1) : null;
    this.stage.replaceChildren(...this.pager(record, field, page), ...(image?.src ? pictures(image, place, record, page) : [missing(page, image?.why)]));
    this.stage.append(element("p", { class: "note" }, field ? placeOf(field).replace(/^./, (first) => first.toUpperCase()) + "." : ""));
  }

  pager(record, field, page) {
    const at = record.pages.indexOf(page);
    if (record.pages.length < 2) return [];
    const turn = (label, to) => {
      const made = button(label, { class: "quiet" }, () => this.show(record, field, record.pages[to]));
      made.disabled = record.pages[to] === undefined;
      return made;
    };
    return [element("div", { class: "line pager" }, turn("Previous page", at - 1), turn("Next page", at + 1))];
  }
}

/** Says why there is no image: in the server's words, which may quote a file's name, where there are some. */
function missing(page, why) {
  if (page !== undefined && why) return element("p", { class: "note missing" }, foreign(why));
  return element("p", { class: "note missing" }, page === undefined ? "This document has no page to show." : `Page ${page} is not kept here; open the document itself.`);
}

function pictures(image, place, record, page) {
  const label = `Page ${page} of ${record.document}`;
  if (!place) return [whole(image, null, label)];
  return [element("div", { class: "crop" }, enlarged(image, place, label)), whole(image, place, label)];
}

function whole(image, place, label) {
  return drawn("svg", { class: "page", viewBox: `0 0 ${image.width} ${image.height}`, role: "img", "aria-label": place ? `${label}, the value's place marked` : label },
    drawn("image", { href: image.src, width: image.width, height: image.height }), ...mark(image, place));
}

export function enlarged(image, [left, top, right, bottom], label) {
  const { width, height } = image;
  const around = MARGIN * (bottom - top) * height;
  const wide = Math.min(width, Math.max((right - left) * width + 2 * around, LEAST * width));
  const high = Math.min(height, Math.max((bottom - top) * height + 2 * around, wide / 5));
  const within = (middle, size, all) => Math.min(Math.max(middle - size / 2, 0), all - size);
  const x = within(((left + right) / 2) * width, wide, width);
  const y = within(((top + bottom) / 2) * height, high, height);
  return drawn("svg", { viewBox: `${x} ${y} ${wide} ${high}`, role: "img", "aria-label": `${label}, enlarged` },
    drawn("image", { href: image.src, width, height }), ...mark(image, [left, top, right, bottom]));
}

/** A frame a little outside of the place, so that it covers no character. */
function mark({ width, height }, place) {
  if (!place) return [];
  const [left, top, right, bottom] = place;
  const gap = 0.003 * Math.max(width, height);
  const size = { x: left * width - gap, y: top * height - gap, width: Math.max(0, right - left) * width + 2 * gap, height: Math.max(0, bottom - top) * height + 2 * gap };
  return [drawn("rect", { class: "halo", ...size }), drawn("rect", { class: "mark", ...size })];
}
