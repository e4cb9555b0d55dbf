// @ts-check
import { recall, remember } from "./dom.js";

/**
 * @typedef {Record<string, string | number>} Values
 * @typedef {Record<string, string | Record<string, string>>} Texts
 */

const attributes = { i18n: "", i18nTitle: "title", i18nLabel: "aria-label", i18nPlaceholder: "placeholder" };

const LANGUAGES = ["en", "ru", "zh"];

/** @param {string} language */
async function load(language) {
  const response = await fetch(`/i18n/${language}.json`);
  return /** @type {[string, Texts]} */ ([language, await response.json()]);
}

/** @type {Record<string, Texts>} */
const texts = Object.fromEntries(await Promise.all(LANGUAGES.map(load)));

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
  const entry = texts[language][key];
  if (entry === undefined) throw new Error(`i18n/${language}.json has no text ${key}`);
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
  language = LANGUAGES.includes(wanted) ? wanted : "en";
  remember("language", language);
  translatePage();
}

/** How the current language writes a number. @param {number} value @param {Intl.NumberFormatOptions} [options] */
export function number(value, options = { maximumSignificantDigits: 3 }) {
  return new Intl.NumberFormat(language, options).format(value);
}

/** A size in the nearest unit, in binary steps. @param {number} bytes */
export function size(bytes) {
  const step = Math.min(3, Math.floor(Math.log2(Math.max(bytes, 1)) / 10));
  return `${number(bytes / 1024 ** step, { maximumFractionDigits: step > 1 ? 1 : 0 })} ${["B", "KiB", "MiB", "GiB"][step]}`;
}

/** A moment, as the current language writes it. @param {string | undefined} time In RFC 3339. */
export function moment(time) {
  if (!time) return "";
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(time));
}

/** The language chosen before, or the browser's first that is spoken here. */
export function startLanguage() {
  const wishes = [recall("language"), ...navigator.languages].map((tag) => tag.slice(0, 2).toLowerCase());
  language = wishes.find((tag) => LANGUAGES.includes(tag)) ?? "en";
  translatePage();
}
