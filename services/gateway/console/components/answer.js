// @ts-check
import { ApiError, recordFeedback, recordThumb } from "../api.js";
import { icon, make } from "../dom.js";
import { groundedness, gradeOf, spansOf } from "./groundedness.js";
import { say, sayPlain } from "../i18n.js";
import { MarkdownView } from "./markdown.js";
import { highlightSource, isShown, showSources, titleOf } from "./sources.js";

/**
 * @typedef {import("../api.js").AnswerEvent} AnswerEvent
 * @typedef {import("../api.js").Citation} Citation
 * @typedef {import("../api.js").Finished} Finished
 * @typedef {import("../api.js").Hit} Hit
 */

/**
 * Citations count characters; JavaScript counts UTF-16 units. They differ only past the basic plane.
 * @param {string} text
 * @param {number} characters
 */
function units(text, characters) {
  return /[\ud800-\udfff]/.test(text) ? Array.from(text).slice(0, characters).join("").length : characters;
}

/**
 * @param {string | undefined} duration As JSON writes a protobuf Duration: "0.42s".
 */
function seconds(duration) {
  return Number.parseFloat(duration ?? "") || 0;
}

/** One answer on the page, from the question's sending to its end. */
export class Answer {
  /**
   * @param {string} collection
   * @param {() => void} retry
   */
  constructor(collection, retry) {
    this.retry = retry;
    this.text = "";
    /** @type {Hit[]} */
    this.hits = [];
    /** @type {Citation[]} */
    this.citations = [];
    /** @type {import("../api.js").Sources} */
    this.opening = {};
    /** @type {import("../api.js").Groundedness} */
    this.grounded = {};
    this.drawing = 0;
    this.body = make("div", { class: "text" });
    this.markdown = new MarkdownView(this.body);
    const doing = make("span", { class: "doing" });
    this.doing = say(doing, "searching", { name: collection });
    this.typing = make("div", { class: "typing" }, make("span", { class: "dots", "aria-hidden": "true" }, make("i"), make("i"), make("i")), doing);
    this.end = make("div", { class: "end" });
    this.element = make("article", { class: "answer", "data-state": "searching", "aria-busy": "true" }, this.body, this.typing, this.end);
  }

  /** @param {string} state One of searching, reading, writing, done, stopped, failed. */
  set state(state) {
    this.element.dataset.state = state;
    const over = state === "done" || state === "stopped" || state === "failed";
    this.element.setAttribute("aria-busy", String(!over));
    this.typing.hidden = over || state === "writing";
    if (over) this.draw();
  }

  get state() {
    return this.element.dataset.state ?? "";
  }

  /** @param {AnswerEvent} event Any but `finished`. */
  accept({ sources, token, citation }) {
    if (sources) {
      this.opening = sources;
      this.hits = sources.hits ?? [];
      this.show();
      say(this.doing, "reading", { n: this.hits.length });
      this.state = "reading";
    }
    if (token?.text) {
      this.text += token.text;
      this.state = "writing";
    }
    if (citation) this.citations.push(citation);
    if (!this.drawing) this.drawing = requestAnimationFrame(() => this.draw());
  }

  /** @param {{start?: number, end?: number}} place In characters of the answer. */
  sentence({ start = 0, end = 0 }) {
    return this.text.slice(units(this.text, start), units(this.text, end));
  }

  show() {
    const uses = this.citations.map((citation) => ({ number: citation.number, sentence: this.sentence(citation) }));
    showSources(this, this.hits, uses, this.opening.mode_note);
  }

