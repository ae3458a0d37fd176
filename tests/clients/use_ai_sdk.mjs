// The AI SDK, through its provider for servers that speak OpenAI's language.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import * as probe from "./probe.mjs";

const { ANSWER, KEY, MAX_TOKENS, MODEL, NO_MODEL, IMAGE, QUESTION, RESULT, TOOL, TOOLS, URL_ } = probe;
const { checkCall, holds, refused, same } = probe;
const connect = (apiKey) =>
  createOpenAICompatible({
    name: "tessera", baseURL: `${URL_}/v1`, apiKey, includeUsage: true, supportsStructuredOutputs: true,
  });
const model = connect(KEY)(MODEL);
const Receipt = z.object({ vendor: z.string(), total: z.number() });

const asking = (text = QUESTION, image = IMAGE) => [
  { role: "user", content: [{ type: "image", image, mediaType: "image/png" }, { type: "text", text }] },
];
const common = { model, messages: asking(), maxRetries: 0, temperature: 0, maxOutputTokens: MAX_TOKENS };

await probe.run({
  async chat() {
    same((await generateText(common)).text, ANSWER);
    return ANSWER;
  },

  async stream() {
    const result = streamText(common);
    let text = "";
    for await (const part of result.textStream) text += part;
    same(text, ANSWER);
    return `${(await result.usage).totalTokens} tokens`;
  },

  async schema() {
    const messages = asking("Give vendor and total as JSON.");
    const { output } = await generateText({ ...common, messages, output: Output.object({ schema: Receipt }) });
    Receipt.parse(output);
    const result = streamText({ ...common, messages, output: Output.object({ schema: Receipt }) });
    same(await result.output, output);
    return JSON.stringify(output);
  },

  async tools() {
    const seen = [];
    const tools = Object.fromEntries(
      TOOLS.map(({ function: { name, description, parameters } }) => [
        name,
        tool({
          description,
          inputSchema: jsonSchema(parameters),
          execute: (values, { toolCallId }) => {
            seen.push([name, checkCall(name, values, toolCallId)]);
            return JSON.parse(RESULT);
          },
        }),
      ]),
    );
    // The first step must call the tool; the second, with its result and the image, must answer.
    const steps = {
      stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : { type: "tool", toolName: TOOL } }),
    };
    const { text } = await generateText({ ...common, tools, ...steps });
    holds(text, "no answer after the tool's result");
    const calls = seen.length;
    same(new Set(seen.map(([name]) => name)).size, 1);
    await streamText({ ...common, tools, ...steps }).consumeStream();
    same(seen.slice(calls), seen.slice(0, calls));
    await generateText({ ...common, tools, toolChoice: "required" });
    return `${JSON.stringify(seen[0])} -> ${text}`;
  },

  async errors() {
    const other = { ...common, model: connect(KEY)(NO_MODEL) };
    await refused(() => generateText(other), APICallError, "model_not_found", "404");
    const broken = { ...common, messages: asking(QUESTION, probe.BROKEN_IMAGE) };
    await refused(() => generateText(broken), APICallError, "invalid_image", "400");
    const stranger = { ...common, model: connect("wrong")(MODEL) };
    return refused(() => generateText(stranger), APICallError, "API key", "401");
  },
});
