// The search page: a query gives pages with thumbnails and snippets, and one of them is shown with what is hit marked.
// The query stands in the address, so that a search can be kept, sent, and gone back to.

import { ApiError, headersFor, loadConfig, request } from "./api.js";
import { byId } from "./dom.js";
import { button, drawn, element, foreign, plural } from "./review/dom.js";

const KEY = "tessera-api-key"; // as on the chat page
const AT_ONCE = 20; // pages of one answer
const MOST = 600; // pages that can be asked for
const MOST_FIELDS = 12; // offered as filters
const HELP = [
  ["invoice march", "pages with both words; if there are few, then those with one"],
  ['"net amount"', "the words in this order"],
  ["invoice -draft", "without a word"],
  ["red OR blue", "either word"],
  ["invoic*", "words that begin so"],
  ["vendor:acme total:>100", "fields that were extracted: text, numbers"],
  ["date:2026-03 total:50..90", "a month, a day or a year; a range"],
  ["file:*.pdf page:1", "by file and page"],
];
const HELPS = ["rerank", "vectors"]; // what a model adds, as the address has it
const LISTS = { text: "words", similar: "similar words", name: "file name", vectors: "likeness", filters: "filters" };

let key = null;
let hits = []; // what is shown, in order
let asked = ""; // the query that gave them
let turn = 0; // of the query under way; answers to earlier ones are not shown
let chosen = -1;
let watcher = null;
const images = new Map(); // address -> promise of an object URL, the latest used last
const IMAGES_KEPT = 120;

const ask = (address) => request(address, { headers: headersFor(key) });
const json = async (address) => (await ask(address)).json();

function picture(address) {
  const found = images.get(address) ?? ask(address).then(async (response) => URL.createObjectURL(await response.blob()));
  images.delete(address);
  images.set(address, found);
  if (images.size > IMAGES_KEPT) {
    const [oldest, made] = images.entries().next().value;
    images.delete(oldest);
    made.then((source) => URL.revokeObjectURL(source), () => {});
  }
  return found;
}

// ---- results

async function search(offset = 0) {
  const text = byId("query").value.trim();
  const mine = ++turn;
  byId("error").textContent = "";
  if (!text) return showStart();
  byId("state").textContent = byId("rerank").checked ? "The model reads the first pages…" : "Searching…";
  byId("more").hidden = true;
  try {
    const found = await json(`v1/search?${new URLSearchParams({ q: text, limit: AT_ONCE, offset, ...chosenHelp() })}`);
    if (mine !== turn) return;
    asked = text;
    if (offset === 0) {
      hits = [];
      byId("hits").replaceChildren();
      hide();
    }
    const first = hits.length;
    hits.push(...found.data);
    byId("hits").append(...found.data.map((hit, index) => card(hit, first + index)));
    tellState(found);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (mine !== turn) return;
    if (error.status === 401) return askKey(error.message);
    byId("state").textContent = "";
    byId("error").textContent = error.message;
    byId("query").setAttribute("aria-invalid", "true");
    return;
  }
  byId("query").removeAttribute("aria-invalid");
}

/** What the model is asked beside the words. */
function chosenHelp() {
  return Object.fromEntries(HELPS.filter((name) => byId(name).checked).map((name) => [name, "true"]));
}

const asAddress = (text) => (text ? new URLSearchParams({ q: text, ...chosenHelp() }).toString() : "");