  draw() {
    cancelAnimationFrame(this.drawing);
    this.drawing = 0;
    /** @type {Map<string, import("./markdown.js").Span>} */
    const spans = new Map();
    for (const citation of this.citations) {
      const [start, end] = [units(this.text, citation.start ?? 0), units(this.text, citation.end ?? 0)];
      const sources = `${spans.get(`${start} ${end}`)?.sources ?? ""} ${citation.number}`.trim();
      spans.set(`${start} ${end}`, { start, end, sources });
    }
    const graded = spansOf(this.grounded, (characters) => units(this.text, characters));
    const all = [...spans.values(), ...graded];
    this.markdown.update(this.text, all, (number, at) => this.chip(number, at), String(this.citations.length));
    for (const mark of /** @type {NodeListOf<HTMLElement>} */ (this.body.querySelectorAll("mark[data-sentence]"))) {
      const [key, values] = gradeOf(this.grounded.sentences?.[Number(mark.dataset.sentence) - 1]);
      say(mark, key, values, "i18nTitle");
    }
  }

  /**
   * @param {number} number
   * @param {number} at Where the marker stands, in UTF-16 units.
   */
  chip(number, at) {
    const hit = this.hits[number - 1];
    if (!hit) return null;
    const citation = this.citations.findLast((one) => one.number === number && units(this.text, one.end ?? 0) <= at);
    const chip = make("button", { class: "chip", type: "button", "data-source": String(number) }, String(number));
    const values = { n: number, title: titleOf(hit), support: Math.round(100 * (citation?.support ?? 0)) };
    say(chip, citation ? "chipSupport" : "chip", values, "i18nTitle");
    say(chip, citation ? "chipSupport" : "chip", values, "i18nLabel");
    if (citation && (citation.support ?? 0) < 0.5) chip.classList.add("weak");
    chip.addEventListener("click", () => this.follow(number, citation));
    return chip;
  }

  /**
   * @param {number} number
   * @param {Citation} [citation]
   */
  follow(number, citation) {
    if (!isShown(this)) this.show();
    const sentence = citation ? this.sentence(citation) : "";
    for (const mark of document.querySelectorAll(".answer mark.active")) mark.classList.remove("active");
    for (const mark of this.body.querySelectorAll(`mark[data-sources~="${number}"]`)) {
      mark.classList.toggle("active", !!citation && sentence.includes(mark.textContent ?? ""));
    }
    highlightSource(number, sentence);
  }

  /** @param {Finished} finished */
  finish(finished) {
    if (finished.error || finished.finish_reason === "FINISH_REASON_ERROR") {
      this.fail(ApiError.fromStatus(finished.error ?? {}, this.opening.request_id));
      return;
    }
    this.grounded = finished.groundedness ?? {};
    this.state = "done";
    this.show();
    const notes = new Map([["FINISH_REASON_LENGTH", "limited"], ["FINISH_REASON_CONTENT_FILTER", "filtered"]]);
    this.remark(notes.get(finished.finish_reason ?? ""));
    this.tell(finished);
  }

  /** @param {import("../api.js").Turn} turn */
  restore(turn) {
    this.text = turn.text ?? "";
    this.hits = turn.sources ?? [];
    this.citations = turn.citations ?? [];
    this.state = turn.complete ? "done" : "stopped";
    this.remark(turn.complete ? undefined : "cut");
    this.tell({ model: turn.model });
  }

  stop() {
    this.state = "stopped";
    this.remark(this.text ? "stopped" : "stoppedEarly");
  }

  /** @param {ApiError} error */
  fail(error) {
    this.state = "failed";
    const own = { UNREACHABLE: "failedUnreachable", BROKEN_OFF: "failedBroken" }[error.reason];
    const message = make("p");
    if (own) say(message, own);
    else sayPlain(message, error.message);
    const how = make("p", { class: "how" });
    const id = error.requestId || this.opening.request_id;
    if (id) say(how, "failedHow", { reason: error.reason, id });
    else sayPlain(how, error.reason);
    const again = say(make("button", { class: "quiet", type: "button" }), "retry");
    again.addEventListener("click", this.retry);
    this.end.append(make("div", { class: "failure", role: "alert" }, say(make("strong"), "failed"), message, how, again));
  }

  /** @param {string | undefined} key */
  remark(key) {
    if (key) this.end.append(say(make("p", { class: "note" }), key));
  }

