// @ts-check
// Where the images of the grid come from; in: a state, out: pages of images.

import { ask } from "./api.js";
import { joined } from "./conditions.js";
import { searches } from "./state.js";

/** @typedef {import("./api.js").Image} Image */
/** @typedef {{items: Image[], total: number, isExact: boolean, scores: Scores | null, reach: number}} Page reach: images that can be fetched */
/** @typedef {{low: number, step: number, counts: number[], exact: boolean, sampled: number}} Scores */

export const MOST = 10_000; // images that a search shows
const NEWEST = "-taken_at"; // images without a date come last
const COPIES = 0.98; // cosine from which a picture counts as a copy of one before it

/**
 * Return a function that fetches `k` images from a place on.
 * @param {import("./state.js").State} state
 * @param {(share: number) => void} sent
 * @returns {(offset: number, k: number, signal: AbortSignal) => Promise<Page>}
 */
export function sourceOf(state, sent) {
  const where = joined(state.where);
  if (state.group) return (offset, k, signal) => listed(groupAddress(state.group, offset, k), offset, signal);
  if (!searches(state))
    return (offset, k, signal) =>
      listed(`images?${parameters({ k, offset, where, order: state.order || NEWEST })}`, offset, signal);
  let own = Infinity; // the place of the image that is searched for: it is not shown
  return async (offset, k, signal) => {
    const wanted = Math.min(k, MOST - offset);
    if (wanted <= 0) return { items: [], total: 0, isExact: true, scores: null, reach: offset };
    const options = {
      k: wanted,
      offset,
      where,
      min_score: state.least,
      collapse: state.hide ? COPIES : null,
      text: state.text,
      histogram: offset === 0 && state.upload !== null,
    };
    const found =
      state.upload === null
        ? await byRow(state, options, signal)
        : await (await import("./photo.js")).byPhoto(state, options, signal, sent);
    const items = [];
    for (const [index, hit] of found.hits.entries()) {
      if (hit.row === state.row && !state.crop) own = offset + index;
      else items.push({ ...hit, place: offset + index - (own < offset + index ? 1 : 0) });
    }
    const reach = found.hits.length < wanted ? offset + found.hits.length : Math.min(MOST, found.total);
    const total = found.total - (own < Infinity ? 1 : 0);
    return { items, total, isExact: found.total_is_exact !== false, scores: found.scores ?? null, reach };
  };
}

/**
 * Return how similar all images are; asked for once the first of them are there.
 * @param {import("./state.js").State} state @param {AbortSignal} signal @returns {Promise<Scores | null>}
 */
export async function scoresOf(state, signal) {
  const found = await byRow(state, { k: 1, where: joined(state.where), text: state.text, histogram: true }, signal);
  return found.scores;
}

/** @param {string} group @param {number} offset @param {number} k */
const groupAddress = (group, offset, k) =>
  group === "outliers" ? `outliers?k=${k}&offset=${offset}` : `groups/${group}?k=${k}&offset=${offset}`;

/** @param {string} address @param {number} offset @param {AbortSignal} signal @returns {Promise<Page>} */
async function listed(address, offset, signal) {
  const found = await ask(address, { signal });
  const items = found.images.map((/** @type {Image} */ image, /** @type {number} */ index) => ({
    ...image,
    place: offset + index,
  }));
  return { items, total: found.total, isExact: true, scores: null, reach: found.total };
}

/** @param {Record<string, any>} values @returns {URLSearchParams} What is not empty. */
export function parameters(values) {
  const given = Object.entries(values).filter(
    ([, value]) => value !== null && value !== "" && value !== false && value !== 0,
  );
  return new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
}

/** @param {import("./state.js").State} state @param {Record<string, any>} options @param {AbortSignal} signal */
function byRow(state, options, signal) {
  const body = Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== null && value !== "" && value !== false),
  );
  if (state.row !== null) body.row = state.row;
  if (state.crop) body.crop = state.crop;
  if (state.like.length) body.like = state.like;
  if (state.unlike.length) body.unlike = state.unlike;
  return ask("search", { body, signal });
}
