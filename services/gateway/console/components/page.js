// @ts-check
import { ApiError } from "../api.js";
import { make } from "../dom.js";
import { say, sayPlain, text } from "../i18n.js";

/** @typedef {import("../i18n.js").Values} Values */

/**
 * A page's title, which takes the focus when the page is opened.
 * @param {string} key
 * @param {Values} [values]
 */
export function title(key, values = {}) {
  return say(make("h1", { tabindex: "-1" }), key, values);
}

/**
 * @param {string} key
 * @param {() => unknown} act What fails is shown beside the button.
 * @param {string} [kind] quiet, primary or danger.
 */
export function button(key, act, kind = "quiet") {
  const made = say(make("button", { class: kind, type: "button", "data-act": key }), key);
  made.addEventListener("click", () => void attempt(made, act));
  return made;
}

/**
 * Does something once at a time, and tells beside the button where it failed.
 * @param {HTMLButtonElement} trigger
 * @param {() => unknown} act
 */
export async function attempt(trigger, act) {
  const box = trigger.closest(".card, .page") ?? trigger;
  for (const old of box.querySelectorAll(":scope > .failure")) old.remove();
  trigger.disabled = true;
  try {
    await act();
  } catch (error) {
    box.append(failure(error));
  } finally {
    trigger.disabled = false;
  }
}

/**
 * What went wrong, in the words of the server. An error of this page itself is thrown on.
 * @param {unknown} error
 */
export function failure(error) {
  if (!(error instanceof ApiError)) throw error;
  const message = make("p");
  if (error.reason === "UNREACHABLE") say(message, "failedUnreachable");
  else if (error.reason === "BROKEN_OFF") say(message, "failedBroken");
  else sayPlain(message, error.message);
  const how = make("p", { class: "how" });
  if (error.requestId) say(how, "failedHow", { reason: error.reason, id: error.requestId });
  else sayPlain(how, error.reason);
  return make("div", { class: "failure", role: "alert" }, message, how);
}

/**
 * A labelled field.
 * @template {HTMLElement} T
 * @param {string} key Of its label.
 * @param {T} input
 * @param {string} [hint] Key of what is said below it.
 */
export function field(key, input, hint = "") {
  const label = make("label", { class: "field" }, say(make("span"), key), input);
  if (hint) label.append(say(make("small"), hint));
  return label;
}

/**
 * @param {[string, string][]} options Values with the keys of their texts.
 * @param {Record<string, string>} [attributes]
 */
export function choice(options, attributes = {}) {
  return make("select", attributes, ...options.map(([value, key]) => say(make("option", { value }), key)));
}

/**
 * Names and what they are, one under the other.
 * @param {[string, string | Node][]} entries Keys of the names.
 */
export function facts(entries) {
  const list = make("dl", { class: "plain-facts" });
  for (const [key, value] of entries) list.append(make("div", {}, say(make("dt"), key), make("dd", {}, value)));
  return list;
}

/**
 * @param {string} key
 * @param {string} [kind] good, bad or none.
 */
export function badge(key, kind = "") {
  return say(make("span", { class: `badge ${kind}`.trim(), "data-is": key }), key);
}

/**
 * How far something is.
 * @param {number} done
 * @param {number} total 0 where unknown.
 * @param {string} name What a screen reader calls it.
 */
export function progress(done, total, name) {
  const bar = make("progress", { max: "1", "aria-label": name });
  if (total > 0) bar.value = Math.min(1, done / total);
  return bar;
}

/**
 * Asks before something that cannot be undone.
 * @param {string} key
 * @param {Values} [values]
 */
export function sure(key, values = {}) {
  return confirm(text(key, values));
}
