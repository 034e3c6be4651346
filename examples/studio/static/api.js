// @ts-check
/** What the page asks of the server, and what it says when that goes wrong. */

/** A problem document, or a lost connection. */
export class Problem extends Error {
  /** @param {Record<string, any>} document */
  constructor(document) {
    super(document.detail || "The studio could not do that.");
    this.document = document;
    /** Nobody answered: what was sent may have arrived. */
    this.lost = Boolean(document.lost);
  }
}

/**
 * @param {string} method
 * @param {string} path
 * @param {{json?: unknown, body?: Blob, headers?: Record<string, string>, signal?: AbortSignal}} [given]
 */
export async function call(method, path, { json, body, headers = {}, signal } = {}) {
  const type = json === undefined ? undefined : { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: { ...type, ...headers },
      body: json === undefined ? body : JSON.stringify(json),
      signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem({ detail: "The studio's server cannot be reached.", lost: true, charged: "unknown" });
  }
  const text = await response.text().catch(() => "");
  let content = null;
  try {
    content = text ? JSON.parse(text) : null;
  } catch {
    // A page of some server in between.
  }
  if (response.ok) return content;
  throw new Problem({ detail: `The studio answered with an error (${response.status}).`, ...content });
}

const CHARGED = /** @type {Record<string, string>} */ ({
  yes: "It was charged.",
  no: "Nothing was charged.",
  unknown: "It may have been charged: nobody can tell from here.",
});

/** What went wrong, in words, and what became of the money. @param {Record<string, any>} document */
export function inWords(document) {
  const detail = document.detail || document.title || "Something went wrong.";
  return document.charged ? `${detail} ${CHARGED[document.charged]}` : detail;
}
