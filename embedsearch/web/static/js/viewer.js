// @ts-check
// One image in the whole window, with what is known of it. Everything here is drawn from one record.

import { ask, thumbnail } from "./api.js";
import { el, fill, icon, Latest, make } from "./dom.js";
import { facts } from "./facts.js";
import { grid } from "./grid.js";
import { mark, markOf } from "./marks.js";
import { cutNext } from "./query.js";
import { copy } from "./selection.js";
import { close, go, NO_QUERY, state, stepsOn } from "./state.js";
import { info } from "./store.js";
import { captionOf } from "./tile.js";
import { baseName, explain, number } from "./words.js";

/** @typedef {import("./api.js").Image} Image */

const SIDE = 1024;
const LEAST = 320; // pixels that a small picture is shown with
const STRIP = 10;
const PANS = { ArrowLeft: [-80, 0], ArrowRight: [80, 0], ArrowUp: [0, -80], ArrowDown: [0, 80] };
const BROWSER_SHOWS = ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP"];
const latest = new Latest();
/** @type {number | null} The row that is shown. */
let current = null;
let title = ""; // its name
let named = () => {};

/** Show the image that the address names, or nothing. */
export async function showViewer() {
  const row = state.open;
  if (row === null) {
    latest.stop();
    const before = current;
    current = null;
    if (el("viewer").open) el("viewer").close();
    if (before !== null) document.querySelector(/** @type {any} */ (`#grid [data-row="${before}"] a`))?.focus();
    return;
  }
  const signal = latest.next();
  current = row;
  const known = grid.find(row);
  draw(row, known ?? null, null);
  if (!el("viewer").open) el("viewer").showModal();
  try {
    const record = await ask(`images/${row}`, { signal });
    draw(row, { ...known, ...record }, null);
  } catch (problem) {
    if (!signal.aborted) draw(row, known ?? null, problem);
  }
}

/** @param {number} row @param {Image | null} image As far as it is known. @param {any} problem */
function draw(row, image, problem) {
  const name = image ? baseName(image.key) : `Image ${row}`;
  title = image ? name : "";
  named();
  drawPicture(row, image, name);
  const place = grid.position(row);
  el("viewer-place").textContent = place < 0 ? "" : `${number(place + 1)} of ${number(grid.total)}`;
  drawTools(row, image);
  drawStrip(row);
  const details = el("details");
  const caption = image ? captionOf(image, info.words) : "";
  const complete = Boolean(image && image.format !== undefined);
  fill(
    details,
    make("h2", { id: "viewer-name" }, name),
    caption !== "" && make("p", { className: "caption" }, caption),
    problem && make("p", { className: "error", role: "alert" }, explain(problem)),
    make(
      "div",
      { className: "tools-of" },
      make(
        "button",
        { type: "button", className: "main", onclick: () => moreLike(row, name), disabled: !image },
        icon("similar"),
        "More like this",
      ),
      make(
        "button",
        { type: "button", onclick: () => searchPart(row, name), disabled: !image },
        icon("crop"),
        "Search a part of it",
      ),
      make(
        "button",
        { type: "button", onclick: () => image && copy(image.full_path, "Path copied"), disabled: !image?.full_path },
        icon("copy"),
        "Copy path",
      ),
      complete &&
        hasFile(image) &&
        make(
          "a",
          { className: "button", href: `images/${row}/original?download=true`, download: name },
          icon("download"),
          "Download",
        ),
    ),
    complete && image ? facts(image) : make("p", { className: "soft" }, problem ? "" : "Loading …"),
  );
}

/** @param {number} row @param {Image | null} image @param {string} name */
function drawPicture(row, image, name) {
  const holder = el("picture");
  if (holder.dataset.row === String(row)) {
    // it is there: only its name may be new
    const there = holder.querySelector("img");
    there?.setAttribute("alt", name);
    if (there) fit(there, image);
    return;
  }
  holder.dataset.row = String(row);
  holder.classList.remove("zoomed");
  const picture = make("img", { alt: name, decoding: "async", draggable: false, src: thumbnail(row) });
  const large = new Image();
  large.onload = () => {
    if (holder.dataset.row === String(row) && !holder.classList.contains("zoomed")) picture.src = large.src;
  };
  picture.onerror = () => gone(row, holder);
  large.src = `images/${row}/thumbnail?side=${SIDE}`;
  picture.onclick = () => zoom(row, picture);
  fit(picture, image);
  holder.replaceChildren(picture);
}

/** @param {any} picture @param {Image | null} image Show it no larger than it is. */
function fit(picture, image) {
  if (!image?.width) return;
  picture.dataset.format = image.format ?? "";
  const least = Math.max(1, LEAST / Math.max(image.width, image.height));
  picture.style.maxWidth = `min(100%, ${Math.round(image.width * least)}px)`;
  picture.style.maxHeight = `min(100%, ${Math.round(image.height * least)}px)`;
}

