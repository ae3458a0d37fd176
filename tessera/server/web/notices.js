// What the page says above the field: one problem, which stays until it is dismissed or the next try, and one
// notice, which may be undone. It decides nothing; whoever shows a notice says what undoing it does.

import { byId } from "./dom.js";

const NOTICE_MS = 12_000;

let fading = 0;
let undo = null;

export function showProblem(sentence) {
  byId("problem").textContent = sentence;
  byId("problem-bar").hidden = !sentence;
}

/** `onUndo` is null where there is nothing to undo. */
export function showNotice(sentence, onUndo = null) {
  clearTimeout(fading);
  undo = onUndo;
  byId("notice").textContent = sentence;
  byId("notice-bar").hidden = !sentence;
  byId("notice-undo").hidden = !onUndo;
  if (sentence && onUndo) fading = setTimeout(() => showNotice(""), NOTICE_MS);
}

export const announce = (sentence) => (byId("status").textContent = sentence);

export function startNotices() {
  byId("problem-close").addEventListener("click", () => {
    showProblem("");
    byId("question").focus();
  });
  byId("notice-close").addEventListener("click", () => showNotice(""));
  byId("notice-undo").addEventListener("click", () => {
    const act = undo;
    showNotice("");
    act?.();
  });
}
