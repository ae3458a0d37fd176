// The line below an answer: in short what it cost, and unfolded where the tokens and the seconds went.

import { number } from "./images.js";

/** {summary, details} of an ended answer; `tokens` is what arrived, for when the server did not count. */
export function factsOf({ usage, reason, tokens, timing, stopped, maxTokens }) {
  const reply = usage?.completion_tokens ?? tokens;
  const counted = `${number(reply)} token${reply === 1 ? "" : "s"}`;
  const seconds = ((timing.last ?? performance.now()) - timing.sent) / 1000;
  let summary = counted;
  if (reason === "length") summary = maxTokens === null ? `${counted}, cut off: the context is full` : `cut off after ${counted}`;
  if (stopped) summary = `stopped after ${counted}`;
  return { summary: `${summary}, ${seconds.toFixed(1)} s`, details: [...readFacts(usage), ...timeFacts(timing, reply)] };
}

function readFacts(usage) {
  if (!usage) return [];
  const { image_tokens: images = 0, cached_tokens: cached = 0 } = usage.prompt_tokens_details ?? {};
  const all = usage.prompt_tokens;
  const parts = images ? `: ${number(images)} of images, ${number(all - images)} of text` : "";
  const facts = [`Read ${number(all)} tokens${parts}`];
  if (cached) facts.push(`${number(cached)} of them were in the cache`);
  return facts;
}

function timeFacts(timing, reply) {
  if (!timing.first) return [];
  const facts = [`First word after ${((timing.first - timing.sent) / 1000).toFixed(2)} s`];
  const seconds = (timing.last - timing.first) / 1000;
  // Measured between the first token and the last, so one token has no rate.
  if (reply > 1 && seconds > 0.001) facts.push(`then ${((reply - 1) / seconds).toFixed(1)} tokens a second`);
  return facts;
}
