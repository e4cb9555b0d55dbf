// @ts-check
import { createCollection, get, listCollections, send, upload } from "../api.js";
import { MEDIA_TYPES, NAME } from "../components/documents.js";
import { IngestionView, isOver } from "../components/ingestion.js";
import { attempt, badge, button, facts, failure, field, sure, title } from "../components/page.js";
import { playground } from "../components/playground.js";
import { make } from "../dom.js";
import { moment, number, say, size } from "../i18n.js";
import { addressOf } from "../router.js";

/** @typedef {import("../components/ingestion.js").Ingestion} Ingestion */

const KINDS = new Map([["DOCUMENT_STATE_INDEXED", "good"]]);

/** @param {string} collection */
function pathOf(collection) {
  return `/v1/collections/${encodeURIComponent(collection)}`;
}

function createForm() {
  const name = make("input", { name: "collection", required: "", maxlength: "64", pattern: NAME.source, spellcheck: "false", autocomplete: "off" });
  const submit = say(make("button", { class: "primary", type: "submit" }), "create");
  const form = make("form", { class: "card create" }, say(make("h2"), "createCollection"), field("newName", name, "newNameHint"), submit);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void attempt(submit, async () => {
      await createCollection(name.value);
      location.hash = addressOf("collections", name.value);
    });
  });
  return form;
}

/** @param {import("../api.js").Collection & {chunk_count?: string, embedder?: string}} collection */
function collectionCard({ collection, description, document_count: documents, chunk_count: chunks, embedder = "" }) {
  const name = make("a", { href: addressOf("collections", collection) }, collection);
  const counts = say(make("p"), "countsOf", { n: Number(documents ?? 0), chunks: Number(chunks ?? 0) });
  const card = make("li", { class: "card" }, make("h2", {}, name), counts, make("p", { class: "note" }, embedder));
  if (description) card.append(make("p", {}, description));
  return card;
}

/** @param {HTMLElement} root */
async function showList(root) {
  root.append(title("navCollections"), createForm());
  const found = await listCollections();
  root.append(make("ul", { class: "cards grid" }, ...found.map(collectionCard)));
}

/**
 * Where files are dropped; each becomes an ingestion, whose progress is watched.
 * @param {string} collection
 * @param {AbortSignal} signal
 * @param {() => Promise<void>} changed
 */
function uploads(collection, signal, changed) {
  const input = make("input", { type: "file", multiple: "" });
  const list = make("ul", { class: "cards", "aria-live": "polite" });
  const zone = make("div", { class: "dropzone" }, field("dropHere", input, "dropHint"));

  /** @param {File} file */
  const bring = async (file) => {
    const view = new IngestionView(file.name);
    list.prepend(view.element);
    try {
      const type = MEDIA_TYPES.get(file.name.split(".").at(-1)?.toLowerCase() ?? "") ?? file.type;
      const path = `${pathOf(collection)}/ingestions:upload?name=${encodeURIComponent(file.name)}`;
      const { ingestion } = await upload(path, file, type);
      view.show(ingestion);
      if (await view.watch(ingestion.ingestion, signal)) await changed();
    } catch (error) {
      view.fail(error);
    }
  };
  /** @param {FileList | null | undefined} files */
  const bringAll = (files) => [...files ?? []].forEach((file) => void bring(file));
  input.addEventListener("change", () => {
    bringAll(input.files);
    input.value = "";
  });
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    bringAll(event.dataTransfer?.files);
  });
  return { list, element: make("section", { class: "card" }, say(make("h2"), "add"), zone, list) };
}

/**
 * Ingestions that were begun earlier, those that still run being watched.
 * @param {string} collection
 * @param {HTMLElement} list
 * @param {AbortSignal} signal
 * @param {() => Promise<void>} changed
 */
async function earlier(collection, list, signal, changed) {
  /** @type {{ingestions?: Ingestion[]}} */
  const { ingestions = [] } = await get(`${pathOf(collection)}/ingestions?page_size=5`);
  for (const ingestion of ingestions) {
    const view = new IngestionView("");
    view.show(ingestion);
    list.append(view.element);
    if (!isOver(ingestion)) view.watch(ingestion.ingestion, signal).then((end) => end && changed()).catch((error) => view.fail(error));
  }
}

/** @param {string} collection */
function openDocument(collection) {
  const id = make("input", { required: "", maxlength: "512", autocomplete: "off" });
  const submit = say(make("button", { class: "quiet", type: "submit" }), "open");
  const form = make("form", { class: "card inline" }, say(make("h2"), "openDocument"), field("documentId", id, "documentIdHint"), submit);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = addressOf("collections", `${collection}/${id.value}`);
  });
  return form;
}

/**
 * @param {HTMLElement} root
 * @param {string} collection
 * @param {AbortSignal} signal
 */
async function showCollection(root, collection, signal) {
  const stats = make("div", { class: "stats" });
  const fresh = async () => {
    const { stats: now } = await get(`${pathOf(collection)}/stats`);
    stats.replaceChildren(facts([
      ["documents", number(Number(now.document_count), {})], ["pending", number(Number(now.pending_document_count), {})],
      ["chunks", number(Number(now.chunk_count), {})], ["textSize", size(Number(now.text_bytes))],
      ["embedder", now.embedder], ["lastIngest", moment(now.last_ingest_time) || "—"],
    ]));
  };
  const remove = button("deleteCollection", async () => {
    if (!sure("deleteCollectionSure", { name: collection })) return;
    await send(pathOf(collection), {}, "DELETE");
    location.hash = addressOf("collections");
  }, "danger");
  const files = uploads(collection, signal, fresh);
  const back = say(make("a", { href: addressOf("collections"), class: "back" }), "navCollections");
  root.append(back, title("collectionTitle", { name: collection }));
  await fresh();
  root.append(stats, files.element, playground(collection), openDocument(collection), make("p", {}, remove));
  await earlier(collection, files.list, signal, fresh);
}

/**
 * @param {HTMLElement} root
 * @param {string} collection
 * @param {string} id
 */
async function showDocument(root, collection, id) {
  const path = `${pathOf(collection)}/documents/${encodeURIComponent(id)}`;
  const back = make("a", { href: addressOf("collections", collection), class: "back" }, collection);
  root.append(back, title("documentTitle", { name: id }));
  const { document } = await get(path);
  const remove = button("deleteDocument", async () => {
    if (!sure("deleteDocumentSure", { name: id })) return;
    await send(path, {}, "DELETE");
    location.hash = addressOf("collections", collection);
  }, "danger");
  root.append(badge(document.state, KINDS.get(document.state)), facts([
    ["documentName", document.title || "—"], ["mediaType", document.media_type || "—"],
    ["chunks", number(document.chunk_count ?? 0, {})], ["version", String(document.version ?? 0)], ["added", moment(document.create_time)],
  ]), make("pre", { class: "whole" }, document.text ?? ""), make("p", {}, remove));
}

/**
 * @param {HTMLElement} root
 * @param {string} name Empty, a collection, or a collection and a document.
 * @param {AbortSignal} signal
 */
export async function collectionsPage(root, name, signal) {
  const [collection, ...document] = name.split("/");
  try {
    if (document.length) await showDocument(root, collection, document.join("/"));
    else if (collection) await showCollection(root, collection, signal);
    else await showList(root);
  } catch (error) {
    root.append(failure(error));
  }
}
