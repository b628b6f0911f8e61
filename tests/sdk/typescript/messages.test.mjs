// The official TypeScript SDK against a running gateway on the echo provider. GATEWAY_URL names it.
import assert from "node:assert/strict";
import { test } from "node:test";

import Anthropic, { BadRequestError, NotFoundError } from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.GATEWAY_URL, apiKey: "not-checked", maxRetries: 0 });
const model = "claude-sonnet-5";
const messages = [{ role: "user", content: "Say the word marmalade." }];
const weather = {
  name: "get_weather",
  description: "The weather in one city.",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const asking = [{ role: "user", content: 'call get_weather {"city": "Zürich"}' }];

function assertUsage(usage) {
  assert.ok(usage.input_tokens > 0 && usage.output_tokens > 0, JSON.stringify(usage));
}

const textOf = (message) => message.content.filter((block) => block.type === "text").map((block) => block.text).join("");

test("a message", async () => {
  const { data: message, response } = await client.messages
    .create({ model, max_tokens: 256, messages })
    .withResponse();
  assert.match(message.id, /^msg_/);
  assert.equal(message.model, model);
  assert.equal(message.stop_reason, "end_turn");
  assert.match(textOf(message), /marmalade/);
  assertUsage(message.usage);
  assert.ok(response.headers.get("request-id"));
});

test("a stream accumulates to the same message", async () => {
  const whole = await client.messages.create({ model, max_tokens: 256, messages });
  const stream = client.messages.stream({ model, max_tokens: 256, messages });
  const events = [];
  stream.on("streamEvent", (event) => events.push(event.type));
  let text = "";
  stream.on("text", (delta) => (text += delta));
  const streamed = await stream.finalMessage();
  assert.deepEqual(streamed.content, whole.content);
  assert.equal(streamed.stop_reason, whole.stop_reason);
  assert.equal(text, textOf(streamed));
  assertUsage(streamed.usage);
  assert.equal(events.filter((type) => type === "message_start").length, 1);
  assert.equal(events.at(-1), "message_stop");
});

test("raw events", async () => {
  const types = [];
  for await (const event of await client.messages.create({ model, max_tokens: 256, messages, stream: true }))
    types.push(event.type);
  assert.equal(types[0], "message_start");
  assert.equal(types.at(-1), "message_stop");
});

for (const [way, ask] of [
  ["in one piece", (body) => client.messages.create(body)],
  ["streamed", (body) => client.messages.stream(body).finalMessage()],
]) {
  test(`a tool call and its result, ${way}`, async () => {
    const call = await ask({ model, max_tokens: 256, tools: [weather], messages: asking });
    assert.equal(call.stop_reason, "tool_use");
    const use = call.content.find((block) => block.type === "tool_use");
    assert.equal(use.name, "get_weather");
    assert.deepEqual(use.input, { city: "Zürich" });
    const answer = await ask({
      model,
      max_tokens: 256,
      tools: [weather],
      messages: [
        ...asking,
        { role: "assistant", content: call.content },
        { role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: "21 degrees" }] },
      ],
    });
    assert.equal(answer.stop_reason, "end_turn");
    assert.match(textOf(answer), /21 degrees/);
  });
}

test("thinking comes before the text, signed", async () => {
  const stream = client.messages.stream({
    model,
    max_tokens: 2048,
    messages: [{ role: "user", content: "think: oranges, sugar\nSay the word marmalade." }],
    thinking: { type: "enabled", budget_tokens: 1024 },
  });
  let seen = "";
  stream.on("thinking", (delta) => (seen += delta));
  const message = await stream.finalMessage();
  assert.deepEqual(message.content.map((block) => block.type), ["thinking", "text"]);
  assert.equal(message.content[0].thinking, seen);
  assert.equal(seen, "oranges, sugar");
  assert.notEqual(message.content[0].signature, "");
});

test("count_tokens", async () => {
  const short = await client.messages.countTokens({ model, messages });
  const long = await client.messages.countTokens({ model, messages: [{ role: "user", content: "marmalade ".repeat(500) }] });
  assert.ok(short.input_tokens > 0);
  assert.ok(long.input_tokens > short.input_tokens);
});

test("models", async () => {
  const listed = [];
  for await (const info of client.models.list({ limit: 1 })) listed.push(info.id);
  assert.equal(new Set(listed).size, listed.length);
  assert.ok(listed.length > 1);
  const info = await client.models.retrieve(listed[0]);
  assert.equal(info.type, "model");
  assert.equal(info.id, listed[0]);
});

test("errors have their classes", async () => {
  await assert.rejects(client.messages.create({ model, max_tokens: 256, messages: "none" }), (error) => {
    assert.ok(error instanceof BadRequestError, String(error));
    assert.equal(error.error.error.type, "invalid_request_error");
    assert.match(error.error.error.message, /messages/);
    assert.ok(error.requestID);
    return true;
  });
  await assert.rejects(client.get("/v1/no-such-path"), NotFoundError);
});
