// Draws /openapi.json as a page. All text goes in as text, never as HTML.
"use strict";

const DEEPEST_EXAMPLE = 4;
let components = {};

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

// The only markup in descriptions: code between backticks, and lists of lines that begin with a dash.
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part));
}

function paragraphs(text) {
  const drawn = [];
  for (const block of (text || "").trim().split(/\n\n+/)) {
    if (!block) continue;
    if (block.startsWith("- ")) {
      const items = block.slice(2).split(/\n- /);
      drawn.push(element("ul", {}, ...items.map((item) => element("li", {}, ...prose(item.replace(/\n\s*/g, " "))))));
    } else {
      drawn.push(element("p", {}, ...prose(block)));
    }
  }
  return drawn;
}

function resolve(schema) {
  if (!schema || !schema.$ref) return schema || {};
  const { $ref, ...beside } = schema;
  const target = components[$ref.split("/").pop()] || {};
  return { ...target, ...beside, title: $ref.split("/").pop() };
}

function typeName(schema) {
  if (schema.$ref) return schema.$ref.split(".").pop();
  if (schema.oneOf && !schema.type) return schema.oneOf.map(typeName).join(" or ");
  if (schema.type === "array") return `list of ${typeName(schema.items || {})}`;
  if (schema.type === "object" && schema.additionalProperties && !schema.properties) {
    return schema.additionalProperties === true ? "object" : `map of ${typeName(schema.additionalProperties)}`;
  }
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const name = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type || "any";
  return schema.format || schema.contentEncoding ? `${name} (${schema.format || schema.contentEncoding})` : name;
}

function limits(schema) {
  const said = [];
  const words = {
    minimum: "≥", maximum: "≤", exclusiveMinimum: ">", exclusiveMaximum: "<", minLength: "length ≥", maxLength: "length ≤",
    minItems: "items ≥", maxItems: "items ≤", maxProperties: "entries ≤", pattern: "matches",
  };
  for (const [key, word] of Object.entries(words)) if (schema[key] !== undefined) said.push(`${word} ${schema[key]}`);
  if (schema.uniqueItems) said.push("no duplicates");
  if (schema.readOnly) said.push("set by the server");
  return said.join(", ");
}

// The schema whose fields are worth showing below a field: of a list's or a map's elements.
function inner(schema) {
  const whole = resolve(schema);
  if (whole.type === "array") return inner(whole.items || {});
  if (whole.additionalProperties && whole.additionalProperties !== true) return inner(whole.additionalProperties);
  return whole;
}

function fieldItem(name, schema, required, path) {
  const below = inner(schema);
  const item = element(
    "li", {},
    element("span", { class: "name" }, name), " ", element("span", { class: "type" }, typeName(schema)),
    required ? element("span", { class: "required" }, " required") : "",
    limits(schema) ? element("span", { class: "limits" }, ` · ${limits(schema)}`) : "",
  );
  if (schema.description) item.append(element("div", { class: "description" }, ...prose(schema.description)));
  if (below.enum) {
    item.append(element("details", {}, element("summary", {}, "values"),
      ...paragraphs(below.title && components[below.title] ? components[below.title].description : below.enum.join("\n"))));
  } else if (below.properties && !path.includes(below.title)) {
    const details = element("details", {}, element("summary", {}, "fields"));
    // Drawn when first opened: schemas nest deeply, and few are looked at.
    details.addEventListener("toggle", () => details.append(fields(below, [...path, below.title])), { once: true });
    item.append(details);
  }
  return item;
}

function fields(schema, path) {
  const required = new Set(schema.required || []);
  const list = element("ul", { class: "fields" });
  for (const [name, field] of Object.entries(schema.properties || {})) {
    list.append(fieldItem(name, field, required.has(name), path));
  }
  return list;
}

