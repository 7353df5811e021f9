// @ts-check
// What the server says of its store. It comes with the page, and is asked for again when it changes.

import { ask, setGeneration } from "./api.js";
import { el } from "./dom.js";

/** @type {import("./api.js").Info} */
export let info = {
  images: 0,
  generation: 0,
  created: "",
  model: "",
  takes_images: true,
  reads_text: false,
  words: [],
  columns: {},
  version: "",
  dim: 0,
};

/** @param {import("./api.js").Info} known */
function use(known) {
  info = known;
  setGeneration(known.generation);
}

export async function openStore() {
  try {
    use(JSON.parse(el("info").textContent));
  } catch {
    use(await ask("info"));
  }
}

export async function askAgain() {
  use(await ask("info"));
}
