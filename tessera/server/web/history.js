// The list of kept conversations: newest first, searched as one types, each opened, renamed, exported or deleted.
// It knows nothing of what is on the page now; `actions` of app.js open a conversation and hear of a deleted one.

import { button, byId, element } from "./dom.js";
import { exportConversation } from "./export.js";
import { showNotice, showProblem } from "./notices.js";
import { openPanel, startPanel } from "./panels.js";
import { allKept, forget, keep } from "./store.js";

let actions;
let unfolded = null; // the id of the conversation whose tools are shown

export function startHistory(given) {
  actions = given;
  startPanel("history", "search", () => {
    byId("search").value = "";
    unfolded = null;
    return listConversations();
  });
  byId("search").addEventListener("input", listConversations);
}

/** Shows the list anew, if it is open or about to be. */
export async function listConversations() {
  const kept = (await allKept("conversations")).sort((a, b) => b.updated - a.updated);
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = kept.filter((conversation) => words.every((word) => textOf(conversation).includes(word)));
  byId("conversations").replaceChildren(...found.map(row));
  byId("history-empty").textContent =
    found.length ? "" : kept.length ? "No conversation holds these words." : "No conversation yet: ask a question.";
}

function textOf({ title, exchanges }) {
  const parts = exchanges.flatMap(({ question, answer, pictures: images }) => [question, answer, ...images.map(({ name }) => name)]);
  return [title, ...parts].join("\n").toLowerCase();
}

function row(conversation) {
  const current = conversation.id === actions.current();
  const open = button("", { class: "open", "aria-current": current ? "true" : null }, () => {
    if (matchMedia("(max-width: 62rem)").matches) openPanel("history", false);
    actions.open(conversation);
  });
  const asked = conversation.exchanges.length;
  open.append(
    element("span", { class: "title" }, conversation.title),
    element("span", { class: "note" }, `${dateOf(conversation.updated)}, ${asked} question${asked === 1 ? "" : "s"}`),
  );
  const made = element("li", {}, open);
  const more = button("⋯", { class: "more", "aria-label": `More for ${conversation.title}`, "aria-expanded": "false" }, () => {
    unfolded = unfolded === conversation.id ? null : conversation.id;
    listConversations();
  });
  made.append(more);
  if (unfolded === conversation.id) {
    more.setAttribute("aria-expanded", "true");
    made.append(tools(conversation, made));
  }
  return made;
}

function tools(conversation, item) {
  const exported = (kind) => () => exportConversation(conversation, kind).catch((error) => showProblem(error.message));
  return element(
    "div",
    { class: "tools" },
    button("Rename", { class: "quiet" }, () => rename(conversation, item)),
    button("Markdown", { class: "quiet", "aria-label": "Export as Markdown" }, exported("markdown")),
    button("JSON", { class: "quiet", "aria-label": "Export as JSON" }, exported("json")),
    button("Delete", { class: "quiet" }, () => remove(conversation)),
  );
}

function rename(conversation, item) {
  const field = element("input", { "aria-label": "Name of the conversation" });
  field.value = conversation.title;
  let done = false;
  const end = async (kept) => {
    if (done) return;
    done = true;
    const title = field.value.trim();
    if (kept && title) {
      conversation.title = title;
      await keep("conversations", conversation);
      actions.renamed(conversation);
    }
    unfolded = null;
    await listConversations();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") {
      event.stopPropagation();
      end(false);
    }
  });
  field.addEventListener("blur", () => end(true));
  item.replaceChildren(field);
  field.select();
  field.focus();
}

async function remove(conversation) {
  await forget("conversations", conversation.id);
  const wasOpen = conversation.id === actions.current();
  if (wasOpen) actions.clear();
  await listConversations();
  showNotice(`“${conversation.title}” was deleted.`, async () => {
    await keep("conversations", conversation);
    await listConversations();
    if (wasOpen) actions.open(conversation);
  });
}

function dateOf(time) {
  const then = new Date(time);
  const today = then.toDateString() === new Date().toDateString();
  return today
    ? then.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" })
    : then.toLocaleDateString(undefined, { day: "numeric", month: "short", year: "numeric" });
}
