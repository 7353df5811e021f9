// The image that is searched for, and the part of it that is drawn.

import { el, make } from "./dom.js";
import { asks, go, load, read, state, trail, trailOn, uploads } from "./address.js";
import { info } from "./store.js";

let natural = null; // width and height of the image that is shown, upright
let region = null; // x, y, width, height that is being drawn

export function take(file) {
  if (!info.takes_images) return;
  const number = uploads.size + 1;
  uploads.set(number, { blob: file, url: URL.createObjectURL(file), name: file.name || "the image pasted" });
  go({ row: null, upload: number, crop: null, like: [], unlike: [] }, { path: trailOn() });
}

export async function showQuery() {
  const { row, upload, crop } = state;
  const uploaded = uploads.get(upload);
  natural = null;
  region = null;
  el("box").hidden = true;
  el("search-region").hidden = true;
  el("whole").hidden = crop === null;
  el("query").hidden = row === null && !uploaded && !trail.length;
  el("preview").hidden = row === null && !uploaded;
  el("clear").hidden = !asks(state);
  showTrail();
  const picture = el("preview-image");
  picture.onerror = () => { el("preview").hidden = true; };
  if (row !== null) {
    el("preview-words").textContent = "";
    picture.alt = "";
    picture.src = `images/${row}/thumbnail?side=1024`;
    const answer = await fetch(`images/${row}`).catch(() => null);
    if (!answer?.ok || state.row !== row) return;
    const facts = await answer.json();
    if (state.row !== row) return;
    natural = { width: facts.width, height: facts.height };
    picture.alt = facts.key;
    el("preview-words").textContent = facts.key;
  } else if (uploaded) {
    picture.alt = uploaded.name;
    picture.src = uploaded.url;
    el("preview-words").textContent = uploaded.name;
    try {
      const bitmap = await createImageBitmap(uploaded.blob);
      if (state.upload === upload) natural = { width: bitmap.width, height: bitmap.height };
      bitmap.close();
    } catch {
      el("preview-words").textContent = `${uploaded.name} (this browser does not show that format)`;
    }
  } else {
    el("preview-words").textContent = "";
  }
  if (crop && natural) drawBox(crop);
}

function showTrail() {
  el("trail").replaceChildren(...trail.map((fragment, index) => {
    const what = read(fragment);
    const uploaded = uploads.get(what.upload);
    const source = what.row !== null ? `images/${what.row}/thumbnail` : uploaded?.url;
    const blank = make("span", { className: "blank" });
    const face = source ? make("img", { src: source, alt: "", onerror: () => face.replaceWith(blank) }) : blank;
    const button = make("button", { type: "button", ariaLabel: `Back to query ${index + 1}` }, face);
    button.onclick = () => {
      history.pushState({ trail: trail.slice(0, index) }, "", fragment);
      load();
    };
    return make("li", {}, button);
  }));
}

function drawBox([x, y, width, height]) {
  const scale = el("preview-image").clientWidth / natural.width;
  const box = el("box");
  Object.assign(box.style, { left: `${x * scale}px`, top: `${y * scale}px`, width: `${width * scale}px`, height: `${height * scale}px` });
  box.hidden = false;
}

function setRegion(x, y, width, height) {
  width = Math.min(Math.max(1, Math.round(width)), natural.width);
  height = Math.min(Math.max(1, Math.round(height)), natural.height);
  x = Math.min(Math.max(0, Math.round(x)), natural.width - width);
  y = Math.min(Math.max(0, Math.round(y)), natural.height - height);
  region = [x, y, width, height];
  drawBox(region);
  el("search-region").hidden = false;
}

function endRegion() {
  region = null;
  el("search-region").hidden = true;
  el("box").hidden = true;
  if (state.crop && natural) drawBox(state.crop);
}

export function searchRegion() {
  if (region) go({ crop: region });
}

function pixelAt(event) {
  const box = el("preview-image").getBoundingClientRect();
  const clamp = (value) => Math.min(1, Math.max(0, value));
  return [clamp((event.clientX - box.left) / box.width) * natural.width, clamp((event.clientY - box.top) / box.height) * natural.height];
}

let from = null;
el("preview").addEventListener("pointerdown", (event) => {
  if (!natural || event.button) return;
  from = pixelAt(event);
  el("preview").setPointerCapture(event.pointerId);
});
el("preview").addEventListener("pointermove", (event) => {
  if (!from) return;
  const to = pixelAt(event);
  const [width, height] = [Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1])];
  if (width > natural.width / 50 && height > natural.height / 50) setRegion(Math.min(from[0], to[0]), Math.min(from[1], to[1]), width, height);
});
el("preview").addEventListener("pointerup", () => { from = null; });
el("preview").addEventListener("pointercancel", () => { from = null; });
el("preview").addEventListener("keydown", (event) => {
  if (!natural) return;
  const { width: W, height: H } = natural;
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.key === "Enter") region ? searchRegion() : setRegion(W / 4, H / 4, W / 2, H / 2);
  else if (event.key === "Escape") endRegion();
  else if (steps && region) {
    const [x, y, width, height] = region;
    const [dx, dy] = [steps[0] * W / 40, steps[1] * H / 40];
    if (event.shiftKey) setRegion(x, y, width + dx, height + dy);
    else setRegion(x + dx, y + dy, width, height);
  } else return;
  event.preventDefault();
  event.stopPropagation();
});
addEventListener("resize", () => { if (natural && (region ?? state.crop)) drawBox(region ?? state.crop); });
el("preview-image").addEventListener("load", () => { if (natural && (region ?? state.crop)) drawBox(region ?? state.crop); });
