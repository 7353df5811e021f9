// @ts-check
// Images that are selected, and the bar with what can be done with them.

import { el, fill, icon, make } from "./dom.js";
import { go, NO_QUERY, stepsOn } from "./state.js";
import { number } from "./words.js";

/** @typedef {import("./api.js").Image} Image */

const MOST = 1000; // images of one export
/** @type {Map<number, Image>} */
const picked = new Map();
/** @type {number | null} The last one that was selected, for Shift. */
let last = null;
/** @type {() => void} */
let changed = () => {};
/** @type {(words: string) => void} */
let say = () => {};

/** @param {() => void} listener @param {(words: string) => void} notice */
export function onPicked(listener, notice) {
  changed = listener;
  say = notice;
}

/** @param {number} row */
export const isPicked = (row) => picked.has(row);

/** @param {Image} image @param {Image[]} [all] With Shift: up to it, among these. */
export function pick(image, all) {
  const from = all?.findIndex(({ row }) => row === last) ?? -1;
  const to = all?.findIndex(({ row }) => row === image.row) ?? -1;
  if (all && from >= 0 && to >= 0) {
    for (const one of all.slice(Math.min(from, to), Math.max(from, to) + 1)) picked.set(one.row, one);
  } else if (picked.has(image.row)) picked.delete(image.row);
  else picked.set(image.row, image);
  last = image.row;
  show();
}

/** @param {Image[]} images */
export function pickAll(images) {
  for (const image of images) picked.set(image.row, image);
  show();
}

export function pickNone() {
  picked.clear();
  last = null;
  show();
}

function show() {
  const rows = [...picked.keys()];
  document.body.classList.toggle("picking", rows.length > 0);
  el("selection").hidden = !rows.length;
  changed();
  if (!rows.length) return;
  const button = (/** @type {string} */ label, /** @type {string} */ sign, /** @type {() => void} */ onclick) =>
    make("button", { type: "button", onclick }, icon(sign), label);
  const file = (/** @type {string} */ label, /** @type {string} */ kind) =>
    rows.length > MOST
      ? null
      : make(
          "a",
          { className: "button", href: `export/${kind}?rows=${rows.join(",")}`, download: `images.${kind}` },
          icon("download"),
          label,
        );
  fill(
    el("selection"),
    make("strong", { role: "status" }, `${number(rows.length)} selected`),
    rows.length <= 100 && button("Like these", "similar", likeThese),
    button("Copy paths", "copy", copyPaths),
    file("CSV", "csv"),
    file("Zip", "zip"),
    make("button", { type: "button", "aria-label": "Clear the selection", onclick: pickNone }, icon("close")),
  );
}

function likeThese() {
  const rows = [...picked.keys()];
  const steps = stepsOn("");
  pickNone();
  go({ ...NO_QUERY, view: "images", like: rows.slice(0, 100) }, { steps });
}

async function copyPaths() {
  await copy([...picked.values()].map(({ full_path: path }) => path).join("\n"), `${number(picked.size)} paths copied`);
}

/** @param {string} text @param {string} done What is said then. */
export async function copy(text, done) {
  try {
    await navigator.clipboard.writeText(text);
    say(done);
  } catch {
    // not allowed, or no https beyond this machine
    const box = make("textarea", { value: text, readOnly: true, className: "unseen" });
    (document.querySelector("dialog[open]") ?? document.body).append(box);
    box.select();
    const isCopied = document.execCommand("copy");
    box.remove();
    say(isCopied ? done : text);
  }
}
