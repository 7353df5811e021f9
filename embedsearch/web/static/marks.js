// Images that are marked as like or unlike.

import { el } from "./dom.js";
import { state } from "./address.js";

export const marks = new Map(); // row → "like" or "unlike"

export function readMarks() {
  marks.clear();
  for (const row of state.like) marks.set(row, "like");
  for (const row of state.unlike) marks.set(row, "unlike");
}

export function mark(row, kind) {
  if (marks.get(row) === kind) marks.delete(row);
  else marks.set(row, kind);
  const item = document.querySelector(`#grid li[data-row="${row}"]`);
  if (item) { // it may be on another page
    item.className = marks.get(row) ?? "";
    for (const button of item.querySelectorAll("button[aria-pressed]")) button.ariaPressed = String(marks.get(row) === button.dataset.mark);
  }
  showMarks();
}

export const marked = (kind) => [...marks].filter(([, mine]) => mine === kind).map(([row]) => row);

export function showMarks() {
  const [like, unlike] = [marked("like"), marked("unlike")];
  el("marks").hidden = !marks.size;
  el("marks-words").textContent = `${like.length} marked as like, ${unlike.length} as unlike.`;
  el("again").disabled = !like.length && state.row === null && state.upload === null;
}
