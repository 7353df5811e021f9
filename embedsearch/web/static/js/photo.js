// @ts-check
// Searches for an uploaded photo; in: a file, out: the images like it, in this page's state.

import { server, upload } from "./api.js";
import { Latest } from "./dom.js";
import { notice, progress, trouble } from "./notices.js";
import { queryName } from "./query.js";
import { parameters, sourceOf } from "./source.js";
import { go, NO_QUERY, state, stepsOn, written } from "./state.js";
import { info } from "./store.js";
import { findUpload, keepUpload } from "./uploads.js";
import { explain } from "./words.js";

const SENT_FOR = 240; // images that a photo is sent for at once
const taking = new Latest();

/** @param {File} file Search for a photo. */
export async function take(file) {
  if (!info.takes_images) return notice(explain({ code: "no_network" }));
  const signal = taking.next();
  trouble(null);
  try {
    const { id } = await keepUpload(file);
    signal.throwIfAborted();
    await tryPhoto({ ...state, ...NO_QUERY, view: "images", open: null, upload: id }, signal, progress);
    signal.throwIfAborted();
    go({ ...NO_QUERY, view: "images", upload: id }, { steps: stepsOn(queryName() || state.text) });
  } catch (problem) {
    if (!signal.aborted) trouble(problem, () => take(file));
  } finally {
    if (!signal.aborted) progress(-1);
  }
  return undefined;
}

/** @type {{query: string, base: number, answer: any} | null} The last answer to a photo, which is sent once for several pages. */
let last = null;
server.addEventListener("generation", () => {
  last = null;
});

/**
 * Search for a photo before anything is shown: one that fails changes nothing.
 * @param {import("./state.js").State} next @param {AbortSignal} signal @param {(share: number) => void} sent
 */
const tryPhoto = (next, signal, sent) => sourceOf(next, sent)(0, 1, signal);

/** @param {import("./state.js").State} state @param {Record<string, any>} options @param {AbortSignal} signal @param {(share: number) => void} sent */
export async function byPhoto(state, options, signal, sent) {
  const { offset, k, histogram: _, ...rest } = options;
  const base = Math.floor(offset / SENT_FOR) * SENT_FOR;
  const query = written({ ...state, open: null });
  if (last?.query !== query || last.base !== base) {
    const wanted = { ...rest, k: SENT_FOR, offset: base, histogram: base === 0 };
    last = { query, base, answer: await send(state, wanted, signal, base ? () => {} : sent) };
  }
  return { ...last.answer, hits: last.answer.hits.slice(offset - base, offset - base + k) };
}

/** @param {import("./state.js").State} state @param {Record<string, any>} options @param {AbortSignal} signal @param {(share: number) => void} sent */
async function send(state, options, signal, sent) {
  const kept = await findUpload(/** @type {number} */ (state.upload));
  signal.throwIfAborted();
  if (!kept) throw Object.assign(new Error("the photo is not here"), { code: "upload_gone" });
  const marks = { crop: state.crop, like: state.like, unlike: state.unlike };
  for (const [name, value] of Object.entries(marks)) if (value?.length) options[name] = value.join(",");
  try {
    return await upload(`search?${parameters(options)}`, kept.blob, signal, sent);
  } catch (problem) {
    throw Object.assign(/** @type {Error} */ (problem), { name: kept.name });
  }
}
