// Writes a kept conversation to a file: Markdown to read, in which images are named, and JSON to go on with,
// which holds the messages of a chat request with the images inside.

import { dataUrl } from "./images.js";

export async function exportConversation(conversation, kind) {
  const text = kind === "json" ? await asJson(conversation) : asMarkdown(conversation);
  const type = kind === "json" ? "application/json" : "text/markdown";
  save(new Blob([text], { type }), `${fileName(conversation.title)}.${kind === "json" ? "json" : "md"}`);
}

function asMarkdown({ title, model, exchanges }) {
  const parts = [`# ${title}`, `Answers by ${model}.`];
  for (const { question, pictures: images, answer } of exchanges) {
    parts.push("## Question");
    if (images.length) parts.push(images.map(({ name }) => `*Image: ${name}*`).join("  \n"));
    parts.push(question, "## Answer", answer);
  }
  return parts.join("\n\n") + "\n";
}

async function asJson({ title, model, exchanges }) {
  const messages = [];
  for (const { question, pictures: images, answer } of exchanges) {
    const urls = await Promise.all(images.map((image) => dataUrl({ ...image })));
    const content = urls.map((url) => ({ type: "image_url", image_url: { url } }));
    messages.push({ role: "user", content: [...content, { type: "text", text: question }] });
    messages.push({ role: "assistant", content: answer });
  }
  return JSON.stringify({ title, model, messages }, null, 2) + "\n";
}

const fileName = (title) => title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "conversation";

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
