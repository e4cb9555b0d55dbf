// @ts-check
import { Answer } from "../components/answer.js";
import { ApiError, conversationTurns, streamAnswer } from "../api.js";
import { element, make, randomId, recall, remember } from "../dom.js";
import { say, text } from "../i18n.js";
import { noteConversation, showConversations } from "../components/conversations.js";
import { clearSources } from "../components/sources.js";

const turns = element("turns", HTMLDivElement);
const scroll = element("scroll", HTMLDivElement);
const live = element("live", HTMLDivElement);
const question = element("question", HTMLTextAreaElement);
const send = element("send", HTMLButtonElement);
const stopButton = element("stop", HTMLButtonElement);

/** @type {AbortController | null} */
let running = null;
/** @type {() => {collection: string, model: string}} */
let choice = () => ({ collection: "", model: "" });

function conversation() {
  const id = recall("conversation") || randomId();
  remember("conversation", id);
  return id;
}

function user() {
  const id = recall("user") || randomId();
  remember("user", id);
  return id;
}

/** The element that scrolls: the talk on a wide page, the page itself on a phone. */
function scroller() {
  return getComputedStyle(scroll).overflowY === "auto" ? scroll : document.documentElement;
}

function atEnd() {
  const box = scroller();
  return box.scrollHeight - box.scrollTop - box.clientHeight < 120;
}

/** On a phone the sources stand below the talk, so the end of the talk is brought into view, not the end of the page. */
function followEnd() {
  const box = scroller();
  if (box === scroll) box.scrollTop = box.scrollHeight;
  else turns.lastElementChild?.scrollIntoView({ block: "end" });
}

/**
 * @param {string} query
 * @param {Answer} answer
 */
function addTurn(query, answer) {
  const asked = make("div", { class: "asked" }, say(make("h2", { class: "unseen" }), "you"), make("p", {}, query));
  turns.append(make("section", { class: "turn" }, asked, answer.element));
  document.body.classList.add("talking");
}

/** @param {boolean} busy */
function setBusy(busy) {
  send.hidden = busy;
  stopButton.hidden = !busy;
  focusQuestion();
}

/** Where a touch screen is the keyboard, focus would cover half the page with it. */
export function focusQuestion() {
  if (matchMedia("(pointer: fine)").matches) question.focus();
}

export function isAnswering() {
  return running !== null;
}

/** @param {string} query */
export async function ask(query) {
  if (running) return;
  const { collection, model } = choice();
  const answer = new Answer(collection, () => void ask(query));
  addTurn(query, answer);
  setBusy(true);
  followEnd();
  running = new AbortController();
  const { signal } = running;
  try {
    noteConversation(conversation(), query);
    const asked = { collections: [collection], query, conversation: conversation(), user: user(), model };
    let finished = null;
    for await (const event of streamAnswer(asked, signal)) {
      const follow = atEnd();
      if (event.finished) finished = event.finished;
      else answer.accept(event);
      if (follow) requestAnimationFrame(followEnd);
    }
    if (!finished) throw new ApiError("BROKEN_OFF", "");
    answer.finish(finished);
    live.textContent = answer.body.textContent || text("answerDone");
  } catch (error) {
    if (signal.aborted) answer.stop();
    else if (error instanceof ApiError) answer.fail(error);
    else throw error;
  } finally {
    running = null;
    setBusy(false);
    requestAnimationFrame(followEnd);
  }
}

export function stop() {
  running?.abort();
}

export function startConversation() {
  stop();
  remember("conversation", "");
  turns.replaceChildren();
  live.textContent = "";
  document.body.classList.remove("talking");
  clearSources();
  focusQuestion();
}

/**
 * Shows the conversation that this browser was in, as the server keeps it.
 * @param {typeof choice} currentChoice
 */
export async function resume(currentChoice) {
  choice = currentChoice;
  if (!recall("conversation")) return;
  let last = null;
  for (const turn of await conversationTurns(conversation())) {
    last = new Answer("", () => void ask(turn.query));
    last.restore(turn);
    addTurn(turn.query, last);
  }
  last?.show();
  followEnd();
}

/** @param {string} id Empty for a new one. */
async function openConversation(id) {
  startConversation();
  remember("conversation", id);
  await resume(choice);
}

/**
 * Fills the list of conversations each time it is opened.
 * @param {(error: unknown) => void} failed
 */
export function startHistory(failed) {
  const panel = element("history", HTMLDivElement);
  const list = element("conversations", HTMLUListElement);
  panel.addEventListener("beforetoggle", (event) => {
    if (/** @type {ToggleEvent} */ (event).newState !== "open") return;
    showConversations(list, recall("conversation"), (id) => {
      if (id) panel.hidePopover();
      openConversation(id).catch(failed);
    });
  });
}
