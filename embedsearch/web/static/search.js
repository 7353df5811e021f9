// Searching: the request, another try where the server is busy, and what went wrong.

import { el, pause } from "./dom.js";
import { asks, state, uploads } from "./address.js";
import { show } from "./grid.js";
import { about, TRIES } from "./store.js";

const BUSY_AFTER_MS = 150;
const FILTER_ERROR = /^(--)?where\b:? ?/;

let running = null; // the AbortController of the search

function request(signal) {
  const options = { k: state.k };
  if (state.offset) options.offset = state.offset;
  if (state.where) options.where = state.where;
  if (!asks(state)) return fetch(`images?${new URLSearchParams(options)}`, { signal });
  if (state.least > 0) options.min_score = state.least;
  if (state.upload !== null) {
    for (const name of ["crop", "like", "unlike"]) if (state[name]?.length) options[name] = state[name].join(",");
    const { blob } = uploads.get(state.upload);
    const type = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
    return fetch(`search?${new URLSearchParams(options)}`, { method: "POST", body: blob, headers: { "content-type": type }, signal });
  }
  for (const name of ["row", "crop"]) if (state[name] !== null) options[name] = state[name];
  for (const name of ["like", "unlike"]) if (state[name].length) options[name] = state[name];
  return fetch("search", { method: "POST", body: JSON.stringify(options), headers: { "content-type": "application/json" }, signal });
}

export async function search() {
  running?.abort();
  const mine = (running = new AbortController());
  el("trouble").hidden = true;
  wrongFilter("");
  if (state.upload !== null && !uploads.has(state.upload)) {
    trouble("This page no longer has the uploaded image: choose it again.", false);
    return;
  }
  const busy = setTimeout(() => { el("results").ariaBusy = "true"; el("status").textContent = "Searching …"; }, BUSY_AFTER_MS);
  try {
    for (let tries = 1; ; tries++) {
      const answer = await request(mine.signal);
      if (answer.status === 503 && tries < TRIES) {
        el("status").textContent = "The server is busy; trying again …";
        await pause(1000 * Number(answer.headers.get("retry-after") ?? 1));
        if (mine.signal.aborted) return;
        continue;
      }
      const found = await answer.json();
      if (mine.signal.aborted) return;
      if (answer.ok) show(found);
      else refused(answer.status, found.error);
      return;
    }
  } catch (error) {
    if (mine.signal.aborted) return;
    trouble("The server does not answer. This page searches again as soon as it does.");
    untilItAnswers(mine);
  } finally {
    clearTimeout(busy);
    if (mine === running) el("results").ariaBusy = "false";
  }
}

async function untilItAnswers(mine) {
  while (mine === running && !el("trouble").hidden) {
    await pause(1500);
    try {
      if ((await fetch("health")).ok && mine === running) { about(); search(); return; }
    } catch { /* not yet */ }
  }
}

function refused(status, message) {
  if (status === 400 && FILTER_ERROR.test(message)) {
    wrongFilter(message.replace(FILTER_ERROR, ""));
    show({ hits: [] }, "The filter is not valid.");
  } else if (status === 401) {
    trouble("This server requires its token: open the address that it printed when it started.", false);
  } else if (status === 404) {
    trouble("That image is no longer in the store.", false);
  } else {
    trouble(message);
  }
}

function trouble(message, again = true) {
  show({ hits: [] }, "");
  el("trouble-words").textContent = message;
  el("retry").hidden = !again;
  el("trouble").hidden = false;
}

function wrongFilter(message) {
  el("where-error").textContent = message;
  el("where").ariaInvalid = message ? "true" : "false";
}
