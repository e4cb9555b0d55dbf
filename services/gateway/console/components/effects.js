// @ts-check
import { make } from "../dom.js";
import { number, say } from "../i18n.js";
import { badge } from "./page.js";

/**
 * @typedef {{lower?: number, upper?: number}} Interval
 * @typedef {{difference?: number, interval?: Interval, p_value?: number, relative?: number}} Effect
 * @typedef {{variant: string, metric: string, role?: string, effect?: Effect, effect_missing?: string, anytime_interval?: Interval,
 *   anytime_p_value?: number, adjusted_p_value?: number, verdict?: string, verdict_missing?: string}} Comparison
 */

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 400;
const KINDS = new Map([["VERDICT_BETTER", "good"], ["VERDICT_WORSE", "bad"]]);

/**
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 */
function draw(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  return node;
}

/**
 * A difference with its intervals on a scale with 0 in it: the thick bar as if one had looked once, the thin one for looking at
 * any time.
 * @param {Comparison} comparison
 * @param {{low: number, high: number}} scale
 */
function bars({ effect = {}, anytime_interval: anytime }, { low, high }) {
  const picture = draw("svg", { viewBox: `0 0 ${WIDTH} 28`, class: "interval", role: "img", preserveAspectRatio: "none" });
  const difference = effect.difference ?? 0;
  const { lower = 0, upper = 0 } = effect.interval ?? {};
  say(picture, "effectLabel", { difference: signed(difference), lower: signed(lower), upper: signed(upper) }, "i18nLabel");
  /** @param {number} value */
  const at = (value) => 6 + (WIDTH - 12) * (Math.min(Math.max(value, low), high) - low) / (high - low || 1);
  picture.append(draw("line", { class: "zero", x1: at(0), x2: at(0), y1: 0, y2: 28 }));
  if (anytime) picture.append(draw("line", { class: "anytime", x1: at(anytime.lower ?? 0), x2: at(anytime.upper ?? 0), y1: 14, y2: 14 }));
  if (effect.interval) picture.append(draw("line", { class: "once", x1: at(lower), x2: at(upper), y1: 14, y2: 14 }));
  picture.append(draw("line", { class: "point", x1: at(difference), x2: at(difference), y1: 6, y2: 22 }));
  return picture;
}

/** @param {number} value */
function signed(value) {
  return number(value, { maximumSignificantDigits: 3, signDisplay: "exceptZero" });
}

/** @param {Comparison} comparison */
function verdictOf({ verdict = "VERDICT_UNSPECIFIED", verdict_missing: missing = "" }) {
  return verdict === "VERDICT_UNSPECIFIED" ? badge(missing || "UNCOMPUTABLE_NOT_STARTED") : badge(verdict, KINDS.get(verdict));
}

/**
 * @param {Comparison} comparison
 * @param {{low: number, high: number}} scale
 */
function row(comparison, scale) {
  const { variant, effect, effect_missing: missing = "", adjusted_p_value: adjusted, anytime_p_value: anytime } = comparison;
  const item = make("li", { class: "effect", "data-variant": variant });
  item.append(make("strong", {}, variant), verdictOf(comparison));
  if (!effect) {
    item.append(say(make("span", { class: "note" }), missing || "UNCOMPUTABLE_TOO_FEW_UNITS"));
    return item;
  }
  const { lower = 0, upper = 0 } = effect.interval ?? {};
  const values = { difference: signed(effect.difference ?? 0), lower: signed(lower), upper: signed(upper) };
  const told = say(make("span", { class: "numbers" }), "effectIs", values);
  const p = adjusted ?? anytime ?? effect.p_value;
  if (p !== undefined) told.append(` · p\u00a0${p < 0.001 ? "<\u00a00.001" : `=\u00a0${number(p)}`}`);
  item.append(bars(comparison, scale), told);
  return item;
}

/**
 * The variants against the control, metric by metric.
 * @param {Comparison[]} comparisons
 */
export function effects(comparisons) {
  const metrics = [...new Set(comparisons.map((one) => one.metric))];
  return metrics.map((metric) => {
    const group = comparisons.filter((one) => one.metric === metric);
    const ends = group.flatMap(({ effect, anytime_interval: anytime }) => (
      [effect?.interval?.lower, effect?.interval?.upper, anytime?.lower, anytime?.upper, effect?.difference].map((end) => end ?? 0)
    ));
    const scale = { low: Math.min(0, ...ends), high: Math.max(0, ...ends) };
    const role = group[0].role ?? "METRIC_ROLE_UNSPECIFIED";
    const head = make("header", {}, make("h3", {}, metric), badge(role));
    return make("section", { class: "metric", "data-metric": metric, "data-role": role }, head, make("ul", {}, ...group.map((one) => row(one, scale))));
  });
}
