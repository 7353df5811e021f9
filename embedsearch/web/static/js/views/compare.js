// @ts-check
// Two pictures of a group over each other, with a slider between them.

import { icon, make, style } from "../dom.js";
import { baseName } from "../words.js";

/** @param {any} group */
export async function compare(group) {
  await style("viewer");
  const close = make(
    "button",
    { type: "button", className: "bare", "aria-label": "Close", onclick: () => dialog.close() },
    icon("close"),
  );
  const source = (/** @type {any} */ { row }) => `images/${row}/thumbnail?side=1024`;
  const over = make("img", { alt: `Copy: ${group.copies[0].key}`, src: source(group.copies[0]) });
  const both = make(
    "div",
    { className: "compare" },
    make("img", { alt: `Keep: ${group.keep.key}`, src: source(group.keep) }),
    over,
  );
  const slider = make("input", {
    type: "range",
    min: "0",
    max: "100",
    value: "50",
    "aria-label": "How much of the one to keep is seen",
  });
  slider.oninput = () => both.style.setProperty("--at", `${slider.value}%`);
  const which = make(
    "select",
    { "aria-label": "Copy to compare" },
    ...group.copies.map((/** @type {any} */ copy, /** @type {number} */ index) =>
      make("option", { value: String(index) }, baseName(copy.key)),
    ),
  );
  which.onchange = () => {
    over.src = source(group.copies[Number(which.value)]);
    over.alt = `Copy: ${group.copies[Number(which.value)].key}`;
  };
  const names = make(
    "p",
    { className: "row-of" },
    make("span", {}, `Left: ${baseName(group.keep.key)} (keep). Right: `),
    which,
  );
  const dialog = make(
    "dialog",
    { className: "box", "aria-labelledby": "compare-title" },
    make("header", {}, make("h2", { id: "compare-title" }, "Compare"), close),
    both,
    slider,
    names,
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
