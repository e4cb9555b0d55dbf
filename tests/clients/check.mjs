// The official Node client, unchanged, against a running suite:
//
//     npm install --prefix /tmp/openai-node openai@6 && cp tests/clients/check.mjs /tmp/openai-node/
//     node /tmp/openai-node/check.mjs http://127.0.0.1:8080
//
// Prints a line for each thing that works, and ends with 1 at the first that does not.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import OpenAI from "openai";

const base = (process.argv[2] ?? "http://127.0.0.1:8080").replace(/\/$/, "");
const client = new OpenAI({ baseURL: `${base}/openai/v1`, apiKey: "none", maxRetries: 0 });
const TEXT = "The penstock of Kirkwall is 412 metres long. Its steel is 18 millimetres thick. It was built in 1936.";
const QUESTION = "How long is the penstock of Kirkwall?";
const FACT = /412 metres/;
const headers = { "content-type": "application/json" };

async function rest(method, path, body) {
  const answer = await fetch(`${base}${path}`, { method, headers, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, await answer.text());
}

const name = `node-${randomUUID().slice(0, 8)}`;
const model = `penstock/${name}`;
const checks = {
  async "chat.completions.create"() {
    const completion = await client.chat.completions.create({ model: "extractive", messages: [{ role: "user", content: `${TEXT}\n\n${QUESTION}` }] });
    assert.match(completion.choices[0].message.content, FACT);
    assert.ok(completion.usage.total_tokens > 0);
    assert.ok(completion._request_id);
  },
  async "chat.completions.stream"() {
    const stream = client.chat.completions.stream({ model: "extractive", messages: [{ role: "user", content: `${TEXT}\n\n${QUESTION}` }] });
    assert.match(await stream.finalContent(), FACT);
  },
  async "chat.completions over a collection"() {
    const completion = await client.chat.completions.create({ model, messages: [{ role: "user", content: QUESTION }] });
    assert.match(completion.choices[0].message.content, FACT);
    assert.equal(completion.choices[0].message.annotations[0].type, "url_citation");
  },
  async "completions.create"() {
    const completion = await client.completions.create({ model: "extractive", prompt: `${TEXT}\n\n${QUESTION}` });
    assert.match(completion.choices[0].text, FACT);
  },
  async "responses.create"() {
    const response = await client.responses.create({ model, input: QUESTION });
    assert.match(response.output_text, FACT);
  },
  async "responses.stream"() {
    const kinds = [];
    for await (const event of await client.responses.create({ model, input: QUESTION, stream: true })) kinds.push(event.type);
    assert.equal(kinds[0], "response.created");
    assert.equal(kinds.at(-1), "response.completed");
  },
  async "embeddings.create"() {
    const made = await client.embeddings.create({ model: "all-minilm-l6-v2", input: "one text" });
    assert.equal(made.data[0].embedding.length, 384);
  },
  async "models.list"() {
    const listed = (await client.models.list()).data.map((one) => one.id);
    assert.ok(listed.includes(model) && listed.includes("extractive"));
  },
  async "errors"() {
    await assert.rejects(client.chat.completions.create({ model: "gpt-nowhere", messages: [{ role: "user", content: "hi" }] }), OpenAI.NotFoundError);
  },
};

await rest("POST", "/v1/collections", { collection: name });
try {
  await rest("POST", `/v1/collections/${name}/documents`, { documents: [{ document: "kirkwall", text: TEXT }] });
  for (const [what, check] of Object.entries(checks)) {
    await check();
    console.log(`${what}: ok`);
  }
} finally {
  await rest("DELETE", `/v1/collections/${name}`);
}
