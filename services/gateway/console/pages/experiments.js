// @ts-check
import { get, send } from "../api.js";
import { effects } from "../components/effects.js";
import { experimentForm, powerForm } from "../components/experiment_form.js";
import { badge, button, choice, facts, failure, field, sure, title } from "../components/page.js";
import { make } from "../dom.js";
import { moment, number, say } from "../i18n.js";
import { addressOf } from "../router.js";

/**
 * @typedef {{variant: string, weight?: number, model?: string, top_k?: number}} Variant
 * @typedef {{experiment: string, hypothesis?: string, unit: string, variants: Variant[], state: string, start_time?: string, traffic?: number,
 *   ramp?: {stages: number[]}, conclusion?: {winner?: string, why?: string}}} Experiment
 * @typedef {import("../components/effects.js").Comparison} Comparison
 * @typedef {{metric: string, estimate?: number, mean?: number, outcomes?: string}} MetricResult
 * @typedef {{variant: string, exposed_units?: string, exposures?: string, metrics?: MetricResult[]}} VariantResult
 * @typedef {{state?: string, p_value?: number, missing?: string}} SampleRatio
 * @typedef {{variants?: VariantResult[], comparisons?: Comparison[], sample_ratio?: SampleRatio, analysis_missing?: string}} Results
 */

const KINDS = new Map([["EXPERIMENT_STATE_RUNNING", "good"]]);
const REFRESH_MS = 3000;

/** @param {number} share */
function percent(share) {
  return number(share, { style: "percent", maximumFractionDigits: 1 });
}

/** @param {Experiment} experiment */
function card({ experiment, hypothesis, state, variants, traffic }) {
  const name = make("a", { href: addressOf("experiments", experiment) }, experiment);
  const head = make("header", {}, make("h2", {}, name), badge(state, KINDS.get(state)));
  const arms = make("p", { class: "note" }, variants.map((one) => one.variant).join(" · "));
  const item = make("li", { class: "card model" }, head, arms);
  if (state === "EXPERIMENT_STATE_RUNNING") item.append(say(make("p"), "trafficIs", { share: percent(traffic ?? 1) }));
  if (hypothesis) item.append(make("p", {}, hypothesis));
  return item;
}

/** @param {HTMLElement} root */
async function showList(root) {
  root.append(title("navExperiments"), experimentForm());
  /** @type {{experiments?: Experiment[]}} */
  const { experiments = [] } = await get("/v1/experiments?page_size=250");
  root.append(experiments.length ? make("ul", { class: "cards grid" }, ...experiments.map(card)) : say(make("p", { class: "note" }), "noExperiments"));
  root.append(powerForm());
}

/**
 * What can be done with an experiment in its state.
 * @param {Experiment} experiment
 * @param {() => Promise<void>} changed
 */
function controls(experiment, changed) {
  const { state, variants, ramp, traffic = 1, conclusion } = experiment;
  const path = `/v1/experiments/${encodeURIComponent(experiment.experiment)}`;
  const why = make("input", { maxlength: "1024", autocomplete: "off" });
  /** @param {string} key @param {string} verb @param {string} kind @param {Record<string, unknown>} body */
  const act = (key, verb, kind = "quiet", body = {}) => button(key, async () => {
    await send(`${path}:${verb}`, { why: why.value, ...body });
    await changed();
  }, kind);
  const box = make("p", { class: "acts" });
  const goes = ["DRAFT", "PAUSED"].some((one) => state.endsWith(one));
  const runs = state.endsWith("RUNNING");
  if (goes) box.append(act(state.endsWith("PAUSED") ? "goOn" : "start", "start", "primary"));
  if (runs) box.append(act("pause", "pause"));
  const later = (runs || state.endsWith("PAUSED")) && ramp?.stages.some((stage) => stage > traffic + 1e-9);
  if (later) box.append(act("advance", "advance"));
  if (runs || state.endsWith("PAUSED")) box.append(act("stopExperiment", "stop", "danger"));
  const parts = [field("why", why, "whyHint"), box];
  if (!state.endsWith("DRAFT") && !state.endsWith("CONCLUDED")) {
    const winner = choice([["", "nobodyWon"]], { name: "winner" });
    for (const { variant } of variants) winner.append(make("option", { value: variant }, variant));
    const conclude = button("conclude", async () => {
      if (!sure("concludeSure", { name: experiment.experiment })) return;
      await send(`${path}:conclude`, { why: why.value, winner: winner.value });
      await changed();
    });
    parts.push(make("div", { class: "fields" }, field("winner", winner), make("p", { class: "acts" }, conclude)));
  }
  if (conclusion) {
    parts.push(say(make("p"), conclusion.winner ? "wonBy" : "wonByNobody", { name: conclusion.winner ?? "", why: conclusion.why || "—" }));
    if (conclusion.winner) box.append(act("promote", "promote", "primary"));
  }
  return parts;
}