function tellState(found) {
  const seconds = found.seconds < 0.1 ? `${Math.max(1, Math.round(1000 * found.seconds))} ms` : `${found.seconds.toFixed(1)} s`;
  const count = hits.length ? `${plural(hits.length, "page")}${found.has_more ? ` of ${found.total}${found.total >= 200 ? " or more" : ""}` : ""}, ${seconds}.` : "";
  byId("state").textContent = [count, ...found.notes.map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`)].join(" ").trim();
  byId("more").hidden = !found.has_more || hits.length >= MOST;
  byId("empty").hidden = hits.length > 0;
  if (!hits.length) byId("empty").replaceChildren(element("p", {}, "No page matches. Try fewer words, a part of one, or other filters."), helpList());
}

function card(hit, index) {
  const place = hit.number ? ` p. ${hit.number}` : "";
  const open = button("", { class: "open", "aria-label": `${hit.file}${place}` }, () => show(index));
  open.append(foreign(hit.file), place);
  const thumb = element("div", { class: "thumb", "aria-hidden": "true", "data-page": hit.page });
  watcher.observe(thumb);
  const snippet = element("p", { class: "snippet", dir: "auto" }, ...hit.snippet.flatMap(({ text, hit: isHit }) => [isHit ? element("mark", {}, text) : text, " "]));
  const facts = [hit.code ? element("p", { class: "error" }, `${hit.code}: `, foreign(hit.message ?? "")) : null, hit.copies.length ? element("p", { class: "note" }, "also ", foreign(hit.copies.join(", "))) : null];
  return element("li", { class: "hit", "data-index": index }, thumb, element("div", {}, open, snippet, ...facts, why(hit)));
}

/** Where the score is from. */
function why(hit) {
  const parts = hit.parts.map(({ list, rank, about }) => element("li", {}, `${LISTS[list] ?? list}: place ${rank}`, about ? foreign(` (${about})`) : null));
  if (hit.relevance !== null) parts.unshift(element("li", {}, `the model says yes: ${(100 * hit.relevance).toFixed(0)} %`));
  return element("details", { class: "why" }, element("summary", {}, `Score ${hit.score.toFixed(4)}`), element("ul", {}, ...parts));
}

async function fillThumbnail(thumb) {
  try {
    const source = await picture(`v1/search/pages/${thumb.dataset.page}/thumbnail`);
    thumb.replaceChildren(element("img", { src: source, alt: "", draggable: "false" }));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    thumb.replaceChildren(element("span", { class: "note" }, "no image"));
  }
}

// ---- one page

async function show(index) {
  const hit = hits[index];
  if (!hit) return;
  chosen = index;
  for (const open of byId("hits").querySelectorAll(".open")) open.removeAttribute("aria-current");
  const at = byId("hits").querySelector(`[data-index="${index}"]`);
  at.querySelector(".open").setAttribute("aria-current", "true");
  at.scrollIntoView({ block: "nearest" });
  const viewer = byId("viewer");
  viewer.hidden = false;
  byId("columns").classList.add("open");
  const stage = element("div", { class: "viewer-stage" }, element("p", { class: "note" }, "Opening the page…"));
  viewer.replaceChildren(pager(hit, index), stage);
  viewer.scrollTop = 0;
  try {
    const [page, source] = await Promise.all([json(`v1/search/pages/${hit.page}?${new URLSearchParams({ q: asked })}`), picture(`v1/search/pages/${hit.page}/image`)]);
    const image = new Image();
    image.src = source;
    await image.decode();
    if (chosen !== index || hits[index] !== hit) return;
    stage.replaceChildren(pageDrawn(image, page), element("p", { class: "note" }, sourceOf(page)));
    stage.querySelector(".place")?.scrollIntoView({ block: "center" });
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (chosen === index) stage.replaceChildren(element("p", { class: "error", role: "alert" }, error.message));
  }
}

function pager(hit, index) {
  const step = (label, to, name) => {
    const made = button(label, { class: "quiet", "aria-label": name }, () => show(to));
    made.disabled = !hits[to];
    return made;
  };
  const name = element("h2", { class: "viewer-name" }, foreign(hit.file), hit.number ? ` p. ${hit.number}${hit.count > 1 ? ` of ${hit.count}` : ""}` : "");
  return element("div", {}, element("div", { class: "line" }, name, button("Close", { class: "quiet" }, () => hide(true))), element("div", { class: "line" }, step("← Previous", index - 1, "Previous result"), step("Next →", index + 1, "Next result")));
}

function pageDrawn(image, page) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const places = page.boxes.map(([left, top, right, bottom]) => {
    const gap = 0.002 * height;
    return drawn("rect", { class: "place", x: left * width - gap, y: top * height - gap, width: (right - left) * width + 2 * gap, height: (bottom - top) * height + 2 * gap, rx: 2 });
  });
  const label = `Page ${page.number} of ${page.file}, ${plural(places.length, "place")} marked`;
  return drawn("svg", { class: "page", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, drawn("image", { href: image.src, width, height }), ...places);
}

function sourceOf(page) {
  const text = { "text layer": "The text is the file's own.", model: "A model read the text.", none: "No text is known of this page.", blank: "The page is blank." }[page.source] ?? "";
  const marks = !page.boxes.length ? "Nothing is marked." : page.box_source === "text" ? `${plural(page.boxes.length, "place")} from the text layer.` : "Places are estimated from the lines of the text.";
  return `${text} ${marks}`;
}

function hide(isBack = false) {
  byId("viewer").hidden = true;
  byId("columns").classList.remove("open");
  const at = byId("hits").querySelector(`[data-index="${chosen}"] .open`);
  at?.removeAttribute("aria-current");
  if (isBack) at?.focus();
  chosen = -1;
}

// ---- the page

function helpList() {
  const rows = HELP.flatMap(([query, text]) => [element("dt", {}, query), element("dd", {}, text)]);
  const keys = element("p", {}, element("kbd", {}, "/"), " query  ", element("kbd", {}, "j"), " ", element("kbd", {}, "k"), " next, previous  ", element("kbd", {}, "Esc"), " close");
  return element("div", {}, element("dl", {}, ...rows), keys);
}

function showStart() {
  [hits, asked] = [[], ""];
  byId("hits").replaceChildren();
  byId("state").textContent = "";
  byId("more").hidden = true;
  hide();
  byId("empty").hidden = false;
  byId("empty").replaceChildren(element("p", {}, "Every word of the archive can be found; so can parts of numbers, and words with a typing error."), helpList());
}

function offerFilters(fields) {
  const names = ["file", "page", ...fields.slice(0, MOST_FIELDS)];
  byId("filters").replaceChildren(...names.map((name) => button(`${name}:`, { class: "quiet", "aria-label": `Filter by ${name}` }, () => {
    const field = byId("query");
    field.value = `${field.value.trimEnd()} ${name}:`.trimStart();
    field.focus();
  })));
}

function askKey(message = "") {
  byId("search").hidden = true;
  byId("key-form").hidden = false;
  byId("key-error").textContent = message;
  byId("key").focus();
}

const fromAddress = () => new URLSearchParams(location.search).get("q") ?? "";

function offerHelp(about) {
  byId("rerank-label").hidden = !about.max_reranked;
  byId("vectors-label").hidden = !about.max_reranked || !about.vectors;
  byId("model-help").hidden = byId("rerank-label").hidden;
}

function readHelp() {
  const given = new URLSearchParams(location.search);
  for (const name of HELPS) byId(name).checked = given.get(name) === "true" && !byId(`${name}-label`).hidden;
}

async function start() {
  byId("key-form").hidden = true;
  watcher ??= new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      fillThumbnail(target);
    }
  }, { rootMargin: "300px" });
  try {
    const config = await loadConfig();
    key = sessionStorage.getItem(KEY);
    if (config.needs_key && !key) return askKey();
    byId("search").hidden = false;
    const about = await json("v1/search/about");
    byId("about").textContent = `${plural(about.pages, "page")} of ${plural(about.files, "file")}`;
    offerFilters(about.fields);
    offerHelp(about);
    readHelp();
    byId("query").value = fromAddress();
    byId("query").focus();
    await search();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) return askKey(error.message);
    byId("query-form").hidden = true;
    byId("error").textContent = error.message;
  }
}

byId("query-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("query").value.trim();
  const address = asAddress(text);
  if (address !== new URLSearchParams(location.search).toString()) history.pushState(null, "", address ? `?${address}` : location.pathname);
  search();
});
addEventListener("popstate", () => {
  byId("query").value = fromAddress();
  readHelp();
  search();
});
byId("more").addEventListener("click", () => search(hits.length));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("key").value.trim());
  start();
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && chosen >= 0) {
    event.preventDefault(); // which would empty the query
    return hide(true);
  }
  if (event.target.closest("input, textarea, select")) return;
  const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
  if (event.key === "/") byId("query").focus();
  else if (step && hits.length) show(Math.min(Math.max(chosen + step, 0), hits.length - 1));
  else return;
  event.preventDefault();
});
start();
