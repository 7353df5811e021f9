// What the server says of its store.

import { el } from "./dom.js";

export const TRIES = 6; // of a request that the server is too busy to answer
export let info = { columns: {}, images: 0, takes_images: true };

export async function about() {
  const answer = await fetch("info");
  if (!answer.ok) return;
  info = await answer.json();
  el("about").textContent = `${info.images.toLocaleString("en")} images, by ${info.model}${info.reads_text ? ", which reads text" : ""}`;
  el("choose").hidden = !info.takes_images;
  el("drop-words").textContent = info.takes_images
    ? "drop one here, or paste it"
    : "This server has no network for new images: search with the images of the store.";
}
