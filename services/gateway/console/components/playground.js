// @ts-check
import { send } from "../api.js";
import { make } from "../dom.js";
import { number, say } from "../i18n.js";
import { addressOf } from "../router.js";
import { MarkdownView } from "./markdown.js";
import { attempt, choice, field } from "./page.js";

/**
 * @typedef {{rank: number, score?: number, normalized_score?: number}} Leg
 * @typedef {{dense?: Leg, sparse?: Leg, matched_terms?: string[], coverage?: number, rerank_score?: number}} Explanation
 * @typedef {import("../api.js").Hit & {score?: number, headings?: string[], page?: number, explanation?: Explanation}} FoundHit
 */

const FUSIONS = { rrf: { rrf: {} }, dbsf: { dbsf: {} }, weighted: { weighted: {} } };

/**
 * @param {string} key
 * @param {Leg | undefined} leg
 */
function legRow(key, leg) {
  const row = make("tr", {}, say(make("th", { scope: "row" }), key));
  if (!leg) {
    row.append(say(make("td", { colspan: "3" }), "notInRanking"));
    return row;
  }
  const share = leg.normalized_score ?? 0;
  row.append(make("td", {}, `#${leg.rank}`), make("td", {}, number(leg.score ?? 0)), make("td", {}, number(share)));
  return row;
}

/** @param {Explanation} explanation */
function explained({ dense, sparse, matched_terms: terms = [], coverage = 0, rerank_score: grade }) {
  const head = make("tr", {}, ...["ranking", "place", "score", "countsFor"].map((key) => say(make("th", { scope: "col" }), key)));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, legRow("SEARCH_MODE_DENSE", dense), legRow("SEARCH_MODE_SPARSE", sparse)));
  const words = say(make("p"), "coverage", { n: Math.round(100 * coverage), words: terms.join(", ") || "—" });
  const details = make("details", { class: "why" }, say(make("summary"), "whyHere"), make("div", { class: "table" }, table), words);
  if (grade !== undefined) details.append(say(make("p"), "rerankScore", { n: grade }));
  return details;
}

/**
 * @param {FoundHit} hit
 * @param {number} place
 */
function hitRow(hit, place) {
  const name = make("a", { href: addressOf("collections", `${hit.collection}/${hit.document}`) }, hit.title || hit.document);
  const where = [hit.document, ...(hit.headings ?? [])].join(" › ");
  const quote = make("div", { class: "quote" });
  new MarkdownView(quote).update(hit.text);
  const facts = make("p", { class: "note" }, where, " · ");
  facts.append(say(make("span"), "relevance", { n: Math.round(100 * (hit.relevance ?? 0)) }), " · ");
  facts.append(say(make("span"), "scoreIs", { n: hit.score ?? 0 }));
  const item = make("li", { class: "card hit" }, make("h3", {}, `${place}. `, name), facts, quote);
  if (hit.explanation) item.append(explained(hit.explanation));
  return item;
}

/**
 * A search whose every result says why it is where it is.
 * @param {string} collection
 */
export function playground(collection) {
  const query = make("input", { name: "query", required: "", maxlength: "2000", autocomplete: "off" });
  const mode = choice(["SEARCH_MODE_HYBRID", "SEARCH_MODE_DENSE", "SEARCH_MODE_SPARSE"].map((one) => [one, one]));
  const fusion = choice([["rrf", "fusionRrf"], ["dbsf", "fusionDbsf"], ["weighted", "fusionWeighted"]]);
  const topK = make("input", { type: "number", min: "1", max: "100", value: "5" });
  const submit = say(make("button", { class: "primary", type: "submit" }), "searchNow");
  const list = make("ol", { class: "cards hits", "aria-live": "polite" });
  const note = make("p", { class: "note", role: "status" });
  const options = make("div", { class: "fields" }, field("factMode", mode), field("fusion", fusion), field("topK", topK));
  const form = make("form", { class: "search" }, field("query", query), options, submit);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void attempt(submit, async () => {
      const chosen = FUSIONS[/** @type {keyof typeof FUSIONS} */ (fusion.value)];
      const asked = { collections: [collection], query: query.value, mode: mode.value, fusion: chosen, top_k: Number(topK.value), explain: true };
      const { hits = [], mode_note: modeNote = "" } = await send("/v1/search", asked);
      list.replaceChildren(...hits.map((/** @type {FoundHit} */ hit, /** @type {number} */ index) => hitRow(hit, index + 1)));
      say(note, "foundPassages", { n: hits.length });
      if (modeNote) note.append(` ${modeNote}`);
    });
  });
  const heading = say(make("h2"), "playground");
  return make("section", { class: "card playground" }, heading, form, note, list);
}
