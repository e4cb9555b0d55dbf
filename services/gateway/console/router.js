// @ts-check
import { make } from "./dom.js";

/**
 * A page that is made when it is opened. What it starts (watching, asking again and again) ends with its signal.
 * @typedef {(root: HTMLElement, name: string, signal: AbortSignal) => Promise<void> | void} Page
 */

/** @type {Map<string, Page>} */
const pages = new Map();
let opened = new AbortController();

/** Where the address says we are: `#/collections/manuals` is the page collections, and manuals on it. */
export function place() {
  const [, page = "", ...name] = location.hash.startsWith("#/") ? location.hash.split("/") : [];
  return { page: pages.has(page) ? page : "chat", name: decodeURIComponent(name.join("/")) };
}

/** @param {string} page */
export function isOpen(page) {
  return place().page === page;
}

/**
 * @param {string} page
 * @param {string} [name]
 */
export function addressOf(page, name = "") {
  return name ? `#/${page}/${encodeURIComponent(name)}` : `#/${page}`;
}

/**
 * @param {HTMLElement} chat
 * @param {HTMLElement} root
 */
async function open(chat, root) {
  const { page, name } = place();
  opened.abort();
  opened = new AbortController();
  document.body.dataset.page = page;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.getAttribute("href") === addressOf(page);
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  chat.hidden = page !== "chat";
  root.hidden = page === "chat";
  root.scrollTop = 0;
  // Each page has a room of its own: one that was left while it loaded writes nothing into the next.
  const room = make("div", { class: "page" });
  root.replaceChildren(room);
  await pages.get(page)?.(room, name, opened.signal);
}

/**
 * Shows what the address says, now and whenever it changes.
 * @param {HTMLElement} chat The page of the conversation, which stays as it is while others are open.
 * @param {HTMLElement} root Where the others are made.
 * @param {Record<string, Page>} known
 * @param {(problem: unknown) => void} failed
 */
export function startRouter(chat, root, known, failed) {
  for (const [name, page] of Object.entries(known)) pages.set(name, page);
  const show = () => void open(chat, root).catch(failed);
  addEventListener("hashchange", () => {
    show();
    // The reader of the screen goes on from the new page's title.
    root.querySelector("h1")?.focus();
  });
  show();
}
