// Files that wait to be read: dropped, with folders searched, or chosen. It knows nothing of the server.

import { byId } from "./dom.js";
import { button, element, foreign, plural } from "./review/dom.js";

const MOST_FILES = 1000; // of one extraction
const MOST_LISTED = 100;
const IMAGES = /\.(png|jpe?g|webp|gif|bmp|tiff?|heic|heif|avif)$/i;
const IGNORED = /^(\.|thumbs\.db$|desktop\.ini$|__MACOSX$)/i; // what file managers leave

/** Returns an object whose `files` are those that are chosen now. */
export function startIntake() {
  const intake = new Intake();
  for (const [opener, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
    byId(opener).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", () => {
      intake.add([...byId(input).files].filter(({ name }) => !IGNORED.test(name)));
      byId(input).value = "";
    });
  }
  byId("clear").addEventListener("click", () => intake.set([]));
  const isOpen = () => !byId("start").hidden;
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    byId("drop").hidden = !isOpen();
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").hidden = true; });
  addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    byId("drop").hidden = true;
    // The list is empty after the first await.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const plain = [...event.dataTransfer.files];
    if (isOpen()) intake.add(entries.length ? await filesIn(entries) : plain);
  });
  return intake;
}

class Intake {
  files = [];
  passwords = new WeakMap(); // of locked files, while the page is open and nowhere else

  add(files) {
    const sorted = [...files].sort((one, other) => pathOf(one).localeCompare(pathOf(other), "en", { numeric: true }));
    this.set([...this.files, ...sorted]);
  }

  set(files) {
    this.files = files.slice(0, MOST_FILES);
    const left = files.length - this.files.length;
    const bytes = this.files.reduce((sum, { size }) => sum + size, 0);
    const over = left ? ` ${plural(left, "file")} beyond ${MOST_FILES} left out: put them into a zip, or read them later.` : "";
    byId("chosen-facts").textContent = this.files.length ? `${plural(this.files.length, "file")}, ${bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} KB` : `${(bytes / 1e6).toFixed(1)} MB`}.${over}` : "No files are chosen.";
    byId("clear").hidden = !this.files.length;
    const shown = this.files.slice(0, MOST_LISTED).map((file, index) =>
      element("li", {}, button("×", { class: "quiet", "aria-label": `Take ${file.name} away` }, () => this.set(this.files.toSpliced(index, 1))), foreign(pathOf(file)), this.locked(file)));
    if (this.files.length > MOST_LISTED) shown.push(element("li", { class: "note" }, `and ${this.files.length - MOST_LISTED} more`));
    byId("chosen").replaceChildren(...shown);
  }

  /** A button that becomes the field for a file's password; images have none. */
  locked(file) {
    if (file.type.startsWith("image/") || IMAGES.test(file.name)) return "";
    const ask = () => {
      const field = element("input", { type: "password", "aria-label": `Password of ${file.name}`, placeholder: "Password", maxlength: "1024", autocomplete: "off", spellcheck: "false" });
      field.value = this.passwords.get(file) ?? "";
      field.addEventListener("input", () => { if (field.value) this.passwords.set(file, field.value); else this.passwords.delete(file); });
      return field;
    };
    if (this.passwords.has(file)) return ask();
    const opener = button("Password…", { class: "quiet", "aria-label": `Give the password of ${file.name}` }, () => {
      const field = ask();
      opener.replaceWith(field);
      field.focus();
    });
    return opener;
  }
}

const pathOf = (file) => file.webkitRelativePath || file.name;

/** The files of dropped entries, folders searched to their depth. */
async function filesIn(entries) {
  const found = [];
  for (const entry of entries) {
    if (found.length > MOST_FILES || IGNORED.test(entry.name)) continue;
    if (entry.isFile) found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    else found.push(...(await filesIn(await entriesOf(entry))));
  }
  return found;
}

async function entriesOf(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // 100 a call
    if (!some.length) return found;
    found.push(...some);
  }
}
