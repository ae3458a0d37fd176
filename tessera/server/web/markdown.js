// Renders a model's Markdown. What a model writes is untrusted (it may repeat what an image told it to), so
// only elements made here ever appear: HTML stays text, links lead to http, https and mailto only, and images
// are named but never loaded, because loading one would carry the conversation to whoever the address belongs to.
// Within a paragraph line ends are kept: models that read a receipt mean them.

import { codeBlock, element } from "./dom.js";

const MAX_DEPTH = 8; // of quotes, lists and emphasis within each other; deeper is shown as plain text
const SAFE_PROTOCOLS = new Set(["http:", "https:", "mailto:"]);

const FENCE = /^ {0,3}(`{3,}|~{3,}) *([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|(\d{1,9})[.)])(\s+)(.*)$/;

export function renderMarkdown(text) {
  const page = document.createDocumentFragment();
  appendBlocks(page, text.replaceAll("\r\n", "\n").split("\n"), 0);
  return page;
}

function appendBlocks(parent, lines, depth) {
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    if (!line.trim()) at += 1;
    else if (FENCE.test(line)) at = appendCode(parent, lines, at);
    else if (HEADING.test(line)) at = appendHeading(parent, lines, at);
    else if (RULE.test(line)) at = (parent.append(element("hr")), at + 1);
    else if (QUOTE.test(line) && depth < MAX_DEPTH) at = appendQuote(parent, lines, at, depth);
    else if (ITEM.test(line) && depth < MAX_DEPTH) at = appendList(parent, lines, at, depth);
    else if (startsTable(lines, at)) at = appendTable(parent, lines, at);
    else at = appendParagraph(parent, lines, at);
  }
}

function appendCode(parent, lines, at) {
  const [, fence, language] = FENCE.exec(lines[at]);
  const closed = (line) => line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "");
  let end = at + 1;
  while (end < lines.length && !closed(lines[end])) end += 1; // a fence that is still open runs to the end
  parent.append(codeBlock(lines.slice(at + 1, end).join("\n"), language ? `Code, ${language}` : "Code"));
  return end + 1;
}

function appendHeading(parent, lines, at) {
  const [, marks, title] = HEADING.exec(lines[at]);
  // The page's own headings are h1 and h2, so an answer's begin below them.
  const heading = element(`h${Math.min(marks.length + 2, 6)}`);
  appendInline(heading, title.replace(/\s+#+\s*$/, ""), 0);
  parent.append(heading);
  return at + 1;
}

function appendQuote(parent, lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const quote = element("blockquote");
  appendBlocks(
    quote,
    lines.slice(at, end).map((line) => line.replace(QUOTE, "")),
    depth + 1,
  );
  parent.append(quote);
  return end;
}

function appendList(parent, lines, at, depth) {
  const [, margin, , number] = ITEM.exec(lines[at]);
  const ordered = number !== undefined;
  const list = element(ordered ? "ol" : "ul", { start: ordered && Number(number) !== 1 ? number : null });
  const belongs = (item) => item && item[1].length <= margin.length && (item[3] !== undefined) === ordered;
  while (at < lines.length && belongs(ITEM.exec(lines[at])) && !RULE.test(lines[at])) {
    const [, indent, marker, , space, first] = ITEM.exec(lines[at]);
    const inner = [first];
    // What is indented deeper than the marker belongs to the item; blank lines do if more of it follows.
    let end = at + 1;
    for (let next = end; next < lines.length; next += 1) {
      if (!lines[next].trim()) continue;
      if (indentOf(lines[next]) <= indent.length) break;
      end = next + 1;
    }
    const strip = indent.length + marker.length + space.length;
    for (const line of lines.slice(at + 1, end)) inner.push(line.slice(Math.min(indentOf(line), strip)));
    const item = element("li");
    appendBlocks(item, inner, depth + 1);
    list.append(item);
    at = end;
    let next = at;
    while (next < lines.length && !lines[next].trim()) next += 1;
    if (next < lines.length && belongs(ITEM.exec(lines[next]))) at = next;
  }
  parent.append(list);
  return at;
}

const indentOf = (line) => line.length - line.trimStart().length;

const cellsOf = (line) =>
  line
    .trim()
    .replace(/^\||(?<!\\)\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));

function startsTable(lines, at) {
  const below = lines[at + 1];
  if (!lines[at].includes("|") || !below?.includes("-") || !below.includes("|")) return false;
  return cellsOf(below).every((cell) => /^:?-+:?$/.test(cell));
}

function appendTable(parent, lines, at) {
  const sides = cellsOf(lines[at + 1]).map((cell) =>
    cell.endsWith(":") ? (cell.startsWith(":") ? "centre" : "right") : null,
  );
  const row = (line, tag) => {
    const made = element("tr");
    const cells = cellsOf(line);
    for (let column = 0; column < sides.length; column += 1) {
      const cell = element(tag, { class: sides[column], scope: tag === "th" ? "col" : null });
      appendInline(cell, cells[column] ?? "", 0);
      made.append(cell);
    }
    return made;
  };
  const body = element("tbody");
  const table = element("table", {}, element("thead", {}, row(lines[at], "th")), body);
  for (at += 2; at < lines.length && lines[at].includes("|"); at += 1) body.append(row(lines[at], "td"));
  parent.append(element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Table" }, table));
  return at;
}

function appendParagraph(parent, lines, at) {
  const interrupts = (line, next) => {
    const item = ITEM.exec(line);
    return (
      !line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) ||
      (item && (item[3] === undefined || item[3] === "1")) || startsTable(lines, next)
    );
  };
  let end = at + 1;
  while (end < lines.length && !interrupts(lines[end], end)) end += 1;
  const paragraph = element("p");
  appendInline(paragraph, lines.slice(at, end).map((line) => line.trim()).join("\n"), 0);
  parent.append(paragraph);
  return end;
}

// One pattern for everything inside a line, tried from left to right. Lengths are bounded, so that a hostile
// text of nothing but asterisks costs time in proportion to its length.
const ADDRESS = String.raw`\(\s*<?(?<$>(?:[^\s()<>]|\([^\s()<>]*\)){0,2000})>?(?:\s+"[^"]{0,500}")?\s*\)`;
const INLINE = new RegExp(
  [
    /\\(?<escaped>[!-/:-@[-`{-~])/.source,
    /(?<!`)(?<ticks>`+)(?!`)(?<code>[\s\S]{1,2000}?)(?<!`)\k<ticks>(?!`)/.source,
    /!\[(?<alt>[^\]]{0,500})\]/.source + ADDRESS.replace("$", "image"),
    /\[(?<label>[^[\]]{1,500})\]/.source + ADDRESS.replace("$", "address"),
    /<(?<bracketed>(?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/.source,
    /(?<bare>https?:\/\/[^\s<>"'`]{0,2000}[^\s<>"'`.,;:!?)\]*_|~])/.source,
    /\*\*(?=\S)(?<strong>[\s\S]{0,1000}?\S)\*\*(?!\*)/.source,
    /(?<![\w_])__(?=\S)(?<strong2>[\s\S]{0,1000}?\S)__(?![\w_])/.source,
    /(?<![\w*])\*(?=[^\s*])(?<em>[\s\S]{0,1000}?(?<=[^\s*]))\*(?!\*)/.source,
    /(?<![\w_])_(?=[^\s_])(?<em2>[\s\S]{0,1000}?(?<=[^\s_]))_(?![\w_])/.source,
    /~~(?=\S)(?<struck>[\s\S]{0,1000}?\S)~~/.source,
  ].join("|"),
  "g",
);

function appendInline(parent, text, depth) {
  let from = 0;
  const matches = depth < MAX_DEPTH ? text.matchAll(INLINE) : [];
  for (const match of matches) {
    appendText(parent, text.slice(from, match.index));
    from = match.index + match[0].length;
    appendMatch(parent, match.groups, depth);
  }
  appendText(parent, text.slice(from));
}

function appendMatch(parent, found, depth) {
  const wrap = (made, inner) => {
    appendInline(made, inner, depth + 1);
    parent.append(made);
  };
  if (found.escaped) parent.append(found.escaped);
  else if (found.code) parent.append(element("code", {}, found.code.replace(/^ (?=.*\S)(.*) $/s, "$1")));
  else if (found.image !== undefined) {
    const named = [found.alt, found.image].filter(Boolean).join(", ");
    parent.append(element("span", { class: "unloaded" }, `[image, not loaded: ${named}]`));
  } else if (found.label) appendLink(parent, found.label, found.address, depth);
  else if (found.bracketed) appendLink(parent, null, found.bracketed, depth);
  else if (found.bare) appendLink(parent, null, found.bare, depth);
  else if (found.strong ?? found.strong2) wrap(element("strong"), found.strong ?? found.strong2);
  else if (found.em ?? found.em2) wrap(element("em"), found.em ?? found.em2);
  else wrap(element("del"), found.struck);
}

function appendLink(parent, label, address, depth) {
  const url = safeUrl(address);
  if (!url) {
    parent.append(label ? `${label} (${address})` : address);
    return;
  }
  const link = element("a", { href: url, title: url, target: "_blank", rel: "noopener noreferrer" });
  // Within a link nothing may be a link again, so a label that looks like an address stays text.
  if (!label || /https?:/.test(label)) link.append(label ?? address);
  else appendInline(link, label, depth + 1);
  parent.append(link);
}

/** The address in the browser's own reading of it, which is the one that a click would follow; else null. */
function safeUrl(address) {
  if (!URL.canParse(address)) return null;
  const url = new URL(address);
  return SAFE_PROTOCOLS.has(url.protocol) ? url.href : null;
}

function appendText(parent, text) {
  text.split("\n").forEach((line, number) => {
    if (number) parent.append(element("br"));
    if (line) parent.append(line);
  });
}
