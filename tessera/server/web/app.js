// Joins the page's parts: what happens when somebody adds images, asks, edits, stops or starts over. The
// conversation is kept in this browser (store.js) after each answer. What a failed question leaves behind: without
// a word of an answer it goes back into the field, with one it stays, cut short, as part of the conversation.

import { startAbout } from "./about.js";
import { ApiError, listModels, loadConfig, streamChat } from "./api.js";
import { showDemos } from "./demos.js";
import { byId } from "./dom.js";
import { Exchange } from "./exchange.js";
import { factsOf } from "./facts.js";
import { listConversations, startHistory } from "./history.js";
import { startIntake } from "./intake.js";
import { announce, showNotice, showProblem, startNotices } from "./notices.js";
import { dataUrl, imageItem, number, readImage, startViewer } from "./images.js";
import { legendItems } from "./probabilities.js";
import { readSettings, restoreSettings, startSettings } from "./settings.js";
import { fetchKept, keep, newId } from "./store.js";

const KEY = "tessera-api-key";
const TOP_LOGPROBS = 5;
const TITLE_LENGTH = 60;
const MOUSE = matchMedia("(hover: hover) and (pointer: fine)"); // on touch, focus would bring up the keyboard

let unreached = ""; // why the server could not be asked, while that shows
let config;
let model;
let conversation = null; // {id, title} once something of it is kept
let exchanges = [];
let pending = []; // images for the next question
let reading = null; // of images just added: a promise of whether all could be read
let running = null; // the answer that is being written: {exchange, controller}
let editing = null; // an earlier question in the field: {at, text, images} with what the field held before

const question = byId("question");

// ---- asking

async function ask() {
  if (!question.value.trim() || running) return;
  if (reading && !(await reading)) return; // the problem is shown, and the question stays
  if (!model && !(await connect())) return;
  const text = question.value.trim();
  if (!text || running) return;
  const edited = editing;
  const done = await answer(text, pending, edited ? edited.at : exchanges.length, () => {
    endEditing();
    takeQuestion(edited?.text ?? "", edited?.images ?? []);
  });
  if (!done) return;
  // Unanswered: the question goes back, and what was typed meanwhile is not lost either.
  const { images, problem, failure } = done;
  if (edited) beginEditing(edited.at);
  takeQuestion([text, question.value].filter(Boolean).join("\n"), [...images, ...pending]);
  if (failure instanceof ApiError && failure.status === 401) askForKey(problem);
  else question.focus();
}

/** Asks in place of what stands from `at` on. Null when it was answered or may not be sent; else what went wrong. */
async function answer(text, images, at, onSend) {
  const settings = readSettings();
  if (!settings) return null;
  const needed = usedTokens(at) + tokensOfAll(images);
  if (needed > config.max_model_len) {
    showProblem(`The images and the conversation take ${number(needed)} tokens, and the model has room for ` +
      `${number(config.max_model_len)}; remove an image or begin a new conversation.`);
    return null;
  }
  showProblem("");
  showNotice("");
  const replaced = exchanges.splice(at);
  for (const old of replaced) old.remove();
  const exchange = new Exchange(text, images, settings.schema, actions);
  const controller = new AbortController();
  running = { exchange, controller };
  onSend();
  showRunning(true);
  byId("conversation").append(exchange.root);
  showWelcome();
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
  const stopped = controller.signal.aborted;
  if (exchange.answer) settle(exchange, { outcome, timing, stopped, settings, replaced }, failure);
  return exchange.answer ? null : takeBack(exchange, replaced, failure, stopped);
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
    const urls = await Promise.all(exchange.images.map(dataUrl));
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
  const thought = choice.delta?.reasoning_content ?? "";
  const logprobs = thought ? [] : (choice.logprobs?.content ?? []); // probabilities are shown of the answer
  if (!text && !thought && !logprobs.length) return;
  timing.last = performance.now();
  timing.first ??= timing.last;
  if (thought) exchange.think(thought);
  if (text || logprobs.length) exchange.add(text, logprobs);
}

