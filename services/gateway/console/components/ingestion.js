// @ts-check
import { events, send } from "../api.js";
import { make } from "../dom.js";
import { say } from "../i18n.js";
import { badge, button, failure, progress } from "./page.js";

/**
 * @typedef {{stage: string, documents_done?: string, documents_total?: string, chunks_done?: string, chunks_total?: string,
 *   bytes_done?: string, bytes_total?: string, complete?: boolean}} Stage
 * @typedef {{name: string, reason: string, message: string}} Failed
 * @typedef {{ingestion: string, state: string, stages?: Stage[], unchanged_count?: string, failed_count?: string, failures?: Failed[]}} Ingestion
 */

const OVER = new Set(["INGESTION_STATE_SUCCEEDED", "INGESTION_STATE_FAILED", "INGESTION_STATE_CANCELLED"]);
const KINDS = new Map([["INGESTION_STATE_SUCCEEDED", "good"], ["INGESTION_STATE_FAILED", "bad"]]);

/** @param {Ingestion} ingestion */
export function isOver({ state }) {
  return OVER.has(state);
}

/** @param {Stage} stage */
function stageRow({ stage, documents_done = "0", documents_total = "0", chunks_done = "0", chunks_total = "0", complete }) {
  const byChunks = Number(chunks_total) > 0;
  const [done, total] = (byChunks ? [chunks_done, chunks_total] : [documents_done, documents_total]).map(Number);
  const name = say(make("span"), stage);
  const count = say(make("span", { class: "count" }), byChunks ? "chunksOf" : "documentsOf", { done, total });
  return make("li", complete ? { class: "complete" } : {}, name, progress(done, total, name.textContent ?? ""), count);
}

/** One ingestion on the page: its state, how far each stage is, and what failed. */
export class IngestionView {
  /** @param {string} name */
  constructor(name) {
    this.head = make("header");
    this.stages = make("ul", { class: "stages" });
    this.failures = make("ul", { class: "results" });
    this.name = name;
    this.element = make("li", { class: "card ingestion" }, this.head, this.stages, this.failures);
    this.head.append(make("strong", {}, name), badge("uploading"));
  }

  /** @param {Ingestion} ingestion */
  show(ingestion) {
    const { ingestion: id, state, stages = [], failures = [], unchanged_count: unchanged = "0" } = ingestion;
    this.element.dataset.state = state;
    this.head.replaceChildren(make("strong", {}, this.name || id), badge(state, KINDS.get(state)));
    if (Number(unchanged)) this.head.append(say(make("span", { class: "note" }), "unchanged", { n: Number(unchanged) }));
    if (!isOver(ingestion)) {
      this.head.append(button("cancel", () => send(`/v1/ingestions/${encodeURIComponent(id)}:cancel`)));
    }
    this.stages.replaceChildren(...stages.map(stageRow));
    this.failures.replaceChildren(...failures.map(({ name, message, reason }) => (
      make("li", { class: "bad" }, `${name}: ${message} (${reason})`)
    )));
  }

  /**
   * Follows an ingestion to its end.
   * @param {string} id
   * @param {AbortSignal} signal Ends the watching, and leaves the ingestion alone.
   * @returns {Promise<Ingestion | null>} How it ended; null where nobody watches any more.
   */
  async watch(id, signal) {
    try {
      for await (const event of events(`/v1/ingestions/${encodeURIComponent(id)}:watch`, { signal })) {
        this.show(event.finished ?? event.progress);
        if (event.finished) return event.finished;
      }
    } catch (error) {
      if (signal.aborted) return null;
      throw error;
    }
    return null;
  }

  /** @param {unknown} error */
  fail(error) {
    this.head.replaceChildren(make("strong", {}, this.name), badge("INGESTION_STATE_FAILED", "bad"));
    this.element.append(failure(error));
  }
}
