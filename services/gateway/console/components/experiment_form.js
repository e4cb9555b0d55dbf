// @ts-check
import { send } from "../api.js";
import { make } from "../dom.js";
import { say } from "../i18n.js";
import { addressOf } from "../router.js";
import { attempt, button, choice, field } from "./page.js";

/**
 * @param {Record<string, string>} attributes
 */
function input(attributes) {
  return make("input", { autocomplete: "off", ...attributes });
}

/** @param {string} value */
function given(value) {
  return value.trim() === "" ? undefined : Number(value);
}

/**
 * Rows of fields that can be added to and taken away from.
 * @template T
 * @param {string} legend
 * @param {string} more
 * @param {number} least
 * @param {(index: number) => {fields: HTMLElement[], read: () => T}} makeRow
 */
function rows(legend, more, least, makeRow) {
  /** @type {{element: HTMLElement, read: () => T}[]} */
  const made = [];
  const list = make("div", { class: "rows" });
  const add = () => {
    const { fields, read } = makeRow(made.length);
    const element = make("div", { class: "fields" }, ...fields);
    const row = { element, read };
    if (made.length >= least) {
      element.append(button("remove", () => {
        made.splice(made.indexOf(row), 1);
        element.remove();
      }));
    }
    made.push(row);
    list.append(element);
  };
  for (let index = 0; index < least; index += 1) add();
  const element = make("fieldset", {}, say(make("legend"), legend), list, button(more, add));
  return { element, read: () => made.map((row) => row.read()) };
}

/** @param {number} index */
function variantRow(index) {
  const name = input({ required: "", maxlength: "64", value: index ? `variant-${index}` : "control" });
  const weight = input({ type: "number", required: "", min: "0.01", step: "any", value: "1" });
  const model = input({ maxlength: "256" });
  const topK = input({ type: "number", min: "1", max: "100" });
  const temperature = input({ type: "number", min: "0", max: "2", step: "any" });
  const read = () => ({
    variant: name.value, weight: Number(weight.value), model: model.value.trim() || undefined, top_k: given(topK.value),
    sampling: temperature.value ? { temperature: Number(temperature.value) } : undefined,
  });
  const fields = [
    field("variantName", name), field("weight", weight), field("model", model), field("topK", topK), field("temperature", temperature),
  ];
  return { fields, read };
}

/** @param {number} index */
function metricRow(index) {
  const name = input({ required: "", maxlength: "64", value: index ? "" : "thumbs_up" });
  const kind = choice(["METRIC_KIND_PROPORTION", "METRIC_KIND_MEAN", "METRIC_KIND_RATIO"].map((one) => [one, one]));
  const role = choice(["METRIC_ROLE_PRIMARY", "METRIC_ROLE_SECONDARY", "METRIC_ROLE_GUARDRAIL"].map((one) => [one, one]));
  const direction = choice(["DIRECTION_INCREASE", "DIRECTION_DECREASE"].map((one) => [one, one]));
  const minimal = input({ type: "number", min: "0", step: "any" });
  const read = () => ({
    metric: name.value, kind: kind.value, role: role.value, direction: direction.value, minimal_effect: given(minimal.value),
  });
  const fields = [
    field("metricName", name), field("metricKind", kind), field("metricRole", role), field("direction", direction), field("minimalEffect", minimal),
  ];
  return { fields, read };
}

/** The form that makes an experiment, in draft. */
export function experimentForm() {
  const name = input({ name: "experiment", required: "", maxlength: "64", spellcheck: "false" });
  const hypothesis = make("textarea", { rows: "2", maxlength: "4096" });
  const unit = choice(["UNIT_USER", "UNIT_CONVERSATION", "UNIT_REQUEST"].map((one) => [one, one]));
  const calls = choice([["", "allCalls"], ["REQUEST_TYPE_ANSWER", "REQUEST_TYPE_ANSWER"], ["REQUEST_TYPE_GENERATE", "REQUEST_TYPE_GENERATE"]]);
  const ramp = input({ name: "ramp", placeholder: "5, 25, 100" });
  const variants = rows("variants", "addVariant", 2, variantRow);
  const metrics = rows("metrics", "addMetric", 1, metricRow);
  const submit = say(make("button", { class: "primary", type: "submit" }), "create");
  const form = make(
    "form", { class: "create" }, field("experimentName", name, "newNameHint"), field("hypothesis", hypothesis),
    make("div", { class: "fields" }, field("unit", unit), field("calls", calls), field("ramp", ramp, "rampHint")),
    variants.element, metrics.element, submit,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void attempt(submit, async () => {
      const stages = ramp.value.split(/[,\s]+/).filter(Boolean).map((stage) => Number.parseFloat(stage) / 100);
      await send("/v1/experiments", {
        experiment: name.value, hypothesis: hypothesis.value, unit: unit.value, request_types: calls.value ? [calls.value] : [],
        variants: variants.read(), metrics: metrics.read(), ramp: stages.length ? { stages } : undefined,
      });
      location.hash = addressOf("experiments", name.value);
    });
  });
  return make("details", { class: "card" }, say(make("summary"), "createExperiment"), form);
}

/** How many units an experiment needs. */
export function powerForm() {
  const kind = choice([["baseline", "baseline"], ["standard_deviation", "standardDeviation"]]);
  const spread = input({ name: "spread", type: "number", step: "any", min: "0", required: "", value: "0.3" });
  const effect = input({ name: "effect", type: "number", step: "any", min: "0", required: "", value: "0.05" });
  const power = input({ type: "number", step: "any", min: "0.01", max: "0.9999", required: "", value: "0.8" });
  const significance = input({ type: "number", step: "any", min: "0.0001", max: "0.5", required: "", value: "0.05" });
  const submit = say(make("button", { class: "primary", type: "submit" }), "compute");
  const told = make("p", { class: "told", role: "status" });
  const fields = make("div", { class: "fields" }, field("spreadKind", kind), field("spread", spread), field("minimalEffect", effect), field("power", power), field("significance", significance));
  const form = make("form", { class: "card power" }, say(make("h2"), "powerTitle"), fields, submit, told);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void attempt(submit, async () => {
      const answer = await send("/v1/experiments:power", {
        [kind.value]: Number(spread.value), minimal_effect: Number(effect.value), power: Number(power.value), significance: Number(significance.value),
      });
      say(told, "unitsNeeded", { n: Number(answer.units), control: Math.ceil(answer.units_control), variant: Math.ceil(answer.units_variant) });
    });
  });
  return form;
}