/** Nothing was answered: what stood before stands again. */
function takeBack(exchange, replaced, failure, stopped) {
  exchange.remove();
  showExchanges([...exchanges, ...replaced]);
  const problem = failure ? inWords(failure, exchange.images) : "The model gave an empty answer. Try rephrasing.";
  showProblem(stopped ? "" : problem);
  announce(stopped ? "Stopped." : "");
  return { images: exchange.images, problem, failure: stopped ? null : failure };
}

/** A person sees images, where the server sees data URLs. */
function inWords(failure, images) {
  const name = images.length === 1 ? `The image ${images[0].name}` : "One of the images";
  return failure.message.replace(/\bthe data URL\b/i, name);
}

/** What an answer leaves behind, whether it is whole or not. */
function settle(exchange, { outcome, timing, stopped, settings, replaced }, failure) {
  const { usage } = outcome;
  const before = usedTokens(exchanges.length);
  const problem = failure && !stopped ? failure.message : null;
  exchanges.push(exchange);
  exchange.total = usage
    ? usage.prompt_tokens + usage.completion_tokens
    : before + tokensOfAll(exchange.images) + exchange.logprobs.length;
  const facts = factsOf({ ...outcome, tokens: exchange.logprobs.length, timing, stopped, maxTokens: settings.maxTokens });
  facts.note = config.bundled ? nanoNote() : null;
  exchange.finish(facts, problem);
  showBudget();
  announce(problem ? "" : stopped ? "Stopped." : "The answer is complete.");
  if (replaced.length) sayReplaced(exchange, replaced, settings.temperature);
  keepConversation();
}

/** What an answer of the demo model cannot be good at, said where it is met. */
function nanoNote() {
  const images = imagesIn(exchanges);
  if (images === 0) return "nano was trained on questions about images only: add one and ask about it.";
  return images > 1 ? "nano reads one image well: begin a new conversation for the next one." : null;
}

