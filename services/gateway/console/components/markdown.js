// @ts-check
import { make } from "../dom.js";

/**
 * A stretch of the text that is marked, in UTF-16 units; `sources` are the numbers that it rests on, joined by spaces.
 * Of a sentence whose groundedness is known, `sentence` is its number and `verdict` what was found. Stretches may overlap.
 * @typedef {{start: number, end: number, sources: string, sentence?: string, verdict?: string}} Span
 * @typedef {{kind: string, start: number, end: number}} Block `end` is exclusive.
 * @typedef {(number: number, at: number) => Node | null} Marker Makes what `[number]` at a place becomes.
 */

const LIST_ITEM = /^\s*(?:[-*+]|\d{1,3}[.)])\s+/;
const HEADING = /^#{1,6}\s+/;
const FENCE = /^\s*(?:```|~~~)/;
const INLINE = /`([^`]+)`|\*\*(.+?)\*\*|\[(\d{1,3})\](?!\()|\[([^\]]+)\]\(([^()\s]+)\)|(?<![\w*])[*_]([^\s*_][^*_]*)[*_](?![\w*])/gs;

/**
 * @param {string} line
 * @returns {string}
 */
function kindOf(line) {
  if (!line.trim()) return "blank";
  if (HEADING.test(line)) return "heading";
  if (/^\s*(?:\*\s*){3,}$|^\s*(?:-\s*){3,}$/.test(line)) return "rule";
  if (LIST_ITEM.test(line)) return /^\s*\d/.test(line) ? "ol" : "ul";
  if (/^\s*\|/.test(line)) return "table";
  return /^ {4}/.test(line) ? "pre" : "p";
}

/**
 * Cuts a text into blocks: neighbouring lines of one kind, a fence with all it holds.
 * @param {string} source
 * @returns {Block[]}
 */
function blocksOf(source) {
  /** @type {Block[]} */
  const blocks = [];
  let fenced = false;
  let at = 0;
  for (const line of source.split("\n")) {
    const end = at + line.length;
    const last = blocks.at(-1);
    if (FENCE.test(line)) {
      if (fenced && last) last.end = end;
      else blocks.push({ kind: "fence", start: at, end });
      fenced = !fenced;
    } else if (fenced && last) {
      last.end = end;
    } else {
      const kind = kindOf(line);
      const goesOn = last && (kind === last.kind || (/^[ou]l$/.test(last.kind) && (kind === "p" || kind === "pre")));
      if (goesOn && kind !== "heading") last.end = end;
      else blocks.push({ kind, start: at, end });
    }
    at = end + 1;
  }
  return blocks.filter((block) => block.kind !== "blank" && block.kind !== "rule");
}

/** Shows a small, safe part of Markdown, and touches only the blocks that changed since the last time. */
export class MarkdownView {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    /** @type {string[]} */
    this.keys = [];
  }

  /**
   * @param {string} source
   * @param {Span[]} [spans]
   * @param {Marker} [marker]
   * @param {string} [stamp] Changes when markers have to be made anew.
   */
  update(source, spans = [], marker = () => null, stamp = "") {
    const blocks = blocksOf(source);
    const keys = blocks.map((block) => {
      const within = spans.filter((span) => span.start < block.end && span.end > block.start);
      return JSON.stringify([block.kind, source.slice(block.start, block.end), within, stamp]);
    });
    while (this.root.childNodes.length > blocks.length) this.root.lastChild?.remove();
    blocks.forEach((block, index) => {
      if (keys[index] === this.keys[index]) return;
      const node = new BlockWriter(source, spans, marker).write(block);
      const old = this.root.childNodes[index];
      if (old) old.replaceWith(node);
      else this.root.append(node);
    });
    this.keys = keys;
  }
}

class BlockWriter {
  /**
   * @param {string} source
   * @param {Span[]} spans
   * @param {Marker} marker
   */
  constructor(source, spans, marker) {
    this.source = source;
    this.spans = spans;
    this.marker = marker;
  }

  /**
   * @param {Block} block
   * @returns {Node}
   */
  write({ kind, start, end }) {
    const raw = this.source.slice(start, end);
    if (kind === "fence") {
      const inside = raw.replace(/^.*(?:\n|$)/, "").replace(/\n?\s*(?:```|~~~)\s*$/, "");
      return make("pre", {}, make("code", {}, inside));
    }
    if (kind === "pre") return make("pre", {}, make("code", {}, raw));
    if (kind === "table") return this.table(start, raw);
    if (kind === "ol" || kind === "ul") return this.list(kind, start, raw);
    const lead = kind === "heading" ? HEADING.exec(raw)?.[0].length ?? 0 : 0;
    const node = kind === "heading" ? make("p", { class: "heading" }) : make("p");
    this.inline(node, start + lead, end);
    return node;
  }

  /**
   * @param {"ol" | "ul"} kind
   * @param {number} start
   * @param {string} raw
   */
  list(kind, start, raw) {
    const list = make(kind);
    const first = /^\s*(\d+)/.exec(raw);
    if (kind === "ol" && first) list.setAttribute("start", first[1]);
    let at = start;
    /** @type {{from: number, to: number}[]} */
    const items = [];
    for (const line of raw.split("\n")) {
      const lead = LIST_ITEM.exec(line);
      const last = items.at(-1);
      if (lead) items.push({ from: at + lead[0].length, to: at + line.length });
      else if (last) last.to = at + line.length;
      at += line.length + 1;
    }
    for (const { from, to } of items) {
      const item = make("li");
      this.inline(item, from, to);
      list.append(item);
    }
    return list;
  }

  /**
   * @param {number} start
   * @param {string} raw
   */
  table(start, raw) {
    const table = make("table");
    let at = start;
    for (const line of raw.split("\n")) {
      const row = make("tr");
      for (const cell of /^[\s|:-]*$/.test(line) ? [] : line.matchAll(/[^|]+/g)) {
        if (!cell[0].trim()) continue;
        const item = make("td");
        this.inline(item, at + cell.index, at + cell.index + cell[0].length);
        row.append(item);
      }
      if (row.childNodes.length) table.append(row);
      at += line.length + 1;
    }
    return make("div", { class: "table" }, table);
  }

  /**
   * @param {HTMLElement} parent
   * @param {number} from
   * @param {number} to
   */
  inline(parent, from, to) {
    let at = from;
    for (const match of this.source.slice(from, to).matchAll(INLINE)) {
      const [whole, code, bold, number, label, address, soft] = match;
      const start = from + match.index;
      // The space before a marker must not let it slip to the next line, away from its sentence.
      const held = number !== undefined && this.source[start - 1] === " " && start > at;
      this.plain(parent, at, held ? start - 1 : start);
      at = start + whole.length;
      if (code !== undefined) parent.append(make("code", {}, code));
      else if (bold !== undefined) this.nested(parent, make("strong"), start + 2, at - 2);
      else if (soft !== undefined) this.nested(parent, make("em"), start + 1, at - 1);
      else if (number !== undefined) parent.append(this.mark(Number(number), start, whole, held));
      else if (/^https?:\/\//.test(address)) parent.append(make("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, label));
      else this.plain(parent, start + 1, start + 1 + label.length);
    }
    this.plain(parent, at, to);
  }

  /**
   * @param {number} number
   * @param {number} at
   * @param {string} whole
   * @param {boolean} held
   */
  mark(number, at, whole, held) {
    const node = this.marker(number, at) ?? whole;
    return held ? make("span", { class: "held" }, "\u202f", node) : node;
  }

  /**
   * @param {HTMLElement} parent
   * @param {HTMLElement} node
   * @param {number} from
   * @param {number} to
   */
  nested(parent, node, from, to) {
    this.inline(node, from, to);
    parent.append(node);
  }

  /**
   * @param {HTMLElement} parent
   * @param {number} from
   * @param {number} to
   */
  plain(parent, from, to) {
    let at = from;
    while (at < to) {
      const here = this.spans.filter((span) => span.start <= at && at < span.end);
      const bounds = this.spans.flatMap((span) => [span.start, span.end]).filter((bound) => bound > at);
      const next = Math.min(to, ...bounds);
      const piece = this.source.slice(at, next);
      const sources = [...new Set(here.flatMap((span) => span.sources.split(" ")))].join(" ").trim();
      const graded = here.find((span) => span.sentence);
      if (here.length) {
        const mark = make("mark", { "data-sources": sources }, piece);
        if (graded) Object.assign(mark.dataset, { sentence: graded.sentence, verdict: graded.verdict });
        parent.append(mark);
      } else {
        parent.append(piece);
      }
      at = next;
    }
  }
}
