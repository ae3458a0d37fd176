// OpenAI's JavaScript client.

import OpenAI, { toFile } from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import * as probe from "./probe.mjs";

const { ANSWER, KEY, MAX_TOKENS, MODEL, NO_MODEL, IMAGE, IMAGE_TOKENS, QUESTION, RESULT, TOOL, TOOLS, URL_ } = probe;
const { checkCall, holds, refused, same } = probe;
const connect = (apiKey) => new OpenAI({ baseURL: `${URL_}/v1`, apiKey, maxRetries: 0 });
const client = connect(KEY);
const chat = client.chat.completions;
const Receipt = z.object({ vendor: z.string(), total: z.number() });
const named = { type: "function", function: { name: TOOL } };

const asking = (text = QUESTION, url = IMAGE) => [
  { role: "user", content: [{ type: "image_url", image_url: { url } }, { type: "text", text }] },
];

await probe.run({
  async chat() {
    const reply = await chat.create({ model: MODEL, messages: asking(), max_completion_tokens: MAX_TOKENS });
    same(reply.choices[0].message.content, ANSWER);
    same(reply.usage.prompt_tokens_details.image_tokens, IMAGE_TOKENS);
    return ANSWER;
  },

  async stream() {
    const options = { model: MODEL, messages: asking(), stream: true, stream_options: { include_usage: true } };
    let text = "";
    let last;
    for await (const chunk of await chat.create(options)) {
      text += chunk.choices[0]?.delta.content ?? "";
      last = chunk;
    }
    same(text, ANSWER);
    const helped = await chat.stream({ model: MODEL, messages: asking() }).finalChatCompletion();
    same(helped.choices[0].message.content, ANSWER);
    return `${last.usage.total_tokens} tokens`;
  },

  async schema() {
    const messages = asking("Give vendor and total as JSON.");
    const options = { model: MODEL, messages, response_format: zodResponseFormat(Receipt, "receipt") };
    const parsed = (await chat.parse(options)).choices[0].message.parsed;
    Receipt.parse(parsed);
    const streamed = await chat.stream(options).finalChatCompletion();
    same(streamed.choices[0].message.parsed, parsed);
    return JSON.stringify(parsed);
  },

  async tools() {
    const options = { model: MODEL, tools: TOOLS, max_tokens: MAX_TOKENS };
    let message;
    for (const tool_choice of ["required", named]) {
      const reply = await chat.create({ ...options, messages: asking(), tool_choice });
      message = reply.choices[0].message;
      for (const call of message.tool_calls) checkCall(call.function.name, call.function.arguments, call.id);
    }
    const streamed = await chat.stream({ ...options, messages: asking(), tool_choice: named }).finalChatCompletion();
    const argumentsOf = (one) => one.tool_calls.map((call) => call.function.arguments);
    same(argumentsOf(streamed.choices[0].message), argumentsOf(message));
    const results = message.tool_calls.map(({ id }) => ({ role: "tool", tool_call_id: id, content: RESULT }));
    const messages = [...asking(), message, ...results];
    const reply = await chat.create({ ...options, messages, tool_choice: "none" });
    holds(reply.choices[0].message.content, "no answer after the tool's result");
    same(reply.usage.prompt_tokens_details.image_tokens, IMAGE_TOKENS);
    let ran = 0;
    const runnable = TOOLS.map((tool) => ({
      type: "function",
      function: { ...tool.function, parse: JSON.parse, function: () => (ran += 1) && RESULT },
    }));
    await chat.runTools({ ...options, messages: asking(), tools: runnable, tool_choice: named }).done();
    holds(ran > 0, "runTools ran no tool");
    return `${TOOL}(${argumentsOf(message)}) -> ${reply.choices[0].message.content}`;
  },

  async errors() {
    await refused(() => chat.create({ model: NO_MODEL, messages: asking() }), OpenAI.NotFoundError, "model_not_found");
    const messages = asking(QUESTION, probe.BROKEN_IMAGE);
    await refused(() => chat.create({ model: MODEL, messages }), OpenAI.BadRequestError, "invalid_image");
    const stranger = connect("wrong").chat.completions;
    return refused(() => stranger.create({ model: MODEL, messages: asking() }), OpenAI.AuthenticationError, "API key");
  },

  async models() {
    const names = (await client.models.list()).data.map((model) => model.id);
    holds(names.includes(MODEL), `the models are ${names}`);
    return names;
  },

  async responses() {
    const content = [{ type: "input_image", image_url: IMAGE, detail: "auto" }, { type: "input_text", text: QUESTION }];
    const options = { model: MODEL, input: [{ role: "user", content }], store: false };
    same((await client.responses.create(options)).output_text, ANSWER);
    same((await client.responses.stream(options).finalResponse()).output_text, ANSWER);
    const parsed = await client.responses.parse({ ...options, text: { format: zodTextFormat(Receipt, "receipt") } });
    Receipt.parse(parsed.output_parsed);
    const tools = TOOLS.map((tool) => ({ type: "function", ...tool.function }));
    const called = await client.responses.create({ ...options, tools, tool_choice: { type: "function", name: TOOL } });
    const calls = called.output.filter((item) => item.type === "function_call");
    for (const call of calls) checkCall(call.name, call.arguments, call.call_id);
    const results = calls.map(({ call_id }) => ({ type: "function_call_output", call_id, output: RESULT }));
    const input = [...options.input, ...called.output, ...results];
    const final = await client.responses.create({ model: MODEL, input, tools, tool_choice: "none", store: false });
    holds(final.output_text, "no answer after the tool's result");
    return JSON.stringify(parsed.output_parsed);
  },

  async batches() {
    const body = { model: MODEL, messages: asking(), max_completion_tokens: MAX_TOKENS };
    const line = (name) => JSON.stringify({ custom_id: name, method: "POST", url: "/v1/chat/completions", body });
    const content = await toFile(Buffer.from(["a", "b"].map(line).join("\n")), "in.jsonl");
    const file = await client.files.create({ file: content, purpose: "batch" });
    const options = { input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" };
    let batch = await client.batches.create(options);
    while (!["completed", "failed"].includes(batch.status)) {
      await new Promise((resolve) => setTimeout(resolve, 200));
      batch = await client.batches.retrieve(batch.id);
    }
    same(batch.request_counts, { total: 2, completed: 2, failed: 0 });
    const rows = (await (await client.files.content(batch.output_file_id)).text()).trim().split("\n");
    const told = rows.map((row) => JSON.parse(row));
    same(told.map((row) => row.custom_id), ["a", "b"]);
    for (const row of told) same(row.response.body.choices[0].message.content, ANSWER);
    same((await client.batches.cancel(batch.id)).status, "completed");
    holds((await client.files.delete(file.id)).deleted, "the file stays");
    return batch.id;
  },
});