function sayReplaced(exchange, replaced, temperature) {
  const before = [...exchanges.slice(0, -1), ...replaced];
  const same = replaced[0].answer === exchange.answer && replaced[0].question === exchange.question;
  const sentence = same && temperature === 0
    ? "The answer is the same, as it always is at temperature 0; Settings can raise it."
    : "What stood here before was replaced.";
  showNotice(sentence, () => {
    if (running) return;
    endEditing();
    exchanges.forEach((other) => other.remove());
    showExchanges(before);
    keepConversation();
  });
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

// ---- the conversation

const actions = {
  edit(exchange) {
    if (running) return;
    const at = exchanges.indexOf(exchange);
    beginEditing(at);
    takeQuestion(exchange.question, [...exchange.images]);
    question.focus();
  },
  async regenerate(exchange) {
    if (running || (!model && !(await connect()))) return;
    endEditing();
    const failed = await answer(exchange.question, exchange.images, exchanges.indexOf(exchange), () => {});
    if (failed?.failure instanceof ApiError && failed.failure.status === 401) askForKey(failed.problem);
  },
  shown: showLegend,
};

function beginEditing(at) {
  editing = { at, text: editing?.text ?? question.value, images: editing?.images ?? pending };
  question.value = "";
  pending = [];
  showEditing();
}

function endEditing() {
  editing = null;
  showEditing();
}

function cancelEditing() {
  if (!editing) return;
  const { text, images } = editing;
  endEditing();
  takeQuestion(text, images);
  question.focus();
}

function showEditing() {
  byId("editing").hidden = !editing;
  exchanges.forEach((exchange, index) => exchange.root.classList.toggle("fading", editing !== null && index >= editing.at));
}

/** Puts these on the page, in place of what is there. */
function showExchanges(shown) {
  exchanges = shown;
  byId("conversation").replaceChildren(...exchanges.map(({ root }) => root));
  showWelcome();
  showBudget();
  showLegend();
}

async function keepConversation() {
  conversation ??= { id: newId(), title: titleOf(exchanges[0].question) };
  history.replaceState({ conversation: conversation.id }, "");
  const kept = exchanges.map((exchange) => exchange.kept());
  try {
    await keep("conversations", { ...conversation, model, updated: Date.now(), exchanges: kept });
  } catch {
    showProblem("This browser has no room left to keep the conversation; delete older ones under History.");
  }
  if (!byId("history").hidden) listConversations();
}

function titleOf(text) {
  const line = text.split("\n")[0].trim();
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH - 1)}…` : line;
}

async function openConversation(kept) {
  if (running) {
    showNotice("Stop the answer first, then open another conversation.");
    return;
  }
  if (!config && !(await connect()) && !config) return;
  cancelEditing();
  showProblem("");
  showNotice("");
  const log = byId("conversation");
  log.setAttribute("aria-live", "off"); // what was read out once is no news
  const restored = await Promise.all(kept.exchanges.map(restore));
  conversation = { id: kept.id, title: kept.title };
  history.replaceState({ conversation: kept.id }, "");
  showExchanges(restored);
  byId("main").scrollTop = byId("main").scrollHeight;
  if (!byId("history").hidden) listConversations();
  setTimeout(() => log.setAttribute("aria-live", "polite"), 500);
}

async function restore({ question: text, pictures: images, schema, answer: said, logprobs, facts, problem, total }) {
  const read = images.map(({ name, file }) => readImage(file, config).catch(() => ({ name, file, view: null, tokens: 0 })));
  const exchange = new Exchange(text, await Promise.all(read), schema, actions);
  Object.assign(exchange, { answer: said, logprobs, total });
  exchange.finish(facts, problem);
  return exchange;
}

function clear() {
  conversation = null;
  history.replaceState({}, "");
  endEditing();
  showExchanges([]);
  takeQuestion("", []);
}

function startOver() {
  cancelEditing();
  const before = { conversation, exchanges, text: question.value, images: pending };
  clear();
  showProblem("");
  announce("A new conversation.");
  question.focus();
  if (!byId("history").hidden) listConversations();
  if (!before.exchanges.length && !before.text && !before.images.length) return;
  showNotice(before.exchanges.length ? "The last conversation is kept under History." : "The field was cleared.", () => {
    if (running) return;
    conversation = before.conversation;
    history.replaceState({ conversation: conversation?.id }, "");
    showExchanges(before.exchanges);
    takeQuestion(before.text, before.images);
  });
}

/** After a reload: the conversation that was open, and the words that were in the field or on their way. */
async function resume() {
  const { conversation: id, draft } = history.state ?? {};
  const kept = id && (await fetchKept("conversations", id).catch(() => null));
  if (kept) await openConversation(kept);
  if (draft && !question.value) takeQuestion(draft, pending);
}

// ---- images

async function addImages(files) {
  const mine = Promise.resolve(reading).then(() => takeImages(files));
  reading = mine;
  await mine;
  if (reading === mine) reading = null;
}

async function takeImages(files) {
  if (!config) await connect();
  if (!config) return false;
  showProblem("");
  const problems = [];
  for (const file of files) {
    if (imagesInUse() >= config.max_images) {
      problems.push(`A conversation takes ${config.max_images} images; begin a new one, or remove an image.`);
      break;
    }
    try {
      const image = await readImage(file, config);
      pending.push(image);
      if (image.scaled) showNotice(image.scaled);
    } catch (error) {
      problems.push(error.message);
    }
    showPending();
  }
  if (problems.length) showProblem(problems.join(" "));
  if (MOUSE.matches) question.focus();
  return problems.length === 0;
}

const standing = () => [...exchanges.slice(0, editing?.at), running?.exchange];

const imagesIn = (asked) => asked.reduce((sum, exchange) => sum + (exchange?.images.length ?? 0), 0);

const imagesInUse = () => imagesIn(standing()) + pending.length;

function showPending() {
  const items = pending.map((image, index) =>
    imageItem(image, () => {
      pending = pending.filter((other) => other !== image);
      showPending();
      (byId("pending").querySelectorAll(".remove")[index] ?? question).focus();
    }),
  );
  byId("pending").replaceChildren(...items);
  showBudget();
}

const tokensOfAll = (images) => images.reduce((sum, { tokens }) => sum + tokens, 0);

/** Of the conversation before the exchange `at`, as the server counted. */
const usedTokens = (at) => exchanges[at - 1]?.total ?? 0;

function showBudget() {
  if (!config) return;
  const tokens =
    usedTokens(editing?.at ?? exchanges.length) + tokensOfAll([...(running?.exchange.images ?? []), ...pending]);
  const line = byId("budget");
  line.classList.toggle("over", tokens > config.max_model_len);
  line.textContent = tokens ? `${number(tokens)} of ${number(config.max_model_len)} tokens used` : "";
}

// ---- the field and the buttons

function takeQuestion(text, images) {
  question.value = text;
  pending = images;
  fitQuestion();
  showPending();
}

function fitQuestion() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight + 2, innerHeight * 0.35)}px`;
}

