// The two panels beside the conversation: opens and closes them. On a narrow window a panel lies over the page, so
// that only one is open at a time and a touch beside it closes it.

import { byId } from "./dom.js";

const PANELS = ["history", "settings"];
const NARROW = matchMedia("(max-width: 62rem)");

export function openPanel(name, open) {
  if (open && NARROW.matches) PANELS.filter((other) => other !== name).forEach((other) => openPanel(other, false));
  byId(name).hidden = !open;
  byId(`${name}-button`).setAttribute("aria-expanded", String(open));
  byId("scrim").hidden = PANELS.every((panel) => byId(panel).hidden);
}

/** `first` is the field that is focused when the panel opens; `onOpen` fills it. */
export function startPanel(name, first, onOpen = () => {}) {
  const panel = byId(name);
  const close = () => {
    openPanel(name, false);
    byId(`${name}-button`).focus();
  };
  byId(`${name}-button`).addEventListener("click", async () => {
    if (!panel.hidden) return close();
    await onOpen();
    openPanel(name, true);
    byId(first).focus();
  });
  byId(`${name}-close`).addEventListener("click", close);
  byId("scrim").addEventListener("click", () => openPanel(name, false));
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation(); // it closes this, not an answer that is being written
    close();
  });
}
