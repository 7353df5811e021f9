// @ts-check
// The part of the query's picture that is searched for: handles for the pointer, keys for the keyboard.

import { el } from "./dom.js";
import { go, state } from "./state.js";

/** @type {number[] | null} Width and height of the picture, upright. */
let natural = null;
/** @type {number[] | null} x, y, width, height of what is being cut, in pixels of the picture. */
let region = null;
const LEAST = 1 / 50; // of a side

/** @param {string} source @param {number[] | null} size */
export function setPicture(source, size) {
  const picture = el("crop-image");
  natural = size;
  if (picture.getAttribute("src") !== source) {
    picture.removeAttribute("src");
    el("crop").classList.toggle("blank", !source);
    if (source) picture.src = source;
  }
  el("part").disabled = !size;
}

export function showCut() {
  region = null;
  el("crop").classList.remove("cutting");
  draw(state.crop);
}

export function endCut() {
  natural = region = null;
  draw(null);
}

/** @param {number[] | null} box */
function draw(box) {
  const cut = el("cut");
  cut.hidden = !box || !natural;
  const isCutting = region !== null;
  el("part-words").textContent = isCutting ? "Search this part" : state.crop ? "Change the part" : "Search a part";
  el("part").classList.toggle("main", isCutting);
  el("whole").hidden = !isCutting && !state.crop;
  el("hint").textContent = isCutting
    ? "Drag the corners, then search."
    : natural
      ? "Drag over the picture, or mark results with + and −"
      : "Mark results with + and −";
  if (!box || !natural) return;
  const [x, y, width, height] = box;
  const shown = place();
  cut.style.left = `${shown.left + (x / natural[0]) * shown.width}px`;
  cut.style.top = `${shown.top + (y / natural[1]) * shown.height}px`;
  cut.style.width = `${(width / natural[0]) * shown.width}px`;
  cut.style.height = `${(height / natural[1]) * shown.height}px`;
}

/** @returns {{left: number, top: number, width: number, height: number}} Where the picture is within its box. */
function place() {
  const picture = el("crop-image");
  const [w, h] = /** @type {number[]} */ (natural);
  const scale = Math.min(picture.clientWidth / w, picture.clientHeight / h);
  return {
    width: w * scale,
    height: h * scale,
    left: (picture.clientWidth - w * scale) / 2,
    top: (picture.clientHeight - h * scale) / 2,
  };
}

/** @param {number} x @param {number} y @param {number} width @param {number} height */
function set(x, y, width, height) {
  if (!natural) return;
  const [W, H] = natural;
  width = Math.round(Math.min(Math.max(width, W * LEAST, 1), W));
  height = Math.round(Math.min(Math.max(height, H * LEAST, 1), H));
  region = [
    Math.round(Math.min(Math.max(0, x), W - width)),
    Math.round(Math.min(Math.max(0, y), H - height)),
    width,
    height,
  ];
  draw(region);
}

function begin() {
  if (!natural) return;
  const [W, H] = natural;
  el("crop").classList.add("cutting");
  const [x, y, width, height] = state.crop ?? [W / 8, H / 8, (W * 3) / 4, (H * 3) / 4];
  set(x, y, width, height);
  el("cut").focus({ preventScroll: true });
}

function search() {
  const cut = region;
  el("crop").classList.remove("cutting");
  region = null;
  el("part").focus({ preventScroll: true });
  if (cut) go({ crop: cut });
}

/** @param {PointerEvent} event @returns {number[]} The place in pixels of the picture. */
function pixel(event) {
  const box = el("crop-image").getBoundingClientRect();
  const shown = place();
  const [W, H] = /** @type {number[]} */ (natural);
  const inside = (/** @type {number} */ share) => Math.min(1, Math.max(0, share));
  return [
    inside((event.clientX - box.left - shown.left) / shown.width) * W,
    inside((event.clientY - box.top - shown.top) / shown.height) * H,
  ];
}

export function bindCrop() {
  el("part").addEventListener("click", () => (region ? search() : begin()));
  el("whole").addEventListener("click", () => {
    const isCut = state.crop !== null;
    showCut();
    if (isCut) go({ crop: null });
  });
  /** @type {{at: number[], box: number[], corner: number} | null} */
  let drag = null;
  el("crop").addEventListener("pointerdown", (/** @type {any} */ event) => {
    if (!natural || event.button) return;
    if (!region && event.pointerType === "touch") return; // a finger scrolls, until a part is asked for
    const at = pixel(event);
    const corner = [...el("cut").children].indexOf(event.target);
    const onBox = event.target === el("cut") || corner >= 0;
    if (!region && !onBox && state.crop === null) el("crop").classList.add("cutting");
    drag = { at, box: onBox ? [...(region ?? state.crop ?? [])] : [...at, 0, 0], corner: onBox ? corner : 3 };
    el("crop").setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  el("crop").addEventListener("pointermove", (/** @type {any} */ event) => {
    if (!drag || !natural) return;
    const to = pixel(event);
    const [x, y, width, height] = drag.box;
    if (drag.corner < 0) return set(x + to[0] - drag.at[0], y + to[1] - drag.at[1], width, height);
    const left = drag.corner % 2 === 0,
      top = drag.corner < 2;
    const [x1, y1] = [left ? x + width : x, top ? y + height : y]; // the corner that stays
    if (Math.abs(to[0] - x1) < natural[0] * LEAST || Math.abs(to[1] - y1) < natural[1] * LEAST) return undefined;
    return set(Math.min(x1, to[0]), Math.min(y1, to[1]), Math.abs(to[0] - x1), Math.abs(to[1] - y1));
  });
  const end = () => {
    if (drag && !region) el("crop").classList.remove("cutting");
    drag = null;
  };
  el("crop").addEventListener("pointerup", end);
  el("crop").addEventListener("pointercancel", end);
  el("cut").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const steps = /** @type {Record<string, number[]>} */ ({
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
      ArrowUp: [0, -1],
      ArrowDown: [0, 1],
    })[event.key];
    const box = region ?? state.crop;
    if (!natural || !box) return;
    if (event.key === "Enter") search();
    else if (event.key === "Escape") {
      showCut();
      el("part").focus();
    } else if (steps) {
      const [dx, dy] = [(steps[0] * natural[0]) / 40, (steps[1] * natural[1]) / 40];
      const [x, y, width, height] = box;
      if (event.shiftKey) set(x, y, width + dx, height + dy);
      else set(x + dx, y + dy, width, height);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  addEventListener("resize", () => draw(region ?? state.crop));
  el("crop-image").addEventListener("error", () => el("crop").classList.add("blank"));
  el("crop-image").addEventListener("load", () => draw(region ?? state.crop));
}
