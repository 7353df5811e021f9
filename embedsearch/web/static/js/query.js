// @ts-check
// The strip under the bar while a search runs: its picture, how it came about, marks, least similarity.

import { ask, thumbnail } from "./api.js";
import { el, icon, Latest, make } from "./dom.js";
import { allMarks, clearMarks, mark as toggle, marked } from "./marks.js";
import { go, hasPicture, NO_QUERY, retrace, searches, state, trail } from "./state.js";
import { baseName, images, spoken } from "./words.js";

const latest = new Latest();
/** @type {string} What the picture of the query is called. */
let name = "";
/** @type {() => void} */
let named = () => {};

/** @param {() => void} listener Called once the name of the query is known. */
export function onNamed(listener) {
  named = listener;
}

/** @returns {string} What is searched for, in words. */
export function queryWords() {
  const words = state.text ? `“${state.text}”` : "";
  if (state.row === null && state.upload === null) {
    if (state.like.length)
      return `Like ${images(state.like.length, "marked image", "marked images")}${words && ` with ${words}`}`;
    return words;
  }
  return `Like “${name ? spoken(name) : "…"}”${words && ` with ${words}`}`;
}

export const queryName = () => name;

let cutsNext = false;
/** Begin to cut the picture of the next query, once it is known. */
export const cutNext = () => {
  cutsNext = true;
};

/** @type {any} */
let crop = null; // its module, once a picture is searched for

async function openCrop() {
  const module = await import("./crop.js");
  if (!crop) module.bindCrop();
  crop = module;
}

export async function showQuery() {
  const signal = latest.next();
  const { row, upload } = state;
  el("query").hidden = !searches(state);
  el("least").hidden = !hasPicture(state);
  if (!searches(state)) {
    crop?.endCut();
    name = "";
    return;
  }
  showTrail();
  showMarks();
  name = "";
  title();
  const at = row ?? (upload === null ? (state.like[0] ?? null) : null);
  el("crop").hidden = at === null && upload === null;
  el("part").hidden = row === null && upload === null;
  if (at === null && upload === null) {
    crop?.endCut();
    return;
  }
  if (!crop) await openCrop();
  if (signal.aborted) return;
  if (at !== null) {
    crop.setPicture(thumbnail(at), null); // nothing of the query before stays
    if (row === null) return;
    const record = await ask(`images/${row}`, { signal }).catch(() => null);
    if (signal.aborted) return;
    if (!record) {
      name = `image ${row}`;
      title();
      return;
    }
    name = baseName(record.key);
    keepKey(record.key);
    crop.setPicture(`images/${row}/thumbnail?side=512`, record.width ? [record.width, record.height] : null);
  } else if (upload !== null) {
    const { findUpload } = await import("./uploads.js");
    const found = await findUpload(upload);
    if (signal.aborted) return;
    name = found?.name ?? "uploaded photo";
    crop.setPicture(found?.url ?? "", found?.width ? [found.width, found.height] : null);
  }
  title();
  crop.showCut();
  if (cutsNext && !el("part").disabled) el("part").click();
  cutsNext = false;
}

/** @param {string} key Kept with the entry of the history: rows change when a store is made again. */
function keepKey(key) {
  if (history.state?.key !== key) history.replaceState({ ...history.state, key }, "");
}

function title() {
  el("query-title").textContent = queryWords();
  named();
}

/** @param {number | null} id @returns {Promise<string>} */
async function sourceOfUpload(id) {
  if (id === null) return "";
  const { findUpload } = await import("./uploads.js");
  return (await findUpload(id))?.url ?? "";
}

function showTrail() {
  const steps = trail.map((step, index) => {
    const what = step.name ? spoken(step.name) : "a search before";
    const blank = make("span", { className: "blank" }, what);
    const face = make("img", { alt: "", onerror: () => face.replaceWith(blank) });
    if (step.row !== null) face.src = thumbnail(step.row);
    else
      sourceOfUpload(step.upload).then((url) => {
        if (url) face.src = url;
        else face.replaceWith(blank);
      });
    const link = make("a", { href: step.fragment, title: what, "aria-label": `Back to ${what}` }, face);
    link.onclick = (/** @type {MouseEvent} */ event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      retrace(index);
    };
    return make("li", {}, link, "›");
  });
  el("trail").replaceChildren(...steps, ...(steps.length ? [make("li", { "aria-current": "step" }, "this one")] : []));
}

export function showMarks() {
  const marks = allMarks();
  const chips = marks.map((mark) => {
    const sign = mark.kind === "like" ? "+" : "−";
    const label = `${mark.kind === "like" ? "Like" : "Not like"} ${mark.key ? spoken(mark.key) : `image ${mark.row}`}`;
    return make(
      "button",
      {
        type: "button",
        className: `mark ${mark.kind}`,
        "aria-label": `${label}: take the mark off`,
        title: `${label}. Click to take the mark off`,
        onclick: () => toggle(mark, mark.kind),
      },
      make("img", { src: thumbnail(mark.row), alt: "", onerror: (/** @type {any} */ event) => event.target.remove() }),
      sign,
    );
  });
  const [like, unlike] = [marked("like"), marked("unlike")];
  const isSearched = like.join() === state.like.join() && unlike.join() === state.unlike.join();
  const needsLike = !like.length && state.row === null && state.upload === null && !state.text;
  const again = make(
    "button",
    {
      type: "button",
      className: "main",
      disabled: isSearched || needsLike,
      title: needsLike ? "Mark one image with + first" : "",
      onclick: searchAgain,
    },
    "Search again",
  );
  const clear = make("button", { type: "button", className: "bare", onclick: clearAll }, "Clear marks");
  const holder = el(searches(state) ? "marks" : "marks-alone");
  for (const id of ["marks", "marks-alone"]) el(id).replaceChildren();
  el("marks-alone").hidden = searches(state) || !marks.length;
  if (marks.length) holder.replaceChildren(...chips, again, clear);
  el("hint").hidden = marks.length > 0;
}

function searchAgain() {
  go({ view: "images", like: marked("like"), unlike: marked("unlike"), group: "" });
}

function clearAll() {
  clearMarks();
  if (!state.like.length && !state.unlike.length) return;
  const isAlone = state.row === null && state.upload === null && !state.text;
  go(isAlone ? NO_QUERY : { like: [], unlike: [] });
}

export function bindQuery() {
  el("query-close").onclick = () => go(NO_QUERY, { steps: [] });
  el("part").prepend(icon("crop"));
}
