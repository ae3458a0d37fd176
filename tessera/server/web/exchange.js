// One question and its answer on the page: how both look while the answer arrives and when it is complete. It
// knows neither the server nor the rest of the conversation; what its buttons do is given.

import { button, codeBlock, copyButton, element } from "./dom.js";
import { indented } from "./json.js";
import { renderMarkdown } from "./markdown.js";
import { imageItem, number } from "./images.js";
import { isDoubtful, renderProbabilities, tokensOf } from "./probabilities.js";

export class Exchange {
  /** `schema` says that the answer is JSON; `actions` are edit, regenerate and shown, each told the exchange. */
  constructor(question, images, schema, actions) {
    Object.assign(this, { question, images, schema, actions, answer: "", logprobs: [], facts: null, problem: null });
    this.body = element("div", { class: "body" });
    this.foot = element("div", { class: "foot" });
    this.reply = element("article", { class: "answer", "aria-label": "Answer", "aria-busy": "true" }, this.body, this.foot);
    this.asked = element("article", { class: "question", "aria-label": "Question" });
    if (images.length) {
      const items = images.map((image) => imageItem(image));
      this.asked.append(element("ul", { class: "images", "aria-label": "Images" }, ...items));
    }
    this.asked.append(element("p", {}, question));
    this.root = element("section", { class: "exchange" }, this.asked, this.reply);
    this.wait();
  }

  /** Until the first word: that something happens, and for how long it has. */
  wait() {
    const began = performance.now();
    const seconds = element("span", { class: "seconds" });
    const tiles = element("span", { class: "tiles", "aria-hidden": "true" }, ...[0, 1, 2].map(() => element("i")));
    this.body.append(element("p", { class: "waiting" }, tiles, this.images.length ? "Looking" : "Reading", seconds));
    this.clock = setInterval(() => {
      seconds.textContent = ` ${Math.round((performance.now() - began) / 1000)} s`;
    }, 1000);
  }

  add(text, logprobs) {
    this.answer += text;
    this.logprobs.push(...logprobs);
    this.frame ??= requestAnimationFrame(() => this.render()); // at most once for each time the screen is drawn
  }

  /** What the model thinks before it answers, folded away above the answer. */
  think(text) {
    if (!this.thoughts) {
      this.thoughts = element("p", { dir: "auto" });
      this.body.before(element("details", { class: "thoughts" }, element("summary", {}, "Thoughts"), this.thoughts));
    }
    this.thoughts.append(text);
  }

  render() {
    clearInterval(this.clock);
    cancelAnimationFrame(this.frame);
    this.frame = null;
    if (this.probabilities) this.body.replaceChildren(renderProbabilities(tokensOf(this.logprobs)));
    else if (this.isData()) this.body.replaceChildren(this.dataBlock());
    else this.body.replaceChildren(renderMarkdown(this.answer));
    this.onRender?.();
  }

  /** JSON is shown to the letter: Markdown would swallow its backslashes. Nobody's prose begins with a brace. */
  isData() {
    return this.schema || /^\s*(\{|\[\s*\{)/.test(this.answer);
  }

  /** Laid out as it streams; what proves to be no JSON at its end is shown as it was written. */
  dataBlock() {
    const whole = this.facts === null || isJson(this.answer);
    return codeBlock(whole ? indented(this.answer) : this.answer, "JSON", () => this.answer);
  }

  /** `facts` are {summary, details}; `problem` is why the answer is not whole. */
  finish(facts, problem) {
    Object.assign(this, { facts, problem });
    this.render();
    this.reply.removeAttribute("aria-busy");
    if (problem) this.foot.append(element("p", { class: "error", role: "alert" }, problem));
    const tools = element("div", { class: "tools" }, copyButton(() => this.answer));
    if (this.logprobs.length) tools.append(this.probabilityButton());
    tools.append(button("Regenerate", { class: "quiet again" }, () => this.actions.regenerate(this)));
    this.asked.append(
      element("div", { class: "tools" }, button("Edit", { class: "quiet again" }, () => this.actions.edit(this))),
    );
    this.foot.append(tools, factsElement(facts));
    if (facts.note) this.foot.append(element("p", { class: "note" }, facts.note));
    this.onRender?.();
  }

  probabilityButton() {
    const doubtful = tokensOf(this.logprobs).filter(isDoubtful).length;
    const label = doubtful ? `How sure? ${number(doubtful)} doubtful` : "How sure?";
    const title = "Colour each token by its probability";
    const made = button(label, { class: "quiet", "aria-pressed": "false", title }, () => {
      this.probabilities = !this.probabilities;
      this.reply.setAttribute("aria-live", "off"); // it was read out once; another view of it is no news
      made.setAttribute("aria-pressed", String(this.probabilities));
      this.render();
      this.actions.shown();
    });
    return made;
  }

  /** The question was not answered at all, or another takes its place: it leaves the page. */
  remove() {
    clearInterval(this.clock);
    cancelAnimationFrame(this.frame);
    this.root.remove();
  }

  /** What a browser can keep of it. Its images are kept as `pictures`, as in older conversations. */
  kept() {
    const { question, schema, answer, logprobs, facts, problem, total } = this;
    const pictures = this.images.map(({ name, file }) => ({ name, file }));
    return { question, pictures, schema, answer, logprobs, facts, problem, total };
  }
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function factsElement({ summary, details }) {
  const made = element(
    "details",
    { class: "facts" },
    element("summary", {}, summary),
    element("ul", {}, ...details.map((detail) => element("li", {}, detail))),
  );
  made.addEventListener("toggle", () => made.open && made.scrollIntoView({ block: "nearest" }));
  return made;
}
