// Anthropic's JavaScript client.

import Anthropic from "@anthropic-ai/sdk";
import * as probe from "./probe.mjs";

const { ANSWER, KEY, MAX_TOKENS, MODEL, NO_MODEL, IMAGE, QUESTION, RESULT, TOOL, TOOLS, URL_ } = probe;
const { checkCall, holds, refused, same } = probe;
const connect = (apiKey) => new Anthropic({ baseURL: URL_, apiKey, maxRetries: 0 });
const { messages } = connect(KEY);
const tools = TOOLS.map(({ function: tool }) => ({ name: tool.name, input_schema: tool.parameters }));
const tool_choice = { type: "tool", name: TOOL };

const asking = (text = QUESTION, url = IMAGE) => {
  const source = { type: "base64", media_type: "image/png", data: url.split("base64,")[1] };
  return [{ role: "user", content: [{ type: "image", source }, { type: "text", text }] }];
};
const textOf = (message) => message.content.map((block) => block.text ?? "").join("");
const callsOf = (message) => message.content.filter((block) => block.type === "tool_use");

await probe.run({
  async chat() {
    const reply = await messages.create({ model: MODEL, max_tokens: MAX_TOKENS, messages: asking() });
    same(textOf(reply), ANSWER);
    const counted = await messages.countTokens({ model: MODEL, messages: asking() });
    same(reply.usage.input_tokens + reply.usage.cache_read_input_tokens, counted.input_tokens);
    return ANSWER;
  },

  async stream() {
    const stream = messages.stream({ model: MODEL, max_tokens: MAX_TOKENS, messages: asking() });
    same(await stream.finalText(), ANSWER);
    const final = await stream.finalMessage();
    same(final.stop_reason, "end_turn");
    return `${final.usage.output_tokens} tokens`;
  },

  async tools() {
    const options = { model: MODEL, max_tokens: MAX_TOKENS, tools };
    const reply = await messages.create({ ...options, messages: asking(), tool_choice });
    const calls = callsOf(reply);
    for (const call of calls) checkCall(call.name, JSON.stringify(call.input), call.id);
    const streamed = callsOf(await messages.stream({ ...options, messages: asking(), tool_choice }).finalMessage());
    same(JSON.stringify(streamed.map((call) => call.input)), JSON.stringify(calls.map((call) => call.input)));
    const results = calls.map(({ id }) => ({ type: "tool_result", tool_use_id: id, content: RESULT }));
    const told = [{ role: "assistant", content: reply.content }, { role: "user", content: results }];
    const after = await messages.create({ ...options, messages: [...asking(), ...told], tool_choice: { type: "none" } });
    holds(textOf(after), "no answer after the tool's result");
    return `${TOOL}(${JSON.stringify(calls[0].input)}) -> ${textOf(after)}`;
  },

  async errors() {
    const options = { model: MODEL, max_tokens: 5, messages: asking() };
    await refused(() => messages.create({ ...options, model: NO_MODEL }), Anthropic.NotFoundError, NO_MODEL);
    const broken = { ...options, messages: asking(QUESTION, probe.BROKEN_IMAGE) };
    await refused(() => messages.create(broken), Anthropic.BadRequestError, "400");
    return refused(() => connect("wrong").messages.create(options), Anthropic.AuthenticationError, "API key");
  },
});
