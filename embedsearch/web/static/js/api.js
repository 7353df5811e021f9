// @ts-check
// Requests to the server; in: an address, out: its JSON, or a Problem.

import { pause } from "./dom.js";

/** @typedef {{row: number, key: string, path: string, full_path: string, width: number, height: number, score?: number | null,
 *   place?: number, metadata?: Record<string, any>, words_score?: number | null, rank_score?: number | null, [name: string]: any}} Image */
/** @typedef {{images: number, generation: number, created: string, model: string, takes_images: boolean, reads_text: boolean,
 *   words: string[], columns: Record<string, string>, version: string, dim: number}} Info */

const TRIES = 6; // of a request that the server is too busy to answer

export class Problem extends Error {
  /** @param {number} status @param {{error?: string, code?: string, field?: string, reason?: string}} answer */
  constructor(status, answer) {
    super(answer.error ?? `the server answered ${status}`);
    this.status = status;
    this.code = answer.code ?? "";
    this.field = answer.field ?? "";
    this.reason = answer.reason ?? "";
    this.name = "";
  }
}

/** Events: `offline` and `online`; `generation` whenever an answer tells of another one. */
export const server = new EventTarget();
let generation = 0;
let isAway = false;

/** @param {number} known */
export function setGeneration(known) {
  generation = known;
}

/** @param {any} answer */
function heard(answer) {
  const told = answer?.generation;
  if (typeof told !== "number" || !generation || told === generation) return;
  generation = told;
  server.dispatchEvent(new Event("generation"));
}

/** Say that the server does not answer, and ask until it does. */
export async function away() {
  if (isAway) return;
  isAway = true;
  server.dispatchEvent(new Event("offline"));
  for (;;) {
    await pause(1500);
    try {
      if ((await fetch("health")).ok) break;
    } catch {
      /* not yet */
    }
  }
  isAway = false;
  server.dispatchEvent(new Event("online"));
}

/**
 * Return the JSON of an address. Raises Problem, and AbortError where `signal` ends it.
 * @param {string} address
 * @param {{signal?: AbortSignal, body?: any}} [options] With a body it is posted, as JSON.
 * @returns {Promise<any>}
 */
export async function ask(address, { signal, body } = {}) {
  /** @type {RequestInit} */
  const request = { signal, headers: { accept: "application/json" } };
  if (body !== undefined) {
    request.method = "POST";
    request.body = JSON.stringify(body);
    request.headers = { "content-type": "application/json", accept: "application/json" };
  }
  for (let tries = 1; ; tries++) {
    let answer;
    try {
      answer = await fetch(address, request);
    } catch (error) {
      if (signal?.aborted) throw error;
      away();
      throw new Problem(0, { code: "offline" });
    }
    const values = await answer.json().catch(() => ({}));
    signal?.throwIfAborted();
    if (answer.ok) {
      heard(values);
      return values;
    }
    if (answer.status !== 503 || values.code !== "busy" || tries === TRIES) throw new Problem(answer.status, values);
    await pause(1000 * Number(answer.headers.get("retry-after") ?? 1));
    signal?.throwIfAborted();
  }
}

/**
 * Search with a file, and tell how much of it is sent.
 * @param {string} address @param {Blob} blob @param {AbortSignal} signal @param {(share: number) => void} sent
 * @returns {Promise<any>}
 */
export function upload(address, blob, signal, sent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address);
    request.setRequestHeader("content-type", blob.type.startsWith("image/") ? blob.type : "application/octet-stream");
    request.setRequestHeader("accept", "application/json");
    request.responseType = "text";
    request.upload.onprogress = (event) => sent(event.loaded / Math.max(1, event.total));
    const stop = () => request.abort();
    signal.addEventListener("abort", stop);
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    request.onerror = () => {
      away();
      reject(new Problem(0, { code: "offline" }));
    };
    request.onloadend = () => signal.removeEventListener("abort", stop);
    request.onload = () => {
      let values = {};
      try {
        values = JSON.parse(request.responseText);
      } catch {
        /* the status says enough */
      }
      if (request.status === 200) {
        heard(values);
        resolve(values);
      } else reject(new Problem(request.status, values));
    };
    request.send(blob);
  });
}

/** @param {number} row @param {number} [fill] Pixels of the shorter side. */
export const thumbnail = (row, fill = 256) => `images/${row}/thumbnail?fill=${fill}`;
