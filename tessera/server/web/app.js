// Joins the page's parts: what happens when somebody adds pictures, asks, stops or starts over. The conversation
// is kept here and nowhere else; closing the tab forgets it. What a failed question leaves behind: without a
// word of an answer it goes back into the field, with one it stays, cut short, as part of the conversation.

import { ApiError, listModels, loadConfig, streamChat } from "./api.js";
import { byId } from "./dom.js";
import { Exchange } from "./exchange.js";
import { dataUrl, number, pictureItem, readPicture, startViewer } from "./pictures.js";
import { readSettings, startSettings } from "./settings.js";

const KEY = "tessera-api-key";
const TOP_LOGPROBS = 5;

let config;
let model;
let exchanges = [];
let pending = []; // pictures for the next question
let reading = null; // of pictures just added: a promise of whether all could be read
let knownTokens = 0; // of the conversation so far, as the server counted them
let running = null; // the answer that is being written: {exchange, controller}

const question = byId("question");

// ---- asking

async function ask() {
  if (!question.value.trim() || running) return;
  if (reading && !(await reading)) return; // the problem is shown, and the question stays
  if (!model && !(await connect())) return;
  const text = question.value.trim();
  if (!text || running) return;
  const settings = readSettings();
  if (!settings) return;
  if (budget() > config.max_model_len) {
    showProblem(`The pictures and the conversation take ${number(budget())} tokens, and the model has room for ` +
      `${number(config.max_model_len)}; remove a picture or begin a new conversation.`);
    return;
  }
  showProblem("");
  const exchange = new Exchange(text, pending, settings.schema);
  const controller = new AbortController();
  running = { exchange, controller };
  takeQuestion("", []);
  showRunning(true);
  byId("welcome").hidden = true;
  byId("conversation").append(exchange.root);
  exchange.onRender = followAnswer();
  exchange.root.scrollIntoView({ block: "start" });

  const timing = { sent: performance.now() };
  const outcome = { usage: null, reason: null };
  let failure = null;
  try {
    const body = requestBody(await messagesWith(exchange, settings.system), settings);
    for await (const chunk of streamChat(body, sessionStorage.getItem(KEY), controller.signal)) {
      take(chunk, exchange, outcome, timing);
    }
  } catch (error) {
    failure = error;
  }
  running = null;
  showRunning(false);
  settle(exchange, outcome, timing, failure, controller.signal.aborted, settings);
}

function requestBody(messages, { temperature, maxTokens, schema }) {
  const body = {
    model,
    messages,
    temperature,
    stream: true,
    stream_options: { include_usage: true },
    logprobs: true,
    top_logprobs: TOP_LOGPROBS,
  };
  if (maxTokens !== null) body.max_tokens = maxTokens;
  if (schema) body.response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
  return body;
}

async function messagesWith(last, system) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const exchange of [...exchanges, last]) {
    const urls = await Promise.all(exchange.pictures.map(dataUrl));
    const content = urls.map((url) => ({ type: "image_url", image_url: { url } }));
    messages.push({ role: "user", content: [...content, { type: "text", text: exchange.question }] });
    if (exchange !== last) messages.push({ role: "assistant", content: exchange.answer });
  }
  return messages;
}

function take(chunk, exchange, outcome, timing) {
  if (chunk.usage) outcome.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  if (choice.finish_reason) outcome.reason = choice.finish_reason;
  const text = choice.delta?.content ?? "";
  const logprobs = choice.logprobs?.content ?? [];
  if (!text && !logprobs.length) return;
  timing.last = performance.now();
  timing.first ??= timing.last;
  exchange.add(text, logprobs);
}

/** What an ended answer leaves behind, however it ended. */
function settle(exchange, outcome, timing, failure, stopped, settings) {
  let problem = failure && !stopped ? failure.message : null;
  if (!failure && !exchange.answer) problem = "The model ended without a word; ask in another way.";
  if (!exchange.answer) {
    exchange.remove();
    // What was typed meanwhile is not lost either.
    takeQuestion([exchange.question, question.value].filter(Boolean).join("\n"), [...exchange.pictures, ...pending]);
    byId("welcome").hidden = exchanges.length > 0;
    showProblem(problem ?? "");
    announce(stopped ? "Stopped." : "");
    if (failure instanceof ApiError && failure.status === 401) askForKey(problem);
    else question.focus();
    return;
  }
  exchanges.push(exchange);
  const pictureTokens = exchange.pictures.reduce((sum, picture) => sum + picture.tokens, 0);
  knownTokens = outcome.usage
    ? outcome.usage.prompt_tokens + outcome.usage.completion_tokens
    : knownTokens + pictureTokens + exchange.logprobs.length;
  exchange.finish(factsOf(exchange, outcome, timing, stopped, settings), problem);
  showBudget();
  announce(problem ? "" : stopped ? "Stopped." : "The answer is complete.");
}

