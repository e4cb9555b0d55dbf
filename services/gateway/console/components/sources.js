// @ts-check
import { element, make } from "../dom.js";
import { say, sayPlain } from "../i18n.js";
import { MarkdownView } from "./markdown.js";

/**
 * @typedef {import("../api.js").Hit} Hit
 * @typedef {{number: number, sentence: string}} Use That a sentence of the answer rests on a source.
 */

const list = element("source-list", HTMLOListElement);
const note = element("sources-note", HTMLParagraphElement);

/** @type {unknown} */
let shownFor = null;
/** @type {Use[]} */
let shownUses = [];

/**
 * Letters and digits alone, with the place of each in the text: what is left when spacing and markup are not compared.
 * @param {string} text
 */
function bare(text) {
  const places = [];
  let letters = "";
  for (const match of text.matchAll(/[\p{L}\p{N}]/gu)) {
    letters += match[0].toLowerCase().slice(0, match[0].length);
    for (let unit = 0; unit < match[0].length; unit += 1) places.push(match.index + unit);
  }
  return { letters, places };
}

/** @param {string} letters */
function triples(letters) {
  return new Set(Array.from({ length: Math.max(0, letters.length - 2) }, (_, at) => letters.slice(at, at + 3)));
}

/**
 * Where a passage says what a sentence says: word for word, or else its most alike sentence. A citation tells its place
 * in the answer only, so the place in the passage is found here.
 * @param {string} sentence
 * @param {string} passage
 * @returns {{start: number, end: number} | null} Null where no sentence holds half of it.
 */
export function findSentence(sentence, passage) {
  const wanted = bare(sentence).letters;
  if (!wanted) return null;
  const { letters, places } = bare(passage);
  const at = letters.indexOf(wanted);
  if (at >= 0) return { start: places[at], end: places[at + wanted.length - 1] + 1 };
  const wantedTriples = triples(wanted);
  let best = { share: 0.5, start: -1, end: -1 };
  for (const match of passage.matchAll(/[^.!?。！？\n]+[.!?。！？]*/g)) {
    const found = triples(bare(match[0]).letters);
    const share = [...wantedTriples].filter((one) => found.has(one)).length / wantedTriples.size;
    if (share > best.share) best = { share, start: match.index, end: match.index + match[0].length };
  }
  return best.start < 0 ? null : best;
}

/**
 * @param {Hit} hit
 * @returns {string}
 */
export function titleOf(hit) {
  return hit.title || hit.document;
}

/**
 * @param {Hit} hit
 * @param {number} number
 * @param {Use[]} uses
 */
function card(hit, number, uses) {
  const cited = uses.some((use) => use.number === number);
  const passage = make("div", { class: "passage" });
  /** @type {import("./markdown.js").Span[]} */
  const spans = [];
  uses.forEach((use, index) => {
    const place = use.number === number ? findSentence(use.sentence, hit.text) : null;
    const same = spans.find((span) => span.start === place?.start);
    if (same) same.sources += ` ${index}`;
    else if (place) spans.push({ ...place, sources: String(index) });
  });
  new MarkdownView(passage).update(hit.text, spans);
  const [first] = passage.children;
  // A passage often begins with its document's title, which stands above it already.
  if (first?.className === "heading" && first.textContent === titleOf(hit)) first.remove();
  const relevance = make("span", { class: "relevance" });
  say(relevance, "relevance", { n: Math.round(100 * (hit.relevance ?? 0)) });
  say(relevance, "relevanceHint", {}, "i18nTitle");
  const more = make("button", { class: "link more", type: "button", "aria-expanded": "false" });
  say(more, "showAll");
  const item = make(
    "li", { class: cited ? "source cited" : "source", "data-number": String(number), tabindex: "-1" },
    make("header", {}, make("span", { class: "number" }, String(number)), make("h3", {}, titleOf(hit)), relevance),
    passage,
    make("footer", {}, make("span", { class: "place" }, `${hit.collection} / ${hit.document}`), more),
  );
  more.addEventListener("click", () => unfold(item, !item.classList.contains("open")));
  return item;
}

/**
 * @param {HTMLElement} item
 * @param {boolean} open
 */
function unfold(item, open) {
  item.classList.toggle("open", open);
  const more = item.querySelector(".more");
  more?.setAttribute("aria-expanded", String(open));
  if (more) say(more, open ? "showLess" : "showAll");
}

/**
 * Shows the passages of one answer.
 * @param {unknown} answer Whose they are.
 * @param {Hit[]} hits
 * @param {Use[]} uses
 * @param {string} modeNote What the server has to say about how they were found.
 */
export function showSources(answer, hits, uses, modeNote = "") {
  shownFor = answer;
  shownUses = uses;
  list.replaceChildren(...hits.map((hit, index) => card(hit, index + 1, uses)));
  for (const item of /** @type {NodeListOf<HTMLElement>} */ (list.querySelectorAll(".source"))) {
    const passage = item.querySelector(".passage");
    item.classList.toggle("short", !!passage && passage.scrollHeight <= passage.clientHeight + 4);
  }
  if (modeNote) sayPlain(note, modeNote);
  else if (!hits.length) say(note, "sourcesNone");
  note.hidden = hits.length > 0 && !modeNote;
}

export function clearSources() {
  shownFor = null;
  list.replaceChildren();
  note.hidden = false;
  say(note, "sourcesEmpty");
}

/** @param {unknown} answer */
export function isShown(answer) {
  return shownFor === answer;
}

/**
 * Brings one source to the eye, with the passage's sentence that a citation rests on.
 * @param {number} number From 1.
 * @param {string} [sentence] The cited sentence of the answer.
 */
export function highlightSource(number, sentence = "") {
  for (const item of list.querySelectorAll(".source")) {
    item.classList.toggle("active", item.getAttribute("data-number") === String(number));
  }
  const item = /** @type {HTMLElement | null} */ (list.querySelector(".source.active"));
  if (!item) return;
  unfold(item, true);
  const use = shownUses.findIndex((one) => one.number === number && one.sentence === sentence);
  for (const mark of item.querySelectorAll("mark")) {
    mark.classList.toggle("active", mark.matches(`[data-sources~="${use}"]`));
  }
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  item.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
}
