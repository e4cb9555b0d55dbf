// @ts-check
import { recall, remember } from "./dom.js";
import { texts } from "./texts.js";

/** @typedef {Record<string, string | number>} Values */

const attributes = { i18n: "", i18nTitle: "title", i18nLabel: "aria-label", i18nPlaceholder: "placeholder" };

/** @type {keyof typeof texts} */
let language = "en";

export function currentLanguage() {
  return language;
}

/**
 * A text in the current language. `{name}` stands for a value, `{name:time}` for a number of seconds, `{name:text}` for
 * the key of another text; a text with plural forms chooses by `n`.
 * @param {string} key
 * @param {Values} [values]
 * @returns {string}
 */
export function text(key, values = {}) {
  const entry = /** @type {Record<string, string | Record<string, string>>} */ (texts[language])[key];
  if (entry === undefined) throw new Error(`texts.js has no ${language} text ${key}`);
  const form = typeof entry === "string" ? entry : entry[new Intl.PluralRules(language).select(Number(values.n))] ?? entry.other;
  return form.replace(/\{(\w+)(?::(\w+))?\}/g, (_, name, kind) => {
    const value = values[name] ?? "";
    if (kind === "text") return text(String(value));
    if (typeof value === "string") return value;
    return kind === "time" ? time(value) : new Intl.NumberFormat(language).format(value);
  });
}

/** @param {number} seconds */
function time(seconds) {
  const [amount, unit] = seconds < 1 ? [Math.round(1000 * seconds), "millisecond"] : [seconds, "second"];
  return new Intl.NumberFormat(language, { style: "unit", unit, maximumFractionDigits: 1 }).format(amount);
}

/**
 * Puts a text on an element, so that it changes when the language does.
 * @template {Element} T
 * @param {T} node
 * @param {string} key
 * @param {Values} [values]
 * @param {keyof typeof attributes} [where]
 * @returns {T}
 */
export function say(node, key, values = {}, where = "i18n") {
  const { dataset } = /** @type {HTMLElement} */ (/** @type {unknown} */ (node));
  dataset[where] = key;
  dataset[`${where}Values`] = JSON.stringify(values);
  put(node, where, text(key, values));
  return node;
}

/**
 * Puts a text that is the same in all languages.
 * @param {HTMLElement} node
 * @param {string} plain
 */
export function sayPlain(node, plain) {
  delete node.dataset.i18n;
  delete node.dataset.i18nValues;
  node.textContent = plain;
}

/**
 * @param {Element} node
 * @param {keyof typeof attributes} where
 * @param {string} value
 */
function put(node, where, value) {
  if (where === "i18n") node.textContent = value;
  else node.setAttribute(attributes[where], value);
}

function translatePage() {
  document.documentElement.lang = language;
  const all = document.querySelectorAll("[data-i18n], [data-i18n-title], [data-i18n-label], [data-i18n-placeholder]");
  for (const node of /** @type {NodeListOf<HTMLElement>} */ (all)) {
    for (const where of /** @type {(keyof typeof attributes)[]} */ (Object.keys(attributes))) {
      const key = node.dataset[where];
      if (key) put(node, where, text(key, JSON.parse(node.dataset[`${where}Values`] ?? "{}")));
    }
  }
}

/**
 * @param {string} wanted
 */
export function setLanguage(wanted) {
  language = wanted === "ru" || wanted === "zh" ? wanted : "en";
  remember("language", language);
  translatePage();
}

/** The language chosen before, or the browser's first that is spoken here. */
export function startLanguage() {
  const wishes = [recall("language"), ...navigator.languages].map((tag) => tag.slice(0, 2).toLowerCase());
  language = /** @type {keyof typeof texts} */ (wishes.find((tag) => tag in texts) ?? "en");
  translatePage();
}
