// The documents page: files are uploaded, an extraction begins, its rows come into the review, and tables go out.
// What is under way is known by its id, which this browser keeps; so a reload goes on where it was.

import { ApiError, loadConfig } from "./api.js";
import { byId } from "./dom.js";
import { Server } from "./extractions.js";
import { startIntake } from "./papers.js";
import { button, element, foreign, plural } from "./review/dom.js";
import { startReview } from "./review/review.js";

const KEY = "tessera-api-key"; // as on the chat page
const PLACE = `tessera documents ${location.pathname}`;
const POLL_MS = 700;
const MOST_POLL_MS = 10_000; // while the server cannot be reached
const UPLOADS = 4; // at once
const MOST_ROWS = 10_000; // shown; the table has all
const MOST_CORRECTIONS = 5000; // of one table
const OWN = "own schema";
const ENDED = new Set(["completed", "failed", "cancelled", "expired"]);
const STATES = { validating: "Looking through the documents", in_progress: "Reading", cancelling: "Stopping", completed: "All is read", failed: "Failed", cancelled: "Stopped", expired: "Over its time" };
const EXAMPLE = { type: "object", properties: { vendor: { type: "string" }, date: { type: "string", format: "date" }, total: { type: "number" } } };

const shelf = (() => {
  try {
    return localStorage;
  } catch {
    return null; // barred, as in some private windows
  }
})();
const recall = (name) => JSON.parse(shelf?.getItem(`${PLACE} ${name}`) ?? "null");

function remember(name, value) {
  try {
    if (value === null) shelf?.removeItem(`${PLACE} ${name}`);
    else shelf?.setItem(`${PLACE} ${name}`, JSON.stringify(value));
  } catch {
    // full: then a reload begins anew, and the work is still listed
  }
}

let server = new Server(null);
let presets = [];
let review = null;
let current = null; // the extraction that is shown

// ---- before it begins

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const pretty = (schema) => JSON.stringify(schema, null, 2);

function fillPresets() {
  const usable = presets.filter(({ schema, images }) => schema && images === 1);
  const options = usable.map(({ name, title }) => element("option", { value: name }, title || name));
  byId("preset").replaceChildren(...options, element("option", { value: OWN }, "Something else: a schema of your own"));
  const { preset = "invoice", schema } = recall("choice") ?? {};
  byId("preset").value = [...byId("preset").options].some(({ value }) => value === preset) ? preset : OWN;
  byId("schema").value = schema ?? pretty(EXAMPLE);
  showPreset(schema ?? null);
}

function showPreset(own = null) {
  const chosen = presets.find(({ name }) => name === byId("preset").value);
  const field = byId("schema");
  field.readOnly = Boolean(chosen);
  byId("edit-schema").hidden = !chosen;
  if (chosen) field.value = pretty(chosen.schema);
  else if (own) field.value = own;
  byId("preset-note").textContent = chosen?.checks.length ? `Checked: ${chosen.checks.join(" · ")}` : "";
}

function wanted() {
  if (byId("preset").value !== OWN) return { preset: byId("preset").value };
  try {
    return { schema: JSON.parse(byId("schema").value) };
  } catch (error) {
    byId("schema").focus();
    throw new ApiError(`The schema is not JSON: ${error.message}`);
  }
}

/** Uploads files, some at once, and returns the ids of all of them: null for those that were not taken. */
async function uploadAll(files) {
  const ids = new Array(files.length).fill(null);
  let next = 0;
  let done = 0;
  const worker = async () => {
    while (next < files.length) {
      const index = next++;
      try {
        ids[index] = await server.upload(files[index]);
      } catch (error) {
        if (error.status === 401) throw error;
        const code = error.code ? ` (${error.code})` : "";
        byId("refused").append(element("li", { class: "error" }, foreign(files[index].name), ` ${error.message}${code}`));
      }
      showProgress(`Sending: ${++done} of ${plural(files.length, "file")}`, done, files.length);
    }
  };
  await Promise.all(Array.from({ length: UPLOADS }, worker));
  return ids;
}

async function begin({ files, passwords }) {
  byId("start-error").textContent = "";
  byId("refused").replaceChildren();
  let isSent = false;
  try {
    if (!files.length) throw new ApiError("No files are chosen; drop some, or choose them above.");
    const body = wanted();
    remember("choice", { preset: byId("preset").value, ...(body.schema ? { schema: byId("schema").value } : {}) });
    byId("read").disabled = true;
    isSent = true;
    byId("job").hidden = false;
    const all = await uploadAll(files);
    const ids = all.filter((id) => id !== null);
    if (!ids.length) throw new ApiError("The server took none of the files; the reasons stand below.");
    const locked = Object.fromEntries(files.flatMap((file, index) => (all[index] && passwords.has(file) ? [[all[index], passwords.get(file)]] : [])));
    const job = await server.create({ ...body, input_file_ids: ids, ...(Object.keys(locked).length ? { passwords: locked } : {}) });
    remember("job", job.id);
    await open(job);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    byId("job").hidden = !isSent || !byId("refused").children.length;
    byId("start-error").textContent = error.message;
  } finally {
    byId("read").disabled = false;
  }
}

// ---- while it runs

function showProgress(text, value, most) {
  byId("job-state").textContent = text;
  const bar = byId("progress");
  bar.hidden = value === null;
  if (most) [bar.max, bar.value] = [most, value];
  else bar.removeAttribute("value");
}

