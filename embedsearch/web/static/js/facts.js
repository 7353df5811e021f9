// @ts-check
// What is known of an image; what a column holds leads to the images that share it.

import { days, inFolder, oneOf } from "./conditions.js";
import { make } from "./dom.js";
import { go, NO_QUERY } from "./state.js";
import { info } from "./store.js";
import { captionOf } from "./tile.js";
import { baseName, bytes, number, shown, two } from "./words.js";

/** @typedef {import("./api.js").Image} Image */

/** @param {Image} image @returns {any} A list. */
export function facts(image) {
  const list = make("dl");
  const add = (/** @type {string} */ name, /** @type {any} */ value, /** @type {string} */ condition = "") => {
    if (value === null || value === undefined || value === "") return;
    const text = shown(value);
    const link =
      condition &&
      make(
        "a",
        {
          href: "#",
          onclick: (/** @type {Event} */ event) => {
            event.preventDefault();
            filter(condition);
          },
          title: "Show all images with this",
        },
        text,
      );
    list.append(make("dt", {}, name), make("dd", {}, link || text));
  };
  const scalar = (/** @type {any} */ value) => ["string", "number", "boolean"].includes(typeof value);
  if (typeof image.score === "number") add("Similarity", two(image.score));
  const day = image.taken_at?.slice(0, 10) ?? "";
  add("Taken", image.taken_at, day && days("taken_at", day, day));
  add("Camera", image.camera, image.camera ? oneOf("camera", [image.camera]) : "");
  add("Pixels", image.width ? `${number(image.width)} × ${number(image.height)}` : null);
  add("File size", image.size_bytes ? bytes(image.size_bytes) : null);
  add("Format", image.format, image.format ? oneOf("format", [image.format]) : "");
  const isInside = image.full_path.endsWith(`/${image.key}`);
  const root = isInside ? image.full_path.slice(0, -image.key.length - 1) : "";
  const folder = image.key.includes("/") ? image.key.slice(0, image.key.lastIndexOf("/")) : "";
  add("Folder", folder || baseName(root), root ? inFolder(root, folder) : "");
  add("Place", image.gps?.map((/** @type {number} */ degrees) => degrees.toFixed(5)).join(", "));
  const caption = captionOf(image, info.words);
  for (const [name, value] of Object.entries(image.metadata ?? {})) {
    if (value === caption) continue; // it stands above
    add(name, value, scalar(value) && String(value).length < 200 ? oneOf(name, [value]) : "");
  }
  add("Path", image.full_path);
  return list;
}

/** @param {string} condition */
const filter = (condition) => go({ ...NO_QUERY, view: "images", where: [condition] }, { steps: [] });
