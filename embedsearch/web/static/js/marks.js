// @ts-check
// Images that are marked as like or unlike. They stay until they are cleared, whatever is searched
// for meanwhile, also after a reload.

import { kept } from "./dom.js";

/** @typedef {{row: number, kind: "like" | "unlike", key: string}} Mark */
/** @type {Map<number, Mark>} */
const marks = new Map();
/** @type {() => void} */
let changed = () => {};

/** @param {() => void} listener */
export function onMarks(listener) {
  changed = listener;
}

function keep() {
  kept.set("marks", [...marks.values()]);
  changed();
}

/** @param {{like: number[], unlike: number[]}} searched What an address marks, if it does: then only that is marked. */
export function readMarks({ like, unlike }) {
  const known = new Map(marks);
  if (like.length || unlike.length) marks.clear();
  else if (!marks.size) {
    for (const mark of kept.get("marks") ?? []) {
      if (Number.isInteger(mark?.row) && (mark.kind === "like" || mark.kind === "unlike")) marks.set(mark.row, mark);
    }
  }
  for (const [rows, kind] of /** @type {[number[], "like" | "unlike"][]} */ ([
    [like, "like"],
    [unlike, "unlike"],
  ])) {
    for (const row of rows) marks.set(row, { row, kind, key: known.get(row)?.key ?? "" });
  }
  keep();
}

/** @param {{row: number, key: string}} image @param {"like" | "unlike"} kind */
export function mark({ row, key }, kind) {
  if (marks.get(row)?.kind === kind) marks.delete(row);
  else marks.set(row, { row, kind, key });
  keep();
}

/** @param {number} row */
export const markOf = (row) => marks.get(row)?.kind ?? "";
/** @param {string} kind @returns {number[]} */
export const marked = (kind) => [...marks.values()].filter((mark) => mark.kind === kind).map((mark) => mark.row);
export const allMarks = () => [...marks.values()];

export function clearMarks() {
  marks.clear();
  keep();
}