function showJob(job, count) {
  const isOver = ENDED.has(job.status);
  const of = job.documents === null ? plural(job.input_files.length, "file") : plural(job.documents, "document");
  const text = job.documents === null ? `${STATES[job.status]}: ${of}` : `${STATES[job.status]}: ${count.toLocaleString("en")} of ${of}`;
  showProgress(text, isOver ? null : count, job.documents ?? 0);
  byId("cancel").hidden = isOver || job.status === "cancelling";
  byId("delete").hidden = !isOver;
  byId("job-error").textContent = (job.errors?.data ?? []).map(({ code, message }) => `${message} (${code})`).join(" ");
  byId("download").disabled = count === 0;
}

async function open(begun) {
  const job = await server.job(begun.id); // which says how far its confidences can be trusted
  current = job;
  byId("start").hidden = true;
  byId("job").hidden = false;
  const title = presets.find(({ name }) => name === job.preset)?.title || job.preset || "Documents";
  review = startReview(byId("review"), { title, digest: job.id, schema: job.schema, metrics: job.metrics, shelf, imageOf: (name, page) => server.page(job.id, name, page) });
  let [after, count, wait] = [0, 0, POLL_MS];
  for (;;) {
    try {
      const state = await server.job(job.id);
      let rows;
      do {
        rows = await server.records(job.id, after);
        if (rows.data.length && count < MOST_ROWS) review.add(rows.data);
        [after, count] = [rows.next, count + rows.data.length];
        showJob(state, count);
      } while (rows.has_more);
      if (count > MOST_ROWS) byId("job-error").textContent = `Only the first ${MOST_ROWS.toLocaleString("en")} are shown; the table has all.`;
      if (ENDED.has(state.status)) return;
      wait = POLL_MS;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 404) return leave();
      if (error.status === 401) return askKey(error.message);
      byId("job-error").textContent = `${error.message} It is tried again.`;
      wait = Math.min(2 * wait, MOST_POLL_MS);
    }
    await pause(wait);
  }
}

/** What a person said of the records, as the server takes it for a table. */
function corrections() {
  const { kept } = review.corrections;
  const said = review.records.filter(({ key, value }) => kept.has(key) && value !== null).map((record) => {
    const paths = [...kept.get(record.key).keys()];
    return { key: record.key, value: review.corrections.corrected(record), seen: paths.filter(Boolean), whole: paths.includes("") };
  });
  if (said.length > MOST_CORRECTIONS) throw new ApiError(`${said.length} documents are corrected, and a table takes ${MOST_CORRECTIONS}; export the corrections.`);
  return said;
}

async function download() {
  const format = byId("format").value;
  byId("job-error").textContent = "";
  try {
    const blob = await server.table(current.id, format, corrections());
    const link = element("a", { href: URL.createObjectURL(blob), download: `${current.preset ?? "documents"}.${format}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    byId("job-error").textContent = error.message;
  }
}

function leave() {
  remember("job", null);
  location.reload();
}

async function remove() {
  byId("delete").disabled = true;
  try {
    await server.delete(current.id);
    await Promise.all(current.input_files.map(({ id }) => server.deleteFile(id).catch(() => null)));
    leave();
  } catch (error) {
    byId("job-error").textContent = error.message;
    byId("delete").disabled = false;
  }
}

// ---- the page

function showEarlier(jobs) {
  byId("earlier").hidden = !jobs.length;
  byId("jobs").replaceChildren(...jobs.map((job) => {
    const name = `${job.preset ?? "own schema"}, ${plural(job.input_files.length, "file")}, ${new Date(1000 * job.created_at).toLocaleString()}`;
    const go = () => { remember("job", job.id); location.reload(); };
    return element("li", {}, button("Open", { class: "quiet", "aria-label": `Open ${name}` }, go), `${name} · ${STATES[job.status].toLowerCase()}`);
  }));
}

function askKey(message = "") {
  byId("start").hidden = true;
  byId("key-form").hidden = false;
  byId("key-error").textContent = message;
  byId("key").focus();
}

async function start() {
  byId("key-form").hidden = true;
  try {
    const config = await loadConfig();
    byId("model-name").textContent = config.model;
    byId("search-link").hidden = !config.has_index;
    const key = sessionStorage.getItem(KEY);
    if (config.needs_key && !key) return askKey();
    server = new Server(key);
    presets = await server.presets();
    const id = recall("job");
    const job = id === null ? null : await server.job(id).catch((error) => { if (error.status === 404) return null; throw error; });
    if (job) return await open(job);
    remember("job", null);
    fillPresets();
    showEarlier(await server.jobs());
    byId("start").hidden = false;
  } catch (error) {
    if (error.status === 401) return askKey(error.message);
    byId("job").hidden = false;
    byId("job-error").textContent = error.message;
  }
}

const intake = startIntake();
byId("preset").addEventListener("change", () => showPreset(recall("choice")?.schema ?? pretty(EXAMPLE)));
byId("edit-schema").addEventListener("click", () => {
  byId("preset").value = OWN;
  showPreset(byId("schema").value);
  byId("schema").focus();
});
byId("start").addEventListener("submit", (event) => {
  event.preventDefault();
  begin(intake);
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("key").value.trim());
  start();
});
byId("download").addEventListener("click", download);
byId("cancel").addEventListener("click", () => server.cancel(current.id).catch((error) => (byId("job-error").textContent = error.message)));
byId("delete").addEventListener("click", remove);
byId("new").addEventListener("click", leave);
start();
