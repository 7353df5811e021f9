// @ts-check
// What the store holds, in a dialog.

import { ask } from "../api.js";
import { el, icon, make } from "../dom.js";
import { info } from "../store.js";
import { explain, images, moment, number, shown } from "../words.js";

export async function openStoreFacts() {
  el("facts")?.remove();
  const list = make("dl");
  const close = make(
    "button",
    { type: "button", className: "bare", "aria-label": "Close", onclick: () => dialog.close() },
    icon("close"),
  );
  const dialog = make(
    "dialog",
    { id: "facts", className: "box", "aria-labelledby": "facts-title" },
    make("header", {}, make("h2", { id: "facts-title" }, "This store"), close),
    list,
  );
  const add = (/** @type {string} */ name, /** @type {string} */ value) =>
    list.append(make("dt", {}, name), make("dd", {}, value));
  add("Images", number(info.images));
  add("Model", `${info.model}, ${info.dim} numbers per image${info.reads_text ? ", reads text" : ""}`);
  add("Last indexed", moment(info.created));
  add("Generation", number(info.generation));
  add("Words searched in", info.words.join(", ") || "none");
  add("Columns", Object.keys(info.columns).join(", "));
  add("embedsearch", info.version);
  document.body.append(dialog);
  dialog.addEventListener("click", (/** @type {any} */ event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
  try {
    const [folders, formats, dates] = await Promise.all([ask("folders"), ask("values/format"), ask("values/taken_at")]);
    const roots = new Map();
    for (const { root, images } of folders.folders) roots.set(root, (roots.get(root) ?? 0) + images);
    for (const [root, count] of [...roots].slice(0, 20)) add("Folder", `${root}, ${images(count)}`);
    add(
      "Formats",
      formats.values.map((/** @type {any} */ { value, images }) => `${shown(value)} ${number(images)}`).join(", "),
    );
    if (dates.total)
      add("Taken", `${shown(dates.min)} to ${shown(dates.max)}; ${number(dates.missing)} without a date`);
  } catch (problem) {
    list.after(make("p", { className: "error" }, explain(problem)));
  }
}
