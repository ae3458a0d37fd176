// One question and its answer on the page: how both look while the answer arrives and when it is complete. It
// knows neither the server nor the rest of the conversation.

import { button, element } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { number, pictureItem } from "./pictures.js";
import { isDoubtful, renderProbabilities, tokensOf } from "./probabilities.js";

export class Exchange {
  /** `schema` says that the answer is JSON, which is shown as it is. */
  constructor(question, pictures, schema) {
    Object.assign(this, { question, pictures, schema, answer: "", logprobs: [] });
    this.body = element("div", { class: "body" });
    this.foot = element("div", { class: "foot" });
    this.reply = element("article", { class: "answer", "aria-label": "Answer", "aria-busy": "true" }, this.body, this.foot);
    const asked = element("article", { class: "question", "aria-label": "Question" });
    if (pictures.length) {
      const items = pictures.map((picture) => pictureItem(picture));
      asked.append(element("ul", { class: "pictures", "aria-label": "Pictures" }, ...items));
    }
    asked.append(element("p", {}, question));
    this.root = element("section", { class: "exchange" }, asked, this.reply);
    this.wait();
  }

  /** Until the first word: that something happens, and for how long it has. */
  wait() {
    const began = performance.now();
    const seconds = element("span", { class: "seconds" });
    const tiles = element("span", { class: "tiles", "aria-hidden": "true" }, ...[0, 1, 2].map(() => element("i")));
    this.body.append(element("p", { class: "waiting" }, tiles, this.pictures.length ? "Looking" : "Reading", seconds));
    this.clock = setInterval(() => {
      seconds.textContent = ` ${Math.round((performance.now() - began) / 1000)} s`;
    }, 1000);
  }

  add(text, logprobs) {
    this.answer += text;
    this.logprobs.push(...logprobs);
    this.frame ??= requestAnimationFrame(() => this.render()); // at most once for each time the screen is drawn
  }

  render() {
    clearInterval(this.clock);
    cancelAnimationFrame(this.frame);
    this.frame = null;
    if (this.probabilities) this.body.replaceChildren(renderProbabilities(tokensOf(this.logprobs)));
    else if (this.isData()) this.body.replaceChildren(element("pre", { tabindex: "0" }, element("code", {}, this.answer)));
    else this.body.replaceChildren(renderMarkdown(this.answer));
    this.onRender?.();
  }

  /** JSON is shown to the letter: Markdown would swallow its backslashes. Nobody's prose begins with a brace. */
  isData() {
    return this.schema || /^\s*(\{|\[\s*\{)/.test(this.answer);
  }

  /** `facts` are the figures of the line below; `problem` is why the answer is not whole. */
  finish(facts, problem) {
    this.render();
    this.reply.removeAttribute("aria-busy");
    if (problem) this.foot.append(element("p", { class: "error", role: "alert" }, problem));
    const tools = element("div", { class: "tools" });
    const copy = button("Copy", { class: "quiet" }, () => this.copy(copy));
    if (this.answer) tools.append(copy);
    if (this.logprobs.length) tools.append(this.probabilityButton());
    this.foot.append(tools, element("p", { class: "facts" }, facts.join(" · ")));
    this.onRender?.();
  }

  probabilityButton() {
    const doubtful = tokensOf(this.logprobs).filter(isDoubtful).length;
    const label = doubtful ? `Probabilities, ${number(doubtful)} doubtful` : "Probabilities";
    const made = button(label, { class: "quiet", "aria-pressed": "false" }, () => {
      this.probabilities = !this.probabilities;
      this.reply.setAttribute("aria-live", "off"); // it was read out once; another view of it is no news
      made.setAttribute("aria-pressed", String(this.probabilities));
      this.render();
    });
    return made;
  }

  async copy(from) {
    const copied = await copyText(this.answer);
    from.textContent = copied ? "Copied" : "Not allowed here";
    setTimeout(() => (from.textContent = "Copy"), 1500);
  }

  /** The question was not answered at all: it leaves the page. */
  remove() {
    clearInterval(this.clock);
    cancelAnimationFrame(this.frame);
    this.root.remove();
  }
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
