// @ts-check
// One image of the grid.

import { away, server, thumbnail } from "./api.js";
import { icon, isPhone, make, pause } from "./dom.js";
import { markOf } from "./marks.js";
import { isPicked } from "./selection.js";
import { state, written } from "./state.js";
import { baseName, explain, two } from "./words.js";

/** @typedef {import("./api.js").Image} Image */

const TRIES = 6;
const EAGER = 12; // images that are loaded at once
const RATIOS = [0.56, 2.6]; // narrower and wider pictures are cut
const SIGNS = { like: "+ like", unlike: "− not like" };
const TITLES = ["caption", "title", "description", "text", "alt", "prompt"];

/** @param {Image} image @returns {number} Width by height, in steps that the style sheet has, too. */
export function ratioOf({ width, height }) {
  const ratio = height ? width / height : 1; // not known of an imported vector
  return Math.min(RATIOS[1], Math.max(RATIOS[0], Math.round(ratio * 25) / 25));
}

/** @param {Image} image @param {string[]} columns That have words. @returns {string} */
export function captionOf({ metadata = {} }, columns) {
  const names = [...TITLES.filter((name) => name in metadata), ...columns];
  const found = names.map((name) => metadata[name]).find((value) => typeof value === "string" && value.trim());
  return found ?? "";
}

/**
 * @param {Image} image
 * @param {{total: number, caption: string | null}} place
 * @returns {any}
 */
export function makeTile(image, { total, caption }) {
  const place = image.place ?? 0;
  const name = baseName(image.key);
  const score = image.score ?? null;
  const tile = (blank ??= makeBlank()).cloneNode(true);
  const [link, picture] = [tile.querySelector("a"), tile.querySelector("img")];
  link.href = written({ ...state, open: image.row });
  link.ariaLabel = [name, score === null ? "" : `similarity ${two(score)}`, caption ?? ""].filter(Boolean).join(", ");
  link.title = caption || image.key;
  for (const button of tile.querySelectorAll("button")) button.ariaLabel = `${button.title}: ${name}`;
  if (score === null) tile.querySelector(".score").remove();
  else tile.querySelector(".score").textContent = two(score);
  tile.querySelector("bdi").textContent = name;
  if (caption !== null) tile.append(make("div", { className: "caption" }, caption));
  tile.ariaPosInSet = String(place + 1);
  tile.ariaSetSize = String(total);
  tile.style.setProperty("--ratio", String(ratioOf(image)));
  tile.dataset.row = String(image.row);
  picture.loading = place < EAGER ? "eager" : "lazy";
  picture.onload = () => picture.classList.remove("coming");
  picture.onerror = () => missing(picture, link, image, 1);
  const densities = isPhone() ? ["2x", "3x"] : ["1x", "2x"];
  picture.srcset = `${thumbnail(image.row, 256)} ${densities[0]}, ${thumbnail(image.row, 512)} ${densities[1]}`;
  decorate(tile);
  return tile;
}

/** @type {any} A tile without an image; copies of it are made faster than new ones. */
let blank = null;

function makeBlank() {
  const act = (
    /** @type {string} */ what,
    /** @type {string} */ sign,
    /** @type {string} */ title,
    /** @type {string} */ className = "",
  ) =>
    make(
      "button",
      {
        type: "button",
        className,
        tabIndex: -1,
        title,
        "data-act": what,
        "aria-pressed": what === "similar" ? null : "false",
      },
      icon(sign),
    );
  return make(
    "div",
    { className: "tile", role: "listitem" },
    make(
      "div",
      { className: "face" },
      make("a", { tabIndex: -1 }, make("img", { alt: "", decoding: "async", className: "coming" })),
      make("span", { className: "score", "aria-hidden": "true" }),
      make("span", { className: "name", "aria-hidden": "true" }, make("bdi")),
      act("pick", "check", "Select", "check"),
      make(
        "div",
        { className: "acts" },
        act("similar", "similar", "More like this"),
        act("like", "plus", "Like"),
        act("unlike", "minus", "Not like"),
      ),
    ),
  );
}

/** @param {any} tile Show whether it is marked and selected. */
export function decorate(tile) {
  const row = Number(tile.dataset.row);
  const kind = markOf(row);
  tile.querySelector(".badge-mark")?.remove();
  for (const one of ["like", "unlike"]) {
    tile.classList.toggle(one, kind === one);
    tile.querySelector(`[data-act="${one}"]`)?.setAttribute("aria-pressed", String(kind === one));
  }
  if (kind) tile.querySelector(".face").append(make("span", { className: "badge-mark" }, SIGNS[kind]));
  tile.classList.toggle("picked", isPicked(row));
  tile.querySelector(".check").setAttribute("aria-pressed", String(isPicked(row)));
}

/** @param {any} picture @param {any} link @param {Image} image @param {number} tries */
async function missing(picture, link, image, tries) {
  let status = 0;
  try {
    status = (await fetch(thumbnail(image.row))).status;
  } catch {
    away();
  }
  if (!link.isConnected) return;
  const mayPass = !status || status === 503 || status === 200;
  if (!mayPass || tries === TRIES) {
    const words = status === 404 ? explain({ code: "file_gone" }) : "The picture could not be loaded.";
    picture.remove();
    link.append(make("span", { className: "missing" }, make("strong", {}, words), make("span", {}, image.key)));
    link.setAttribute("aria-label", `${baseName(image.key)}: ${words}`);
    return;
  }
  if (status) await pause(1000);
  else await new Promise((resolve) => server.addEventListener("online", resolve, { once: true }));
  if (!link.isConnected) return;
  picture.onerror = () => missing(picture, link, image, tries + 1);
  const sources = picture.srcset;
  picture.srcset = "";
  picture.srcset = sources;
}

/** @param {any} node Browsers keep pictures that they have yet to load, also those that are gone. */
export function stopLoading(node) {
  for (const picture of node.querySelectorAll("img.coming")) {
    picture.onerror = null;
    picture.removeAttribute("srcset");
  }
}
