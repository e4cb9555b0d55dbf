// @ts-check
/**
 * The shapes of protos/penstock, as far as this page reads them. Numbers of 64 bits arrive as strings.
 * @typedef {{collection: string, document: string, chunk: string, text: string, title: string, relevance: number}} Hit
 * @typedef {{number: number, start: number, end: number, support: number}} Citation
 * @typedef {{assignment: string, experiment: string, variant: string}} Assignment
 * @typedef {{code?: number | string, message?: string, details?: Record<string, any>[]}} Status
 * @typedef {{hits?: Hit[], variant?: string, assignment?: Assignment, request_id?: string, mode?: string, mode_note?: string}} Sources
 * @typedef {{input_tokens?: string, output_tokens?: string, source?: string}} Usage
 * @typedef {{retrieval?: string, first_token?: string, total?: string}} Timings
 * @typedef {{start: number, end: number, verdict: string, score?: number, vetoes?: string[], number?: number}} GradedSentence
 * @typedef {{score?: number, sentences?: GradedSentence[], by_meaning?: boolean}} Groundedness
 * @typedef {{groundedness?: Groundedness, finish_reason?: string, usage?: Usage, model?: string, engine?: string, variant?: string, timings?: Timings, error?: Status}} Finished
 * @typedef {{sources?: Sources, token?: {text?: string}, citation?: Citation, finished?: Finished}} AnswerEvent
 * @typedef {{query: string, text?: string, sources?: Hit[], citations?: Citation[], model?: string, complete?: boolean}} Turn
 * @typedef {{collection: string, description?: string, document_count?: string}} Collection
 * @typedef {{model: string, engine: string, capabilities?: string[], state?: string, description?: string, is_auto?: boolean}} Model
 * @typedef {{document?: string, title?: string, text?: string, data?: string, media_type?: string}} DocumentInput
 */

/** A call that failed, in the words of the server. `reason` is an ErrorReason, or what this page saw itself. */
export class ApiError extends Error {
  /**
   * @param {string} reason
   * @param {string} message
   * @param {string} requestId
   */
  constructor(reason, message, requestId = "") {
    super(message);
    this.reason = reason;
    this.requestId = requestId;
  }

  /**
   * @param {Status} status
   * @param {string} [requestId]
   */
  static fromStatus(status, requestId = "") {
    /** @param {string} name */
    const detail = (name) => (status.details ?? []).find((one) => String(one["@type"]).endsWith(name));
    const info = detail("google.rpc.ErrorInfo");
    const reason = info?.reason ?? `CODE_${status.code ?? "UNKNOWN"}`;
    const id = detail("google.rpc.RequestInfo")?.request_id ?? info?.metadata?.request_id ?? requestId;
    return new ApiError(reason, status.message ?? "", id);
  }
}

/** Where the gateway demands an API key: kept as long as the tab, and given to this origin only. */
let apiKey = "";
try {
  apiKey = sessionStorage.getItem("penstock.key") ?? "";
} catch {
  // Storage is forbidden: the key is asked for after each loading.
}

/** @param {string} key */
export function useApiKey(key) {
  apiKey = key;
  try {
    sessionStorage.setItem("penstock.key", key);
  } catch {
    // As above.
  }
}

/**
 * @param {string} path
 * @param {RequestInit} [init]
 */
async function request(path, init = {}) {
  const headers = new Headers(init.headers);
  if (apiKey) headers.set("authorization", `Bearer ${apiKey}`);
  let response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("UNREACHABLE", "");
  }
  if (response.ok) return response;
  const requestId = response.headers.get("x-request-id") ?? "";
  const body = await response.text();
  let status;
  try {
    status = JSON.parse(body);
  } catch {
    throw new ApiError(`HTTP_${response.status}`, body.slice(0, 300), requestId);
  }
  throw ApiError.fromStatus(status, requestId);
}

