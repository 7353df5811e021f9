// @ts-check
// The search field: words, SQL that is recognized, and photos that are pasted, dropped or chosen.

import { isCondition } from "./conditions.js";
import { el } from "./dom.js";
import { notice } from "./notices.js";
import { queryName } from "./query.js";
import { go, hasPicture, NO_QUERY, searches, state, stepsOn } from "./state.js";
import { info } from "./store.js";
import { explain } from "./words.js";

/** @param {File} file Search for a photo. */
export async function take(file) {
  if (!info.takes_images) return notice(explain({ code: "no_network" }));
  const { keepUpload } = await import("./uploads.js");
  const steps = stepsOn(queryName() || state.text);
  const { id } = await keepUpload(file);
  return go({ ...NO_QUERY, view: "images", upload: id }, { steps });
}

function searchWords() {
  const text = el("words").value.trim();
  if (text && isCondition(text, info.columns)) {
    el("words").value = state.text;
    go({ view: "images", where: [...state.where, text], group: "" });
  } else if (hasPicture(state))
    go({ view: "images", text, group: "" }); // the picture stays: both are looked for
  else go({ ...NO_QUERY, view: "images", text }, { steps: text && searches(state) ? stepsOn(state.text) : [] });
}

export function showField() {
  if (document.activeElement !== el("words") || !el("words").value) el("words").value = state.text;
  const what = info.reads_text
    ? "Describe a picture"
    : info.words.some((column) => !["path", "camera"].includes(column))
      ? "Search captions and file names"
      : "Search file names";
  el("words").placeholder = info.takes_images ? `${what}, or drop a photo` : what;
  el("choose").hidden = !info.takes_images;
}

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
    const file = fileOf(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    take(file);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", Boolean(event.dataTransfer?.types.includes("Files")));
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
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
