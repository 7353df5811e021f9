// The dialog with the details of an image.

import { el, make } from "./dom.js";
import { moreLike } from "./grid.js";

export async function facts(row) {
  for (const id of ["facts-name", "facts-copied"]) el(id).textContent = "";
  el("facts-list").replaceChildren();
  el("facts-trouble").hidden = true;
  const picture = el("facts-image");
  picture.hidden = false;
  picture.onerror = () => {
    picture.hidden = true;
    el("facts-trouble").textContent = "The file is gone or can no longer be read.";
    el("facts-trouble").hidden = false;
  };
  picture.src = el("facts-open").href = `images/${row}/thumbnail?side=1024`;
  el("facts").showModal();
  const answer = await fetch(`images/${row}`).catch(() => null);
  if (!answer?.ok) {
    el("facts-trouble").textContent = "The server does not answer.";
    el("facts-trouble").hidden = false;
    return;
  }
  const known = await answer.json();
  el("facts-name").textContent = picture.alt = known.key;
  const folder = known.path.slice(0, known.path.lastIndexOf("/")) || "/";
  const rows = {
    folder, size: `${known.width} × ${known.height} pixels, ${(known.size_bytes / 1024).toFixed(0)} kB`, format: known.format,
    taken: known.taken_at?.replace("T", " "), camera: known.camera, place: known.gps?.join(", "), ...known.metadata,
  };
  for (const [name, value] of Object.entries(rows)) {
    if (value === null || value === undefined || value === "") continue;
    el("facts-list").append(make("dt", { textContent: name }), make("dd", { textContent: typeof value === "object" ? JSON.stringify(value) : value }));
  }
  el("facts-path").onclick = () => copy(known.path);
  el("facts-folder").onclick = () => copy(folder);
  el("facts-more").onclick = () => { el("facts").close(); moreLike(row); };
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    el("facts-copied").textContent = `Copied: ${text}`;
  } catch { // not allowed, or no https beyond this machine
    el("facts-copied").textContent = text;
    getSelection().selectAllChildren(el("facts-copied"));
  }
}

el("facts-close").addEventListener("click", () => el("facts").close());
