// The images that were found, the focus among them, and the pages of them.

import { el, make, pause } from "./dom.js";
import { asks, DEFAULTS, go, state, trailOn, written } from "./address.js";
import { marks } from "./marks.js";
import { info, TRIES } from "./store.js";

let focusFirst = false;

export function show(found, message) {
  const shown = found.hits ?? found.images;
  el("grid").replaceChildren(...shown.map(tile));
  el("status").textContent = message ?? summary(found, shown);
  el("pager").hidden = !state.offset && shown.length < state.k;
  el("before").disabled = !state.offset;
  el("next").disabled = shown.length < state.k || state.offset + state.k > 10000;
  if (focusFirst && shown.length) links()[0].focus();
  focusFirst = false;
}

function summary(found, shown) {
  if (!shown.length) {
    if (!info.images) return "The store holds no image yet: embedsearch index FOLDER fills it.";
    if (state.offset) return "There are no more images.";
    const why = [state.least > 0 && asks(state) ? `scores ${state.least.toFixed(2)} or more` : "", state.where ? "meets the filter" : ""];
    return `No image ${why.filter(Boolean).join(" and ") || "matches"}.`;
  }
  const first = state.offset + 1;
  const last = state.offset + shown.length;
  if (found.images) return `${first} to ${last} of ${found.total.toLocaleString("en")} images. Choose one, or upload one, to find images that look like it.`;
  return `The nearest, ${first} to ${last}, best first.`;
}

function tile(image, index) {
  const item = make("li", { className: marks.get(image.row) ?? "" });
  item.dataset.row = image.row;
  const ratio = image.height ? image.width / image.height : 1; // not known of an imported vector
  item.style.setProperty("--ratio", Math.min(4, Math.max(0.4, ratio)));
  const picture = make("img", { alt: image.key, loading: "lazy", decoding: "async" });
  const link = make("a", { className: "tile", href: written({ ...DEFAULTS, k: state.k, where: state.where, row: image.row }), tabIndex: index ? -1 : 0 }, picture);
  picture.onload = () => picture.classList.add("here");
  picture.onerror = () => missing(picture, link, image, 1);
  picture.src = `images/${image.row}/thumbnail`;
  const mark = (kind, sign, label) => {
    const button = make("button", { type: "button", textContent: sign, ariaLabel: `${label}: ${image.key}`, title: label, tabIndex: index ? -1 : 0 });
    button.dataset.mark = kind;
    button.ariaPressed = String(marks.get(image.row) === kind);
    return button;
  };
  const score = image.score === undefined ? [] : [make("span", { className: "score", textContent: image.score.toFixed(3) })];
  const name = make("span", { className: "name", textContent: image.key, title: image.key });
  const buttons = make("span", { className: "marks" }, mark("like", "+", "Mark as like"), mark("unlike", "−", "Mark as unlike"), mark("facts", "i", "Details"));
  item.append(link, make("p", { className: "under" }, ...score, name, buttons));
  item.querySelector('[data-mark="facts"]').removeAttribute("aria-pressed");
  return item;
}

async function missing(picture, link, image, tries) {
  let status = 0;
  try { status = (await fetch(picture.src)).status; } catch { /* the server is away */ }
  if (!link.isConnected) return;
  if (status !== 404 && tries < TRIES) {
    await pause(1000);
    picture.onerror = () => missing(picture, link, image, tries + 1);
    picture.src = `images/${image.row}/thumbnail`;
    return;
  }
  link.classList.add("gone");
  link.replaceChildren("The file is gone or can no longer be read", make("span", { hidden: true, textContent: image.key }));
  link.ariaLabel = `${image.key}: the file is gone or can no longer be read`;
}

const links = () => [...document.querySelectorAll("#grid .tile")];

export function current(link) { // one image at a time is in the order of Tab
  for (const other of document.querySelectorAll('#grid [tabindex="0"]')) other.tabIndex = -1;
  for (const node of link.closest("li").querySelectorAll("a, button")) node.tabIndex = 0;
}

export function moveFocus(key) {
  const all = links();
  const here = document.activeElement?.closest?.("#grid li")?.querySelector(".tile");
  let next = here ? null : all[0];
  const at = all.indexOf(here);
  if (here && key === "ArrowRight") next = all[at + 1];
  if (here && key === "ArrowLeft") next = all[at - 1];
  if (here && (key === "ArrowDown" || key === "ArrowUp")) {
    const from = here.getBoundingClientRect();
    const middle = (box) => box.left + box.width / 2;
    const down = key === "ArrowDown";
    const places = all.map((link) => [link, link.getBoundingClientRect()])
      .filter(([, box]) => (down ? box.top >= from.bottom : box.bottom <= from.top));
    const edge = down ? Math.min(...places.map(([, box]) => box.top)) : Math.max(...places.map(([, box]) => box.top));
    next = places.filter(([, box]) => Math.abs(box.top - edge) < 8)
      .sort(([, a], [, b]) => Math.abs(middle(a) - middle(from)) - Math.abs(middle(b) - middle(from)))[0]?.[0];
  }
  next?.focus();
  return Boolean(next);
}

export function moreLike(row) {
  focusFirst = true;
  go({ row, upload: null, crop: null, like: [], unlike: [] }, { path: trailOn() });
}

export function page(step) {
  const button = el(step > 0 ? "next" : "before");
  if (button.disabled || el("pager").hidden) return;
  scrollTo({ top: 0 });
  focusFirst = true;
  go({ offset: Math.max(0, state.offset + step * state.k) });
}
