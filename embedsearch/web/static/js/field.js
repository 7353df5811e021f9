// @ts-check
// The search field: words, SQL that is recognized, and photos that are pasted, dropped or chosen.

import { away } from "./api.js";
import { isCondition } from "./conditions.js";
import { el } from "./dom.js";
import { notice } from "./notices.js";
import { queryName } from "./query.js";
import { go, hasPicture, NO_QUERY, searches, state, stepsOn } from "./state.js";
import { info } from "./store.js";

/** @param {File} file */
const take = (file) => import("./photo.js").then((module) => module.take(file), away);

function searchWords() {
  const text = el("words").value.trim();
  if (text && isCondition(text, info.columns)) {
    el("words").value = state.text;
    go({ view: "images", where: [...state.where, text], group: "" });
  } else if (hasPicture(state))
    go({ view: "images", text, group: "" }); // the picture stays: both are looked for
  else go({ ...NO_QUERY, view: "images", text }, { steps: text && searches(state) ? stepsOn(state.text) : [] });
}

/** @param {boolean} isNew Whether its words are those of another search now. */
export function showField(isNew) {
  if (isNew) el("words").value = state.text;
  const what = info.reads_text
    ? "Describe a picture"
    : info.words.some((column) => !["path", "camera"].includes(column))
      ? "Search captions and file names"
      : "Search file names";
  el("words").placeholder = info.takes_images ? `${what}, or drop a photo` : what;
  el("choose").hidden = !info.takes_images;
}

/** @param {any} target */
const isInput = (target) => target?.matches?.("input, textarea") ?? false;

/** @param {DataTransfer | null} carried @returns {File | null} The first file that may be an image. */
function fileOf(carried) {
  const files = [...(carried?.files ?? [])];
  if (files.length > 1) notice("Only the first of these files is searched for.");
  return files.find((file) => file.type.startsWith("image/")) ?? files[0] ?? null;
}

export function bindField() {
  el("field").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    searchWords();
  });
  el("words").addEventListener("search", () => {
    if (!el("words").value && state.text) searchWords();
  });
  el("choose").addEventListener("click", () => el("file").click());
  el("file").addEventListener("change", () => {
    if (el("file").files[0]) take(el("file").files[0]);
    el("file").value = "";
  });
  addEventListener("paste", (event) => {
    const isText = isInput(event.target) && event.clipboardData?.types.includes("text/plain");
    const file = isText ? null : fileOf(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    take(file);
  });
  addEventListener("dragover", (event) => {
    if (!isInput(event.target) || event.dataTransfer?.types.includes("Files")) event.preventDefault();
    document.body.classList.toggle("dropping", Boolean(event.dataTransfer?.types.includes("Files")));
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    if (isInput(event.target) && !event.dataTransfer?.files.length) return; // text for the field
    event.preventDefault();
    document.body.classList.remove("dropping");
    const file = fileOf(event.dataTransfer);
    const row = /#.*\bopen=(\d{1,12})/.exec(event.dataTransfer?.getData("text/uri-list") ?? "")?.[1];
    if (row)
      go({ ...NO_QUERY, view: "images", row: Number(row) }, { steps: stepsOn(queryName()) }); // a tile of this page
    else if (file) take(file);
    else notice("That is not a file. Save the picture first, then drop the file here.");
  });
}