function example(schema, depth = 0) {
  const whole = resolve(schema);
  if (whole.examples) return whole.examples[0];
  if (whole.enum) return whole.enum.find((value) => !value.endsWith("_UNSPECIFIED"));
  if (whole.oneOf && !whole.properties) return example(whole.oneOf[0], depth);
  if (whole.type === "array") return depth > DEEPEST_EXAMPLE ? [] : [example(whole.items || {}, depth + 1)];
  if (whole.type === "integer" || whole.type === "number") return whole.minimum ?? 1;
  if (whole.type === "boolean") return true;
  if (whole.type !== "object") return whole.format === "date-time" ? "2026-01-01T00:00:00Z" : "…";
  const made = {};
  const wanted = new Set(whole.required || []);
  const choices = whole.oneOf ? [whole.oneOf] : (whole.allOf || []).map((one) => one.oneOf);
  for (const choice of choices) for (const name of choice[0].required) wanted.add(name);
  if (depth > DEEPEST_EXAMPLE) return made;
  for (const [name, field] of Object.entries(whole.properties || {})) {
    if (wanted.has(name) && !field.readOnly) made[name] = example(field, depth + 1);
  }
  return made;
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(path, verb, operation) {
  const filled = path.replace(/\{[^}]+\}/g, "x");
  const parts = [verb === "get" ? "curl" : `curl -X ${verb.toUpperCase()}`, quoted(location.origin + filled)];
  const body = operation.requestBody && operation.requestBody.content["application/json"];
  const content = Object.keys((operation.responses["200"] || {}).content || {});
  const streams = content.includes("text/event-stream") && content.includes("application/x-ndjson");
  if (streams) parts.splice(1, 0, "-N -H 'accept: text/event-stream'");
  if (body) parts.push(`-H 'content-type: application/json' \\\n  -d ${quoted(JSON.stringify(example(body.schema)))}`);
  else if (operation.requestBody) parts.push("-H 'content-type: application/octet-stream' --data-binary @FILE");
  return parts.join(" ");
}

function drawOperation(path, verb, operation) {
  const drawn = element("section", { class: "operation", id: operation.operationId },
    element("h3", {}, element("span", { class: `verb ${verb}` }, verb.toUpperCase()), element("span", { class: "path" }, path)),
    ...paragraphs(operation.description || operation.summary));
  if (operation["x-grpc-method"]) {
    drawn.append(element("p", { class: "quiet" }, "gRPC: ", element("code", {}, operation["x-grpc-method"])));
  }
  for (const place of ["path", "query"]) {
    const listed = (operation.parameters || []).filter((one) => one.in === place);
    if (!listed.length) continue;
    drawn.append(element("h4", {}, place === "path" ? "In the path" : "In the query"));
    drawn.append(element("ul", { class: "fields" }, ...listed.map(
      (one) => fieldItem(one.name, { ...one.schema, description: one.description }, one.required, []))));
  }
  if (operation.requestBody) {
    drawn.append(element("h4", {}, "Body"));
    const body = operation.requestBody.content["application/json"];
    if (body) {
      const schema = inner(body.schema);
      drawn.append(fields(schema, [schema.title]));
    } else {
      drawn.append(element("p", {}, "A file's bytes, as they are."));
    }
  }
  const answer = operation.responses["200"];
  if (answer && answer.content) {
    const types = Object.keys(answer.content);
    const schema = inner(answer.content[types[0]].schema);
    drawn.append(element("h4", {}, `Answer: ${types.join(", ")}`), fields(schema, [schema.title]));
  }
  drawn.append(element("h4", {}, "Example"), element("pre", {}, curl(path, verb, operation)));
  return drawn;
}

function draw(api) {
  components = api.components.schemas;
  const index = document.getElementById("index");
  const operations = document.getElementById("operations");
  document.getElementById("about").append(...paragraphs(api.info.description.replace(/(\S)\n\s+(?!-)/g, "$1 ")));
  operations.replaceChildren();
  const groups = new Map([...api.tags.map((tag) => [tag.name, { tag, entries: [] }]), ["Health", { tag: { name: "Health" }, entries: [] }]]);
  for (const [path, verbs] of Object.entries(api.paths)) {
    for (const [verb, operation] of Object.entries(verbs)) {
      groups.get((operation.tags || ["Health"])[0]).entries.push([path, verb, operation]);
    }
  }
  for (const { tag, entries } of groups.values()) {
    index.append(element("h2", {}, tag.name));
    operations.append(element("h2", {}, tag.name), ...paragraphs(tag.description));
    for (const [path, verb, operation] of entries) {
      index.append(element("a", { class: "operation", href: `#${operation.operationId}`, title: operation.summary || "" },
        element("span", { class: `verb ${verb}` }, verb.toUpperCase()), element("span", { class: "path" }, path)));
      operations.append(drawOperation(path, verb, operation));
    }
  }
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const link of document.querySelectorAll("#index a")) {
    const hidden = !link.textContent.toLowerCase().includes(wanted);
    link.hidden = hidden;
    document.querySelector(link.getAttribute("href")).hidden = hidden;
  }
});

fetch("/openapi.json")
  .then((response) => (response.ok ? response.json() : Promise.reject(new Error(`status ${response.status}`))))
  .then(draw)
  .catch((error) => {
    document.getElementById("operations").replaceChildren(
      element("p", { class: "failed" }, `The description could not be loaded: ${error.message}`));
  });
