// @ts-check
import { ApiError, events, get, posting, send } from "../api.js";
import { attempt, badge, button, facts, failure, field, progress, sure, title } from "../components/page.js";
import { make } from "../dom.js";
import { number, say, size } from "../i18n.js";

/**
 * @typedef {import("../api.js").Model & {size_bytes?: string, memory_bytes?: string, context_tokens?: number, running_requests?: number,
 *   quantization?: string, device?: string, path?: string}} FullModel
 * @typedef {{stage: string, completed_bytes?: string, total_bytes?: string}} ModelProgress
 */

const KINDS = new Map([["MODEL_STATE_READY", "good"], ["MODEL_STATE_FAILED", "bad"], ["MODEL_STATE_UNREACHABLE", "bad"]]);
const REFRESH_MS = 5000;
/** Engines that are part of inference: their models are always there. */
const BUILT_IN = new Set(["extractive", "minilm"]);

/**
 * Loads or pulls a model, and shows how far it is.
 * @param {string} path
 * @param {unknown} body
 * @param {HTMLElement} place
 * @param {AbortSignal} signal
 */
async function follow(path, body, place, signal) {
  const line = make("div", { class: "doing", role: "status" });
  place.append(line);
  try {
    for await (const event of events(path, { ...posting(body), signal })) {
      if (event.finished?.error) throw ApiError.fromStatus(event.finished.error);
      if (event.finished) return;
      /** @type {ModelProgress} */
      const { stage, completed_bytes: done = "0", total_bytes: total = "0" } = event.progress;
      const name = say(make("span"), stage);
      line.replaceChildren(name, progress(Number(done), Number(total), name.textContent ?? ""));
      if (Number(total)) line.append(make("span", { class: "note" }, `${size(Number(done))} / ${size(Number(total))}`));
    }
    throw new ApiError("BROKEN_OFF", "");
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    line.remove();
  }
}

/**
 * @param {FullModel} model
 * @param {AbortSignal} signal
 * @param {() => Promise<void>} changed
 */
function modelCard(model, signal, changed) {
  const { model: name, engine, state = "MODEL_STATE_UNSPECIFIED", capabilities = [], description = "" } = model;
  const head = make("header", {}, make("h2", {}, name), badge(state, KINDS.get(state)));
  if (model.is_auto) head.append(badge("isAuto", "good"));
  const able = make("p", { class: "able" }, ...capabilities.map((one) => badge(one)));
  const entries = /** @type {[string, string][]} */ ([["factEngine", engine]]);
  if (Number(model.size_bytes)) entries.push(["onDisk", size(Number(model.size_bytes))]);
  if (Number(model.memory_bytes)) entries.push(["inMemory", size(Number(model.memory_bytes))]);
  if (model.context_tokens) entries.push(["contextTokens", number(model.context_tokens, {})]);
  if (model.quantization) entries.push(["weights", model.quantization]);
  entries.push(["runningRequests", number(model.running_requests ?? 0, {})]);
  const card = make("li", { class: "card model", "data-model": name, "data-state": state }, head, make("p", {}, description), able, facts(entries));
  const buttons = make("p", { class: "acts" });
  if (state === "MODEL_STATE_UNLOADED" || state === "MODEL_STATE_FAILED") {
    buttons.append(button("load", async () => {
      await follow("/v1/models:load", { model: name }, card, signal);
      await changed();
    }, "primary"));
  }
  if (state === "MODEL_STATE_READY" && !BUILT_IN.has(engine)) {
    buttons.append(button("unload", async () => {
      await send("/v1/models:unload", { model: name });
      await changed();
    }));
  }
  if (model.path || engine === "ollama") {
    buttons.append(button("deleteModel", async () => {
      if (!sure("deleteDocumentSure", { name })) return;
      await send("/v1/models:delete", { model: name });
      await changed();
    }, "danger"));
  }
  card.append(buttons);
  return card;
}

/** @param {any} system */
function systemFacts({ cpu, memory, process, gpus = [] }) {
  const used = Number(memory.total_bytes) - Number(memory.available_bytes);
  const entries = /** @type {[string, string | Node][]} */ ([
    ["cores", number(cpu.usable_cores, {})],
    ["coresBusy", `${number(cpu.used_percent ?? 0, { maximumFractionDigits: 0 })} %`],
    ["memory", `${size(used)} / ${size(Number(memory.total_bytes))}`],
    ["ownMemory", size(Number(process.resident_bytes))],
    ["modelsMemory", size(Number(memory.models_bytes ?? 0))],
  ]);
  for (const gpu of gpus) {
    entries.push(["gpu", `${gpu.name}: ${size(Number(gpu.total_bytes) - Number(gpu.free_bytes))} / ${size(Number(gpu.total_bytes))}`]);
  }
  const bar = progress(used, Number(memory.total_bytes), "");
  say(bar, "memory", {}, "i18nLabel");
  return [facts(entries), bar];
}

/**
 * @param {AbortSignal} signal
 * @param {() => Promise<void>} changed
 */
function pullForm(signal, changed) {
  const name = make("input", { name: "pull", required: "", maxlength: "256", autocomplete: "off", spellcheck: "false", placeholder: "llama3.2:1b" });
  const submit = say(make("button", { class: "primary", type: "submit" }), "pull");
  const form = make("form", { class: "card" }, say(make("h2"), "pullTitle"), field("modelName", name, "pullHint"), submit);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void attempt(submit, async () => {
      await follow("/v1/models:pull", { model: name.value.trim() }, form, signal);
      await changed();
    });
  });
  return form;
}

/**
 * @param {HTMLElement} root
 * @param {string} _
 * @param {AbortSignal} signal
 */
export async function modelsPage(root, _, signal) {
  const system = make("div");
  const list = make("ul", { class: "cards models" });
  const showSystem = async () => system.replaceChildren(...systemFacts((await get("/v1/system")).system));
  const showModels = async () => {
    /** @type {{models?: FullModel[]}} */
    const { models = [] } = await get("/v1/models");
    list.replaceChildren(...models.map((model) => modelCard(model, signal, changed)));
  };
  const changed = async () => {
    await Promise.all([showModels(), showSystem()]);
  };
  const free = button("optimizeMemory", async () => {
    const freed = await send("/v1/models:optimizeMemory");
    const bytes = Number(freed.resident_bytes_before ?? 0) - Number(freed.resident_bytes_after ?? 0);
    say(told, "freed", { n: (freed.unloaded_models ?? []).length, size: size(Math.max(0, bytes)) });
    await changed();
  });
  const told = make("span", { class: "note", role: "status" });
  const machine = make("section", { class: "card system" }, say(make("h2"), "system"), system, make("p", { class: "acts" }, free, told));
  root.append(title("navModels"), machine, list, pullForm(signal, changed));
  try {
    await changed();
  } catch (error) {
    root.append(failure(error));
    return;
  }
  const timer = setInterval(() => {
    showSystem().catch((error) => {
      clearInterval(timer);
      machine.append(failure(error));
    });
  }, REFRESH_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}
