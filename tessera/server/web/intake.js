// The ways in which picture files reach the page: chosen, photographed, pasted or dropped.

import { byId } from "./dom.js";

export function startIntake(addPictures) {
  for (const [opener, input] of [["add", "files"], ["photograph", "camera"]]) {
    byId(opener).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", (event) => {
      addPictures([...event.target.files]);
      event.target.value = ""; // so that the same file can be chosen again
    });
  }
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    addPictures(files);
  });
  startDropping(addPictures);
}

function startDropping(addPictures) {
  const veil = byId("drop");
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    veil.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) veil.hidden = true; // the pointer has left the window, not just an element
  });
  document.addEventListener("drop", (event) => {
    veil.hidden = true;
    if (!carriesFiles(event)) return;
    event.preventDefault();
    addPictures([...event.dataTransfer.files]);
  });
}