function showRunning(on) {
  const focused = document.activeElement;
  const wasOnButton = focused === byId("send") || focused === byId("stop") || focused?.classList.contains("again");
  byId("send").hidden = on;
  byId("stop").hidden = !on;
  byId("new").disabled = on;
  for (const again of document.querySelectorAll(".again")) again.disabled = on;
  if (on) announce("Answering.");
  // A button that goes takes the keyboard with it.
  if ((wasOnButton || document.activeElement === document.body) && MOUSE.matches) question.focus();
}

function showWelcome() {
  byId("welcome").hidden = exchanges.length > 0 || running !== null;
}

function showLegend() {
  byId("legend").hidden = !document.querySelector(".probabilities");
}

function tryDemo(image, text) {
  if (running) return;
  takeQuestion(text, [image]);
  ask();
}

function startComposer() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  byId("stop").addEventListener("click", () => running?.controller.abort());
  byId("new").addEventListener("click", startOver);
  byId("editing-cancel").addEventListener("click", cancelEditing);
  byId("legend").replaceChildren(...legendItems());
  question.addEventListener("input", fitQuestion);
  question.addEventListener("keydown", (event) => {
    // While an input method composes a word, Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
    if (running) running.controller.abort();
    else cancelEditing();
  });
  addEventListener("pagehide", () => {
    const draft = editing ? editing.text : [running?.exchange.question, question.value].filter(Boolean).join("\n");
    history.replaceState({ ...history.state, draft }, "");
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
    byId("search-link").hidden = !config.has_index;
    byId("demo-note").hidden = byId("demo-badge").hidden = !config.bundled;
    if (config.needs_key && !key) {
      askForKey("");
      return false;
    }
    names = (await listModels(key)).map((entry) => entry.id);
  } catch (error) {
    if (error.status === 401) askForKey(key ? error.message : "");
    else showProblem((unreached = error.message));
    return false;
  }
  byId("key-form").hidden = true;
  byId("key-error").textContent = "";
  if (unreached) showProblem((unreached = "")); // what was said of an image meanwhile stays
  model = names.includes(config.model) ? config.model : names[0];
  const several = names.length > 1;
  byId("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === model)));
  byId("model").hidden = !several;
  byId("model-name").textContent = several ? "" : model;
  showDemos(config, tryDemo);
  return true;
}

async function start() {
  startViewer();
  startSettings();
  startNotices();
  startIntake(addImages);
  startComposer();
  startKeyForm();
  startAbout(() => ({ config, model }));
  startHistory({
    open: openConversation,
    clear,
    current: () => conversation?.id,
    renamed: ({ id, title }) => conversation?.id === id && (conversation.title = title),
  });
  byId("model").addEventListener("change", (event) => (model = event.target.value));
  restoreSettings();
  const connected = await connect();
  if (config) await resume();
  if (connected && MOUSE.matches) question.focus();
}

start();