/** @param {SampleRatio} ratio */
function sampleRatio({ state = "SAMPLE_RATIO_STATE_UNSPECIFIED", p_value: p, missing }) {
  const unknown = state === "SAMPLE_RATIO_STATE_UNSPECIFIED";
  const kind = state === "SAMPLE_RATIO_STATE_MISMATCH" ? "bad" : state === "SAMPLE_RATIO_STATE_MATCH" ? "good" : "";
  const told = make("p", { class: "srm" }, say(make("span"), "sampleRatio"), " ", badge(unknown && missing ? missing : state, kind));
  if (p !== undefined) told.append(` p = ${number(p)}`);
  return told;
}

/** @param {Comparison[]} comparisons */
function guardrails(comparisons) {
  const watched = comparisons.filter((one) => one.role === "METRIC_ROLE_GUARDRAIL");
  if (!watched.length) return say(make("p", { class: "guardrails" }), "guardrailsNone");
  const hurt = watched.filter((one) => one.verdict === "VERDICT_WORSE").map((one) => `${one.metric} (${one.variant})`);
  const told = make("p", { class: "guardrails" }, say(make("span"), "guardrails"), " ");
  told.append(hurt.length ? badge("guardrailsHurt", "bad") : badge("guardrailsHold", "good"), ` ${hurt.join(", ")}`);
  return told;
}

/** @param {VariantResult[]} variants */
function counts(variants) {
  const metrics = variants[0]?.metrics?.map((one) => one.metric) ?? [];
  const head = make("tr", {}, ...["variant", "units", "exposures"].map((key) => say(make("th", { scope: "col" }), key)));
  head.append(...metrics.map((metric) => make("th", { scope: "col" }, metric)));
  const body = variants.map(({ variant, exposed_units: units = "0", exposures = "0", metrics: told = [] }) => {
    const row = make("tr", { "data-variant": variant }, make("th", { scope: "row" }, variant));
    row.append(make("td", {}, number(Number(units), {})), make("td", {}, number(Number(exposures), {})));
    for (const { estimate, mean } of told) row.append(make("td", {}, (estimate ?? mean) === undefined ? "—" : number(Number(estimate ?? mean))));
    return row;
  });
  return make("div", { class: "table" }, make("table", { class: "counts" }, make("thead", {}, head), make("tbody", {}, ...body)));
}

/** @param {Results} results */
function shown({ variants = [], comparisons = [], sample_ratio: ratio = {}, analysis_missing: missing }) {
  const parts = [sampleRatio(ratio), guardrails(comparisons), counts(variants), ...effects(comparisons)];
  if (missing && missing !== "UNCOMPUTABLE_UNSPECIFIED") parts.push(say(make("p", { class: "note" }), missing));
  if (comparisons.some((one) => one.effect)) parts.push(say(make("p", { class: "note" }), "barsMean"));
  return parts;
}

/**
 * @param {HTMLElement} root
 * @param {string} name
 * @param {AbortSignal} signal
 */
async function showExperiment(root, name, signal) {
  const path = `/v1/experiments/${encodeURIComponent(name)}`;
  const about = make("section", { class: "card about" });
  const results = make("section", { class: "card outcome" });
  root.append(make("a", { href: addressOf("experiments"), class: "back" }), title("experimentTitle", { name }), about, results);
  say(/** @type {Element} */ (root.querySelector(".back")), "navExperiments");
  let state = "";
  const fresh = async () => {
    /** @type {Results} */
    const now = await get(`${path}/results`);
    results.replaceChildren(say(make("h2"), "results"), ...shown(now));
  };
  const changed = async () => {
    /** @type {{experiment: Experiment}} */
    const { experiment } = await get(path);
    state = experiment.state;
    const known = facts([
      ["state", badge(state, KINDS.get(state))], ["unit", say(make("span"), experiment.unit)],
      ["traffic", percent(experiment.traffic ?? (state === "EXPERIMENT_STATE_DRAFT" ? 0 : 1))], ["started", moment(experiment.start_time) || "—"],
    ]);
    about.replaceChildren(make("p", {}, experiment.hypothesis ?? ""), known, ...controls(experiment, changed));
    about.dataset.state = state;
    await fresh();
  };
  await changed();
  const timer = setInterval(() => {
    if (state !== "EXPERIMENT_STATE_RUNNING") return;
    fresh().catch((error) => {
      clearInterval(timer);
      results.append(failure(error));
    });
  }, REFRESH_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/**
 * @param {HTMLElement} root
 * @param {string} name Empty for the list.
 * @param {AbortSignal} signal
 */
export async function experimentsPage(root, name, signal) {
  try {
    if (name) await showExperiment(root, name, signal);
    else await showList(root);
  } catch (error) {
    root.append(failure(error));
  }
}