/** @param {number} row @param {any} holder Say why a picture is not shown: that the server is away is another matter. */
async function gone(row, holder) {
  let problem = { code: "offline" };
  try {
    const answer = await fetch(thumbnail(row));
    if (answer.ok) return;
    problem = await answer.json();
  } catch {
    /* it is away */
  }
  if (holder.dataset.row === String(row)) {
    holder.replaceChildren(make("p", { role: "alert" }, explain(problem)));
    delete holder.dataset.row; // another try, once it is asked for again
  }
}

/** @param {number} row @param {any} picture */
function zoom(row, picture) {
  const format = picture.dataset.format;
  const isZoomed = el("picture").classList.toggle("zoomed");
  el("viewer-zoom").setAttribute("aria-pressed", String(isZoomed));
  const original =
    !format || BROWSER_SHOWS.includes(format) ? `images/${row}/original` : `images/${row}/thumbnail?side=${SIDE}`;
  picture.onerror = () => {
    picture.onerror = null;
    picture.src = `images/${row}/thumbnail?side=${SIDE}`;
  };
  picture.src = isZoomed ? original : `images/${row}/thumbnail?side=${SIDE}`;
}

/** @param {Image | null} image @returns {boolean} Not of an imported vector, whose file nobody has read. */
const hasFile = (image) => image?.format !== "";

/** @param {number} row @param {Image | null} image */
function drawTools(row, image) {
  const kind = markOf(row);
  for (const one of /** @type {const} */ (["like", "unlike"])) {
    const button = el(`viewer-${one}`);
    button.disabled = !image;
    button.setAttribute("aria-pressed", String(kind === one));
    button.onclick = () => {
      if (image) {
        mark(image, one);
        drawTools(row, image);
      }
    };
  }
  el("viewer-zoom").onclick = () => {
    const picture = el("picture").querySelector("img");
    if (picture) zoom(row, picture);
  };
  el("viewer-zoom").setAttribute("aria-pressed", String(el("picture").classList.contains("zoomed")));
  el("viewer-original").href = `images/${row}/original`;
  el("viewer-original").hidden = image !== null && !hasFile(image);
}

/** @param {number} row */
function drawStrip(row) {
  const all = grid.loaded();
  const at = all.findIndex((image) => image.row === row);
  const from = Math.max(0, Math.min(at - STRIP / 2 + 1, all.length - STRIP));
  const some = at < 0 ? [] : all.slice(from, from + STRIP);
  el("strip").replaceChildren(
    ...some.map((image) =>
      make(
        "button",
        {
          type: "button",
          tabIndex: -1,
          "aria-label": baseName(image.key),
          "aria-current": image.row === row ? "true" : null,
          onclick: () => go({ open: image.row }, { replace: true }),
        },
        make("img", { alt: "", src: thumbnail(image.row), loading: "lazy" }),
      ),
    ),
  );
  el("viewer-before").disabled = grid.position(row) <= 0;
  el("viewer-after").disabled = at < 0 || grid.position(row) + 1 >= grid.total;
}

/** @param {number} row @param {string} name */
const moreLike = (row, name) => go({ ...NO_QUERY, view: "images", row }, { steps: stepsOn(name) });

/** @param {number} row @param {string} name */
function searchPart(row, name) {
  if (state.row === row && state.view === "images") {
    close();
    el("part").click();
    return;
  }
  cutNext();
  moreLike(row, name);
}

/** @param {number} step */
async function turn(step) {
  const from = current;
  if (from === null) return;
  const image = await grid.beside(from, step);
  if (image && current === from) go({ open: image.row }, { replace: true });
}

/** @param {() => void} listener Called once the name of what is shown is known. */
export function bindViewer(listener) {
  named = listener;
  const dialog = el("viewer");
  dialog.addEventListener("cancel", (/** @type {Event} */ event) => {
    event.preventDefault();
    close();
  });
  el("viewer-close").onclick = close;
  el("viewer-before").onclick = () => turn(-1);
  el("viewer-after").onclick = () => turn(1);
  dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const pan = /** @type {Record<string, number[]>} */ (PANS)[event.key];
    if (el("picture").classList.contains("zoomed") && pan) el("picture").scrollBy(pan[0], pan[1]);
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") turn(event.key === "ArrowLeft" ? -1 : 1);
    else return;
    event.preventDefault();
  });
  /** @type {number[] | null} */
  let from = null;
  el("picture").addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
    from = event.pointerType === "touch" ? [event.clientX, event.clientY] : null;
  });
  el("picture").addEventListener("pointerup", (/** @type {PointerEvent} */ event) => {
    if (!from || el("picture").classList.contains("zoomed")) return;
    const [dx, dy] = [event.clientX - from[0], event.clientY - from[1]];
    if (Math.abs(dx) > 50 && Math.abs(dx) > 2 * Math.abs(dy)) turn(dx > 0 ? -1 : 1);
    else if (dy > 90 && dy > 2 * Math.abs(dx)) close();
    from = null;
  });
}

/** @returns {string} */
export const viewerTitle = () => (state.open === null ? "" : title);
