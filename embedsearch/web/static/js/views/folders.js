// @ts-check
// The folders of the store as a tree, with the number of images in each and below it.

import { ask } from "../api.js";
import { inFolder } from "../conditions.js";
import { icon, Latest, make } from "../dom.js";
import { childrenOf, treeOf } from "../folder_tree.js";
import { NOTHING, written } from "../state.js";
import { baseName, images } from "../words.js";

/** @typedef {import("../folder_tree.js").Node} Node */
const latest = new Latest();
/** End what is waited for. */
export const leave = () => latest.stop();

/** @param {any} holder */
export async function show(holder) {
  holder.replaceChildren(make("p", { className: "empty soft" }, "Loading …"));
  const signal = latest.next();
  const found = await ask("folders", { signal });
  const roots = treeOf(found.folders);
  const list = make("ul", {}, ...roots.map((node) => item(node, roots.length === 1)));
  holder.replaceChildren(
    make(
      "div",
      { className: "folders" },
      list,
      found.truncated && make("p", { className: "soft" }, "There are more folders."),
    ),
  );
}

/** @param {Node} node @param {boolean} isOpen @returns {any} */
function item(node, isOpen) {
  const below = make("ul", { hidden: true });
  const hasMore = node.children.size > 0;
  const toggle = make(
    "button",
    { type: "button", className: "bare", "aria-expanded": "false", "aria-label": `Folders in ${baseName(node.name)}` },
    icon("right"),
  );
  if (!hasMore) toggle.style.visibility = "hidden";
  toggle.onclick = () => {
    if (!below.children.length) below.append(...childrenOf(node).map((child) => item(child, false)));
    below.hidden = !below.hidden;
    toggle.setAttribute("aria-expanded", String(!below.hidden));
  };
  const link = make("a", { href: written({ ...NOTHING, where: [inFolder(node.root, node.folder)] }) }, node.name);
  const line = make("div", { className: "line" }, toggle, link, make("small", {}, images(node.all)));
  if (isOpen && hasMore) toggle.onclick();
  return make("li", {}, line, below);
}
