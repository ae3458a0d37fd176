// Mistral's JavaScript client.

import { Mistral } from "@mistralai/mistralai";
import { z } from "zod";
import * as probe from "./probe.mjs";

const { ANSWER, KEY, MAX_TOKENS, MODEL, NO_MODEL, IMAGE, QUESTION, RESULT, TOOL, TOOLS, URL_ } = probe;
const { checkCall, holds, refused, same } = probe;
const connect = (apiKey) => new Mistral({ apiKey, serverURL: URL_ });
const client = connect(KEY);
const Receipt = z.object({ vendor: z.string(), total: z.number() });
const named = { type: "function", function: { name: TOOL } };

const asking = (text = QUESTION, imageUrl = IMAGE) => [
  { role: "user", content: [{ type: "image_url", imageUrl }, { type: "text", text }] },
];

/** The deltas of a streamed reply, and its last event. */
async function deltasOf(stream) {
  const deltas = [];
  let last;
  for await (const event of stream) {
    deltas.push(event.data.choices[0].delta);
    last = event.data;
  }
  return { deltas, last };
}

await probe.run({
  async chat() {
    for (const url of [IMAGE, { url: IMAGE }]) {
      const reply = await client.chat.complete({ model: MODEL, messages: asking(QUESTION, url), randomSeed: 3 });
      same(reply.choices[0].message.content, ANSWER);
    }
    return ANSWER;
  },

  async stream() {
    const { deltas, last } = await deltasOf(await client.chat.stream({ model: MODEL, messages: asking() }));
    same(deltas.map((delta) => delta.content ?? "").join(""), ANSWER);
    same(last.choices[0].finishReason, "stop");
    return `${deltas.length} events, ${last.usage.totalTokens} tokens`;
  },

  async schema() {
    const messages = asking("Give vendor and total as JSON.");
    const options = { model: MODEL, messages, responseFormat: Receipt };
    const parsed = (await client.chat.parse(options)).choices[0].message.parsed;
    Receipt.parse(parsed);
    const { deltas } = await deltasOf(await client.chat.parseStream(options));
    same(JSON.parse(deltas.map((delta) => delta.content ?? "").join("")), parsed);
    return JSON.stringify(parsed);
  },

  async tools() {
    const options = { model: MODEL, tools: TOOLS, maxTokens: MAX_TOKENS };
    let message;
    for (const toolChoice of ["any", "required", named]) {
      message = (await client.chat.complete({ ...options, messages: asking(), toolChoice })).choices[0].message;
      for (const call of message.toolCalls) checkCall(call.function.name, call.function.arguments, call.id);
    }
    const stream = await client.chat.stream({ ...options, messages: asking(), toolChoice: named });
    const streamed = (await deltasOf(stream)).deltas.flatMap((delta) => delta.toolCalls ?? []);
    const argumentsOf = (calls) => calls.map((call) => call.function.arguments);
    same(argumentsOf(streamed), argumentsOf(message.toolCalls));
    const results = message.toolCalls.map((call) => ({
      role: "tool", toolCallId: call.id, name: call.function.name, content: RESULT,
    }));
    const messages = [...asking(), message, ...results];
    const reply = await client.chat.complete({ ...options, messages, toolChoice: "none" });
    holds(reply.choices[0].message.content, "no answer after the tool's result");
    return `${TOOL}(${argumentsOf(message.toolCalls)}) -> ${reply.choices[0].message.content}`;
  },

  async errors() {
    await refused(() => client.chat.complete({ model: NO_MODEL, messages: asking() }), Error, "model_not_found", "404");
    const messages = asking(QUESTION, probe.BROKEN_IMAGE);
    await refused(() => client.chat.complete({ model: MODEL, messages }), Error, "invalid_image", "400");
    return refused(() => connect("wrong").chat.complete({ model: MODEL, messages: asking() }), Error, "API key", "401");
  },

  async models() {
    const seeing = (await client.models.list()).data.filter((model) => model.capabilities.vision);
    const names = seeing.map((model) => model.id);
    holds(names.includes(MODEL), `the models that see are ${names}`);
    return names;
  },

  async batches() {
    const line = { custom_id: "a", body: { messages: [{ role: "user", content: QUESTION }], max_tokens: MAX_TOKENS } };
    const content = Buffer.from(JSON.stringify(line));
    const file = await client.files.upload({ file: { fileName: "in.jsonl", content }, purpose: "batch" });
    let job = await client.batch.jobs.create({ endpoint: "/v1/chat/completions", inputFiles: [file.id], model: MODEL });
    while (["QUEUED", "RUNNING"].includes(job.status)) {
      await new Promise((resolve) => setTimeout(resolve, 200));
      job = await client.batch.jobs.get({ jobId: job.id });
    }
    same([job.status, job.succeededRequests], ["SUCCESS", 1]);
    const pieces = [];
    for await (const piece of await client.files.download({ fileId: job.outputFile })) pieces.push(piece);
    same(JSON.parse(Buffer.concat(pieces).toString()).custom_id, "a");
    same((await client.batch.jobs.cancel({ jobId: job.id })).status, "SUCCESS");
    holds((await client.files.delete({ fileId: file.id })).deleted, "the file stays");
    return job.id;
  },

  async ocr() {
    const schemaDefinition = { type: "object", properties: { total: { type: "string" } }, required: ["total"] };
    const documentAnnotationFormat = { type: "json_schema", jsonSchema: { name: "receipt", schemaDefinition } };
    const document = { type: "image_url", imageUrl: IMAGE };
    const told = await client.ocr.process({ model: MODEL, document, documentAnnotationFormat });
    same(Object.keys(JSON.parse(told.documentAnnotation)), ["total"]);
    same(told.usageInfo.pagesProcessed, 1);
    return told.documentAnnotation;
  },
});