/** The line below an answer: what it cost and how long it took. */
function factsOf(exchange, { usage, reason }, timing, stopped, { maxTokens }) {
  const facts = [];
  if (stopped) facts.push("stopped");
  if (reason === "length") {
    facts.push(maxTokens === null ? "cut off: the context is full" : `cut off after ${number(maxTokens)} tokens`);
  }
  const replyTokens = usage?.completion_tokens ?? exchange.logprobs.length;
  if (usage) {
    const details = usage.prompt_tokens_details ?? {};
    const parts = [];
    if (details.image_tokens) parts.push(`${number(details.image_tokens)} of pictures`);
    if (details.cached_tokens) parts.push(`${number(details.cached_tokens)} cached`);
    facts.push(`prompt ${number(usage.prompt_tokens)}${parts.length ? ` (${parts.join(", ")})` : ""}`);
  }
  if (replyTokens) facts.push(`reply ${number(replyTokens)} tokens`);
  if (timing.first) {
    facts.push(`first after ${((timing.first - timing.sent) / 1000).toFixed(2)} s`);
    const seconds = (timing.last - timing.first) / 1000;
    // Measured between the first token and the last, so one token has no rate.
    if (replyTokens > 1 && seconds > 0.001) facts.push(`${((replyTokens - 1) / seconds).toFixed(1)} tokens/s`);
  }
  return facts;
}

/** Keeps the end of a growing answer in sight, unless the reader has scrolled away from it. */
function followAnswer() {
  const main = byId("main");
  let height = main.scrollHeight;
  return () => {
    if (main.scrollTop + main.clientHeight > height - 80) main.scrollTop = main.scrollHeight;
    height = main.scrollHeight;
  };
}

// ---- pictures

async function addPictures(files) {
  const mine = Promise.resolve(reading).then(() => takePictures(files));
  reading = mine;
  await mine;
  if (reading === mine) reading = null;
}

async function takePictures(files) {
  if (!config) await connect();
  if (!config) return false;
  showProblem("");
  const problems = [];
  for (const file of files) {
    if (picturesInUse() >= config.max_images) {
      problems.push(`A conversation takes ${config.max_images} pictures; begin a new one, or remove a picture.`);
      break;
    }
    try {
      pending.push(await readPicture(file, config));
    } catch (error) {
      problems.push(error.message);
    }
    showPending();
  }
  if (problems.length) showProblem(problems.join(" "));
  question.focus();
  return problems.length === 0;
}

const picturesInUse = () =>
  [...exchanges, running?.exchange].reduce((sum, exchange) => sum + (exchange?.pictures.length ?? 0), pending.length);

function showPending() {
  const items = pending.map((picture, index) =>
    pictureItem(picture, () => {
      pending = pending.filter((other) => other !== picture);
      showPending();
      (byId("pending").querySelectorAll(".remove")[index] ?? question).focus();
    }),
  );
  byId("pending").replaceChildren(...items);
  showBudget();
}

const budget = () => [...(running?.exchange.pictures ?? []), ...pending].reduce((sum, { tokens }) => sum + tokens, knownTokens);

function showBudget() {
  const tokens = budget();
  const line = byId("budget");
  line.classList.toggle("over", tokens > config.max_model_len);
  line.textContent = tokens ? `${number(tokens)} of ${number(config.max_model_len)} tokens, without new text` : "";
}

function startPictures() {
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

// ---- the field, the buttons, the messages

function takeQuestion(text, pictures) {
  question.value = text;
  pending = pictures;
  fitQuestion();
  showPending();
}

function fitQuestion() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight + 2, innerHeight * 0.35)}px`;
}

function showRunning(on) {
  byId("send").hidden = on;
  byId("stop").hidden = !on;
  byId("new").disabled = on;
  if (on) announce("Answering.");
}

const showProblem = (sentence) => (byId("problem").textContent = sentence);
const announce = (sentence) => (byId("status").textContent = sentence);

function startOver() {
  for (const exchange of exchanges) exchange.remove();
  exchanges = [];
  knownTokens = 0;
  takeQuestion("", []);
  showProblem("");
  announce("A new conversation.");
  byId("welcome").hidden = false;
  question.focus();
}

function startComposer() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  byId("stop").addEventListener("click", () => running?.controller.abort());
  byId("new").addEventListener("click", startOver);
  question.addEventListener("input", fitQuestion);
  question.addEventListener("keydown", (event) => {
    // While an input method composes a word, Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !byId("viewer").open) running?.controller.abort();
  });
}

// ---- the server

function askForKey(problem) {
  byId("key-form").hidden = false;
  byId("key-error").textContent = problem;
  byId("main").scrollTop = 0;
  byId("key").focus();
}

function startKeyForm() {
  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const key = byId("key").value.trim();
    if (!key) return;
    sessionStorage.setItem(KEY, key);
    if (await connect()) question.focus();
  });
}

/** Learns what the server is and which models it has, which also proves the key; true when questions can be asked. */
async function connect() {
  const key = sessionStorage.getItem(KEY);
  let names;
  try {
    config ??= await loadConfig();
    if (config.needs_key && !key) {
      askForKey("");
      return false;
    }
    names = (await listModels(key)).map((entry) => entry.id);
  } catch (error) {
    if (error.status === 401) askForKey(key ? error.message : "");
    else showProblem(error.message);
    return false;
  }
  byId("key-form").hidden = true;
  byId("key-error").textContent = "";
  showProblem("");
  model = names.includes(config.model) ? config.model : names[0];
  const several = names.length > 1;
  byId("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === model)));
  byId("model").hidden = !several;
  byId("model-name").textContent = several ? "" : model;
  return true;
}

async function start() {
  startViewer();
  startSettings();
  startPictures();
  startComposer();
  startKeyForm();
  byId("model").addEventListener("change", (event) => (model = event.target.value));
  if (await connect()) question.focus();
}

start();
