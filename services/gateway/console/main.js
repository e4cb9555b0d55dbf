// @ts-check
import { ApiError, listCollections, listModels, useApiKey } from "./api.js";
import { openDocuments, startDocuments } from "./components/documents.js";
import { failure } from "./components/page.js";
import { element, make, recall, remember } from "./dom.js";
import { currentLanguage, say, setLanguage, startLanguage } from "./i18n.js";
import { ask, focusQuestion, isAnswering, resume, startConversation, startHistory, stop } from "./pages/chat.js";
import { collectionsPage } from "./pages/collections.js";
import { experimentsPage } from "./pages/experiments.js";
import { modelsPage } from "./pages/models.js";
import { isOpen, startRouter } from "./router.js";

const SAMPLE = "penstock-docs";
// In English in every language of the page, like the documents that answer them.
const EXAMPLES = [
  "What does penstock do?",
  "What does each service do?",
  "How do I connect Ollama?",
];

const collection = element("collection", HTMLSelectElement);
const model = element("model", HTMLSelectElement);
const language = element("language", HTMLSelectElement);
const question = element("question", HTMLTextAreaElement);
const toast = element("toast", HTMLDivElement);
const emptyText = element("empty-text", HTMLParagraphElement);
const examples = element("examples", HTMLUListElement);
const sampleNote = element("sample-note", HTMLParagraphElement);

/** @type {string[]} */
let collections = [];
let toastTimer = 0;

/** @param {string} key */
function announce(key) {
  say(toast, key);
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { toast.hidden = true; }, 4000);
}

function showEmptyState() {
  const sample = collection.value === SAMPLE;
  if (!collection.value) say(emptyText, "emptyNothing");
  else say(emptyText, sample ? "emptyText" : "emptyOther", { name: collection.value });
  examples.hidden = sampleNote.hidden = !sample;
}

/** @param {string} [preferred] */
async function loadCollections(preferred = recall("collection")) {
  const found = await listCollections();
  collections = found.map((one) => one.collection);
  const options = found.map((one) => {
    const option = make("option", { value: one.collection });
    return say(option, "documentsIn", { name: one.collection, n: Number(one.document_count ?? 0) });
  });
  collection.replaceChildren(...(options.length ? options : [say(make("option", { value: "" }), "noCollections")]));
  collection.value = [preferred, SAMPLE, collections[0] ?? ""].find((name) => collections.includes(name)) ?? "";
  showEmptyState();
}

async function loadModels() {
  const writes = new Set(["CAPABILITY_GENERATION", "CAPABILITY_EXTRACTION"]);
  const found = (await listModels()).filter((one) => one.capabilities?.some((able) => writes.has(able)));
  const auto = found.find((one) => one.is_auto)?.model ?? "…";
  model.replaceChildren(say(make("option", { value: "auto" }), "modelAuto", { name: auto }));
  for (const one of found) {
    const option = make("option", { value: one.model, title: one.description ?? "" }, one.model);
    option.disabled = one.state === "MODEL_STATE_UNREACHABLE";
    model.append(option);
  }
  const earlier = recall("model");
  model.value = found.some((one) => one.model === earlier) ? earlier : "auto";
}

/** @param {string} query */
function submit(query) {
  if (!query.trim() || isAnswering()) return;
  if (!collection.value) {
    announce("pickCollection");
    return;
  }
  question.value = "";
  fitQuestion();
  void ask(query.trim());
}

function fitQuestion() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight, 200)}px`;
}

function openDocumentsHere() {
  openDocuments(collections, collection.value);
}

/** @param {string} name One of light, dark, or empty for what the system prefers. */
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  remember("theme", name);
}

function turnTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const next = (document.documentElement.dataset.theme || system) === "dark" ? "light" : "dark";
  setTheme(next === system ? "" : next);
}

/** @param {string} address */
async function copy(address) {
  try {
    await navigator.clipboard.writeText(address);
    announce("copied");
  } catch {
    // Without the permission to copy, the address is selected instead, ready for the person's own copy.
    getSelection()?.selectAllChildren(element("openai-url", HTMLElement));
  }
}

function listen() {
  element("composer", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    submit(question.value);
  });
  question.addEventListener("input", fitQuestion);
  question.addEventListener("keydown", (event) => {
    // While an input method composes, Enter chooses a candidate and sends nothing.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit(question.value);
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop();
  });
  element("stop", HTMLButtonElement).addEventListener("click", stop);
  element("new", HTMLButtonElement).addEventListener("click", startConversation);
  element("add", HTMLButtonElement).addEventListener("click", openDocumentsHere);
  element("theme", HTMLButtonElement).addEventListener("click", turnTheme);
  const address = `${location.origin}/openai/v1`;
  element("openai-url", HTMLElement).textContent = address;
  element("openai", HTMLButtonElement).addEventListener("click", () => void copy(address));
  element("key-form", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    useApiKey(element("key", HTMLInputElement).value.trim());
    element("key-dialog", HTMLDialogElement).close();
    void load();
  });
  language.addEventListener("change", () => setLanguage(language.value));
  model.addEventListener("change", () => remember("model", model.value));
  collection.addEventListener("change", () => {
    remember("collection", collection.value);
    showEmptyState();
  });
  startDocuments(openDocumentsHere, (name) => {
    remember("collection", name);
    void loadCollections(name);
  });
}

/** @param {unknown} problem */
function failed(problem) {
  if (!(problem instanceof ApiError)) throw problem;
  if (problem.reason === "UNAUTHENTICATED") element("key-dialog", HTMLDialogElement).showModal();
  else if (isOpen("chat")) announce("historyFailed");
  else element("page", HTMLElement).firstElementChild?.append(failure(problem));
}

async function start() {
  setTheme(recall("theme"));
  startLanguage();
  language.value = currentLanguage();
  examples.append(...EXAMPLES.map((example) => {
    const button = make("button", { type: "button", lang: "en" }, example);
    button.addEventListener("click", () => submit(example));
    return make("li", {}, button);
  }));
  listen();
  startHistory(failed);
  const pages = { collections: collectionsPage, models: modelsPage, experiments: experimentsPage };
  startRouter(element("chat", HTMLElement), element("page", HTMLElement), pages, failed);
  if (isOpen("chat")) focusQuestion();
  // What another page has added or loaded is there to be chosen.
  addEventListener("hashchange", () => { if (isOpen("chat")) void loadLists(); });
  await load();
  document.body.classList.add("ready");
}

async function loadLists() {
  try {
    await Promise.all([loadCollections(), loadModels()]);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    announce("listsFailed");
  }
}

async function load() {
  const choice = () => ({ collection: collection.value, model: model.value });
  const works = await Promise.allSettled([loadCollections(), loadModels(), resume(choice)]);
  const failed = works.findIndex((work) => work.status === "rejected");
  if (failed < 0) return;
  const { reason } = /** @type {PromiseRejectedResult} */ (works[failed]);
  if (!(reason instanceof ApiError)) throw reason;
  if (reason.reason === "UNAUTHENTICATED") element("key-dialog", HTMLDialogElement).showModal();
  else announce(failed < 2 ? "listsFailed" : "historyFailed");
}

void start();
