// @ts-check
// Rows of images of one height; in: their proportions and the room, out: where each row ends.

import { isPhone, kept } from "./dom.js";

const HEIGHTS = [112, 144, 176, 224, 288]; // of a row, at least
const PHONE_SHARE = 0.57;

/** @param {number[]} ratios @param {number} width @param {number} height @param {number} gap @returns {number[]} Ends of rows. */
export function rowsOf(ratios, width, height, gap) {
  const ends = [];
  let used = 0;
  ratios.forEach((ratio, index) => {
    const more = ratio * height + (used ? gap : 0);
    if (used && used + more > width) {
      ends.push(index);
      used = ratio * height;
    } else used += more;
  });
  if (ratios.length) ends.push(ratios.length);
  return ends;
}

/** @returns {number} */
export const sizeStep = () => Math.min(HEIGHTS.length - 1, Math.max(0, Number(kept.get("size") ?? 2)));
/** @returns {number} The least height of a row, in pixels. */
export const rowHeight = () => Math.round(HEIGHTS[sizeStep()] * (isPhone() ? PHONE_SHARE : 1));
