// @ts-check
import { make } from "../dom.js";
import { say } from "../i18n.js";

/**
 * @typedef {import("../api.js").GradedSentence} GradedSentence
 * @typedef {import("../api.js").Groundedness} Groundedness
 */

/**
 * What to say of a sentence: the text's key and its values.
 * @param {GradedSentence | undefined} sentence
 * @returns {[string, import("../i18n.js").Values]}
 */
export function gradeOf(sentence) {
  const { verdict = "VERDICT_UNSCORED", number = 0, score } = sentence ?? {};
  const percent = Math.round(100 * (score ?? 0));
  if (verdict === "VERDICT_SUPPORTED" && number) return ["groundedBy", { n: number, percent }];
  return [verdict === "VERDICT_UNSPECIFIED" ? "VERDICT_UNSCORED" : verdict, { percent }];
}

/**
 * The sentences as stretches of the text.
 * @param {Groundedness} grounded
 * @param {(characters: number) => number} units From characters to UTF-16 units.
 * @returns {import("./markdown.js").Span[]}
 */
export function spansOf({ sentences = [] }, units) {
  return sentences.map(({ start = 0, end = 0, verdict, number }, index) => ({
    start: units(start), end: units(end), sources: number ? String(number) : "", sentence: String(index + 1), verdict,
  }));
}

/**
 * Every sentence with what it rests on, for those who cannot see how it is underlined.
 * @param {Groundedness} grounded
 * @param {(sentence: GradedSentence) => string} quote
 * @returns {HTMLElement[]} Nothing where no sentence was graded.
 */
export function groundedness(grounded, quote) {
  if (!grounded.sentences?.length) return [];
  const list = make("ol", { class: "grades" });
  for (const sentence of grounded.sentences) {
    const [key, values] = gradeOf(sentence);
    const grade = say(make("span", { class: "grade", "data-verdict": sentence.verdict }), key, values);
    const vetoes = (sentence.vetoes ?? []).map((veto) => say(make("span", { class: "grade" }), veto));
    list.append(make("li", {}, make("q", {}, quote(sentence).trim()), " ", grade, ...vetoes));
  }
  const how = say(make("p", { class: "note" }), grounded.by_meaning ? "groundedByMeaning" : "groundedByWords");
  return [say(make("h3"), "groundedTitle"), how, list];
}
