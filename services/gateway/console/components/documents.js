// @ts-check
import { addDocument, ApiError, createCollection } from "../api.js";
import { element, make } from "../dom.js";
import { say, text } from "../i18n.js";
import { isOpen } from "../router.js";

/** @typedef {import("../api.js").DocumentInput} DocumentInput */

const MAX_BYTES = 16 * 1024 * 1024;
export const NAME = /^[a-z0-9]([a-z0-9._\-]{0,62}[a-z0-9])?$/;
const WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
export const MEDIA_TYPES = new Map([
  ["md", "text/markdown"], ["markdown", "text/markdown"], ["html", "text/html"], ["htm", "text/html"],
  ["pdf", "application/pdf"], ["docx", WORD], ["txt", "text/plain"], ["text", "text/plain"],
]);

const dialog = element("documents", HTMLDialogElement);
const form = element("documents-form", HTMLFormElement);
const target = element("target", HTMLSelectElement);
const newName = element("new-name", HTMLInputElement);
const newNameField = element("new-name-field", HTMLLabelElement);
const files = element("files", HTMLInputElement);
const pasteTitle = element("paste-title", HTMLInputElement);
const paste = element("paste", HTMLTextAreaElement);
const results = element("results", HTMLUListElement);
const addButton = element("documents-add", HTMLButtonElement);
const drop = element("drop", HTMLDivElement);

/** @param {string} kind One of good, bad, busy. */
function line(kind) {
  const item = make("li", { class: kind });
  results.append(item);
  return item;
}

/** @param {File} file */
async function base64(file) {
  const address = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(String(reader.result)));
    reader.addEventListener("error", () => reject(new ApiError("UNREADABLE_FILE", reader.error?.message ?? "")));
    reader.readAsDataURL(file);
  });
  return address.slice(address.indexOf(",") + 1);
}

/**
 * @param {string} collection
 * @param {string} name
 * @param {() => Promise<DocumentInput>} read
 * @returns {Promise<boolean>} Whether it was added.
 */
async function addOne(collection, name, read) {
  const item = say(line("busy"), "adding", { name });
  try {
    const kept = await addDocument(collection, await read());
    item.className = "good";
    if (kept.state === "DOCUMENT_STATE_INDEXED") say(item, "addedIndexed", { name, n: kept.chunk_count ?? 0 });
    else say(item, "addedPending", { name });
    return true;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    item.className = "bad";
    say(item, "addFailed", { name, why: error.message || text("failedUnreachable"), reason: error.reason });
    return false;
  }
}

/** @returns {Promise<string>} The collection to add to, made if it is new; empty where that failed. */
async function chosenCollection() {
  if (target.value) return target.value;
  const name = newName.value.trim();
  if (!NAME.test(name)) {
    say(line("bad"), "newNameBad");
    newName.focus();
    return "";
  }
  try {
    await createCollection(name);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.reason !== "COLLECTION_ALREADY_EXISTS") {
      say(line("bad"), "addFailed", { name, why: error.message || text("failedUnreachable"), reason: error.reason });
      return "";
    }
  }
  return name;
}

/** @returns {Promise<string>} The collection that something was added to; empty where nothing was. */
async function addAll() {
  results.replaceChildren();
  const chosen = [...files.files ?? []];
  const pasted = paste.value.trim();
  if (!chosen.length && !pasted) {
    say(line("bad"), "nothingToAdd");
    return "";
  }
  const collection = await chosenCollection();
  if (!collection) return "";
  let added = false;
  for (const file of chosen) {
    if (file.size > MAX_BYTES) {
      say(line("bad"), "tooLarge", { name: file.name });
      continue;
    }
    const mediaType = MEDIA_TYPES.get(file.name.split(".").at(-1)?.toLowerCase() ?? "") ?? "";
    const read = async () => ({ document: file.name, data: await base64(file), media_type: mediaType });
    added = await addOne(collection, file.name, read) || added;
  }
  if (pasted) {
    const title = pasteTitle.value.trim();
    const name = title || `${pasted.slice(0, 40)}…`;
    const done = await addOne(collection, name, async () => ({ document: title, title, text: pasted }));
    if (done) paste.value = pasteTitle.value = "";
    added = done || added;
  }
  files.value = "";
  return added || !target.value ? collection : "";
}

function showNewName() {
  newNameField.hidden = target.value !== "";
}

/**
 * @param {string[]} collections
 * @param {string} current
 */
export function openDocuments(collections, current) {
  const fresh = say(make("option", { value: "" }), "newCollection");
  target.replaceChildren(...collections.map((name) => make("option", { value: name }, name)), fresh);
  target.value = current;
  results.replaceChildren();
  showNewName();
  if (!dialog.open) dialog.showModal();
}

/**
 * @param {() => void} open Opens the dialog.
 * @param {(collection: string) => void} changed Called once documents were added to a collection.
 */
export function startDocuments(open, changed) {
  target.addEventListener("change", showNewName);
  element("documents-close", HTMLButtonElement).addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    addButton.disabled = true;
    try {
      const collection = await addAll();
      if (collection) changed(collection);
    } finally {
      addButton.disabled = false;
    }
  });
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files") || !isOpen("chat")) return;
    event.preventDefault();
    drop.hidden = dialog.open;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.hidden = true;
  });
  addEventListener("drop", (event) => {
    drop.hidden = true;
    if (!event.dataTransfer?.files.length || !isOpen("chat")) return;
    event.preventDefault();
    open();
    files.files = event.dataTransfer.files;
  });
}