  /**
   * What produced the answer: a line of the main facts that opens to all of them.
   * @param {Finished} finished
   */
  tell({ model = "", engine = "", usage, variant = "", timings }) {
    const line = make("summary");
    if (model && engine && model !== engine) line.append(say(make("span"), "modelWith", { model, engine }));
    else if (model || engine) line.append(make("span", {}, model || engine));
    const { score } = this.grounded;
    if (score !== undefined) line.append(say(make("span", { class: "grounded" }), "groundedIs", { n: Math.round(100 * score) }));
    if (usage?.output_tokens) line.append(say(make("span"), "tokens", { n: Number(usage.output_tokens) }));
    if (timings?.total) line.append(say(make("span"), "timeIs", { n: seconds(timings.total) }));
    if (variant) line.append(say(make("span", { class: "variant" }), "variantIs", { name: variant }));
    if (!line.childNodes.length) line.append(say(make("span"), "showSources", { n: this.hits.length }));
    const facts = make("dl");
    /** @param {string} name @param {HTMLElement} value */
    const fact = (name, value) => facts.append(say(make("dt"), name), value);
    if (model) fact("factModel", make("dd", {}, model));
    if (engine) fact("factEngine", make("dd", {}, engine));
    if (usage?.source) {
      const [input, output] = [Number(usage.input_tokens ?? 0), Number(usage.output_tokens ?? 0)];
      fact("factTokens", say(make("dd"), "factTokensValue", { input, output, source: usage.source }));
    }
    if (timings?.total) {
      const [search, first, total] = [timings.retrieval, timings.first_token, timings.total].map(seconds);
      fact("factTime", say(make("dd"), "factTimeValue", { search, first, total }));
    }
    const { mode, assignment, request_id: request } = this.opening;
    if (mode && mode !== "SEARCH_MODE_UNSPECIFIED") fact("factMode", say(make("dd"), mode));
    if (variant) fact("factVariant", say(make("dd"), "factVariantValue", { variant, experiment: assignment?.experiment ?? "" }));
    if (request) fact("factRequest", make("dd", {}, make("code", {}, request)));
    const sources = say(make("button", { class: "link", type: "button" }), "showSources", { n: this.hits.length });
    sources.addEventListener("click", () => this.show());
    const grades = groundedness(this.grounded, (graded) => this.sentence(graded));
    const row = make("div", { class: "row" }, make("details", { class: "facts" }, line, facts, ...grades));
    if (this.hits.length) row.append(sources);
    if (request) row.append(this.thumbs(request, assignment?.assignment ?? ""));
    this.end.append(row);
  }

  /**
   * @param {string} request
   * @param {string} assignment Empty where no experiment shaped the answer.
   */
  thumbs(request, assignment) {
    const word = make("span", { class: "word", role: "status" });
    const box = make("span", { class: "thumbs" });
    for (const [key, sign, value] of /** @type {[string, string, number][]} */ ([["thumbUp", "up", 1], ["thumbDown", "down", 0]])) {
      const thumb = make("button", { class: `thumb ${sign}`, type: "button", "aria-pressed": "false" }, icon("thumb"));
      say(thumb, key, {}, "i18nTitle");
      say(thumb, key, {}, "i18nLabel");
      thumb.addEventListener("click", async () => {
        for (const one of box.querySelectorAll("button")) one.disabled = true;
        thumb.setAttribute("aria-pressed", "true");
        try {
          await recordFeedback(request, value);
          if (assignment) await recordThumb(`console-${request}`, assignment, value);
          say(word, "voteKept");
        } catch (error) {
          thumb.setAttribute("aria-pressed", "false");
          const unknown = error instanceof ApiError && error.reason === "METRIC_NOT_FOUND";
          say(word, unknown ? "voteNoMetric" : "voteFailed");
          if (!unknown) for (const one of box.querySelectorAll("button")) one.disabled = false;
        }
      });
      box.append(thumb);
    }
    box.append(word);
    return box;
  }
}
