// What the chat page makes elements with, beside what it shares with the review.

import { button, element } from "./review/dom.js";

export { button, element };

/** A button that copies what `text()` gives, and says for a moment whether the browser let it. */
export function copyButton(text, attributes = { class: "quiet" }) {
  const made = button("Copy", attributes, async () => {
    made.textContent = (await copyText(text())) ? "Copied" : "Not allowed here";
    setTimeout(() => (made.textContent = "Copy"), 1500);
  });
  return made;
}

/** Browsers give the clipboard to secure pages only; elsewhere the old way may still do. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = element("textarea", { class: "visually-hidden" }, text);
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    return copied;
  }
}

/** A block of code with its copy button, which copies what is shown unless `copied` gives another text. */
export function codeBlock(text, label, copied = () => text) {
  const code = element("pre", { tabindex: "0", "aria-label": label }, element("code", {}, text));
  return element("div", { class: "code-block" }, code, copyButton(copied, { class: "quiet copy", "aria-label": "Copy the code" }));
}

export const byId = (id) => document.getElementById(id);
