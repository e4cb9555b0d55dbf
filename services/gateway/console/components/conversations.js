// @ts-check
import { send } from "../api.js";
import { make, recall, remember } from "../dom.js";
import { moment, say } from "../i18n.js";

/** @typedef {{conversation: string, title: string, time: string}} Kept */

const MOST = 50;

/** The conversations of this browser, the latest first. The server keeps what was said, and lists it to nobody. */
export function keptConversations() {
  try {
    /** @type {Kept[]} */
    const kept = JSON.parse(recall("conversations") || "[]");
    return Array.isArray(kept) ? kept : [];
  } catch (error) {
    if (error instanceof SyntaxError) return [];
    throw error;
  }
}

/** @param {Kept[]} kept */
function keep(kept) {
  remember("conversations", JSON.stringify(kept.slice(0, MOST)));
}

/**
 * Puts a conversation at the top; its first question is its title.
 * @param {string} conversation
 * @param {string} query
 */
export function noteConversation(conversation, query) {
  const kept = keptConversations();
  const known = kept.find((one) => one.conversation === conversation);
  const title = known?.title ?? query.slice(0, 120);
  const others = kept.filter((one) => one !== known);
  keep([{ conversation, title, time: new Date().toISOString() }, ...others]);
}

/**
 * @param {HTMLElement} list
 * @param {string} current
 * @param {(conversation: string) => void} open
 */
export function showConversations(list, current, open) {
  const kept = keptConversations();
  list.replaceChildren(...kept.map(({ conversation, title, time }) => {
    const name = make("button", { type: "button", class: "link" }, make("span", {}, title), make("small", {}, moment(time)));
    if (conversation === current) name.setAttribute("aria-current", "true");
    name.addEventListener("click", () => open(conversation));
    const remove = make("button", { type: "button", class: "quiet round" }, "×");
    say(remove, "forgetConversation", { name: title }, "i18nLabel");
    say(remove, "forgetConversation", { name: title }, "i18nTitle");
    remove.addEventListener("click", async () => {
      remove.disabled = true;
      try {
        await send(`/v1/conversations/${encodeURIComponent(conversation)}`, {}, "DELETE");
      } catch (error) {
        if (!(error instanceof Error && "reason" in error && error.reason === "CONVERSATION_NOT_FOUND")) {
          remove.disabled = false;
          throw error;
        }
      }
      keep(keptConversations().filter((one) => one.conversation !== conversation));
      showConversations(list, current, open);
      if (conversation === current) open("");
    });
    return make("li", {}, name, remove);
  }));
  if (!kept.length) list.append(say(make("li", { class: "note" }), "noConversations"));
}