/**
 * @param {string} path
 * @returns {Promise<any>}
 */
export async function get(path) {
  return (await request(path)).json();
}

/**
 * @param {unknown} body
 * @param {Record<string, string>} [headers]
 * @returns {RequestInit}
 */
export function posting(body, headers = {}) {
  return { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) };
}

/**
 * Calls and gives the JSON of the response.
 * @param {string} path
 * @param {unknown} [body]
 * @param {string} [method]
 * @returns {Promise<any>}
 */
export async function send(path, body = {}, method = "POST") {
  const init = method === "DELETE" ? { method } : { ...posting(body), method };
  return (await request(path, init)).json();
}

/**
 * Sends a file as it is.
 * @param {string} path
 * @param {Blob} file
 * @param {string} type Its media type.
 * @returns {Promise<any>}
 */
export async function upload(path, file, type) {
  const headers = { "content-type": type || "application/octet-stream" };
  return (await request(path, { method: "POST", headers, body: file })).json();
}

/** @returns {Promise<Collection[]>} */
export async function listCollections() {
  return (await get("/v1/collections?page_size=250")).collections ?? [];
}

/** @returns {Promise<Model[]>} */
export async function listModels() {
  return (await get("/v1/models")).models ?? [];
}

/**
 * @param {string} conversation
 * @returns {Promise<Turn[]>} None where the server does not know the conversation.
 */
export async function conversationTurns(conversation) {
  try {
    return (await get(`/v1/conversations/${encodeURIComponent(conversation)}`)).conversation?.turns ?? [];
  } catch (error) {
    if (error instanceof ApiError && error.reason === "CONVERSATION_NOT_FOUND") return [];
    throw error;
  }
}

/** @param {string} collection */
export async function createCollection(collection) {
  await request("/v1/collections", posting({ collection }));
}

/**
 * @param {string} collection
 * @param {DocumentInput} document
 * @returns {Promise<{title?: string, document: string, state?: string, chunk_count?: number}>}
 */
export async function addDocument(collection, document) {
  const path = `/v1/collections/${encodeURIComponent(collection)}/documents`;
  const response = await request(path, posting({ documents: [document] }));
  return (await response.json()).documents[0];
}

/**
 * @param {string} outcome Idempotency key: a vote repeated under it counts once.
 * @param {string} assignment
 * @param {number} value 1 for a thumb up, 0 for a thumb down.
 */
export async function recordThumb(outcome, assignment, value) {
  await request("/v1/outcomes", posting({ outcomes: [{ outcome, assignment, metric: "thumbs_up", value }] }));
}

/**
 * Says how good an answer was; what routes requests to models learns from it.
 * @param {string} request Id of the request that was answered.
 * @param {number} reward From 0 to 1.
 */
export async function recordFeedback(request, reward) {
  await send("/v1/feedback", { request_id: request, reward });
}

/**
 * Asks, and gives the answer's events as they arrive.
 * @param {{collections: string[], query: string, conversation: string, user: string, model: string}} question
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<AnswerEvent>}
 */
export function streamAnswer(question, signal) {
  return events("/v1/answer:stream", { ...posting(question), signal });
}

/**
 * A call's server-sent events as they arrive. EventSource can neither POST nor send a key, so the stream is read here.
 * @param {string} path
 * @param {RequestInit} init
 * @returns {AsyncGenerator<any>}
 */
export async function* events(path, init = {}) {
  const headers = { ...init.headers, accept: "text/event-stream" };
  const { body } = await request(path, { ...init, headers });
  if (!body) return;
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const event = JSON.parse(line.slice(5));
        if (event.code !== undefined && event.message !== undefined) throw ApiError.fromStatus(event);
        yield event;
      }
    }
  } catch (error) {
    // The connection was lost, or what came is no JSON.
    if (error instanceof TypeError || error instanceof SyntaxError) throw new ApiError("BROKEN_OFF", "");
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}
