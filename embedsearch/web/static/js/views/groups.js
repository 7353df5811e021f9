// @ts-check
// Groups of similar images, each with its most typical ones, and what is like nothing else.

import { ask, thumbnail } from "../api.js";
import { Latest, make } from "../dom.js";
import { progress } from "../notices.js";
import { NOTHING, written } from "../state.js";
import { images } from "../words.js";

const latest = new Latest();
/** End what is waited for. */
export const leave = () => latest.stop();

/** @param {any} holder */
export async function show(holder) {
  const signal = latest.next();
  holder.replaceChildren(make("p", { className: "empty soft", role: "status" }, "Grouping similar images …"));
  progress(null);
  try {
    const found = await ask("groups", { signal });
    const cards = found.groups.map((/** @type {any} */ group) =>
      card(`Group ${group.number}`, group, String(group.number)),
    );
    const grid = make("div", { className: "groups" }, ...cards);
    holder.replaceChildren(
      found.groups.length ? grid : make("p", { className: "empty" }, "The store holds no images to group."),
    );
    if (!found.groups.length) return;
    const { images: oddest, total } = await ask("outliers?k=4", { signal }); // slower: the groups are there meanwhile
    grid.append(card("Outliers", { images: total, representatives: oddest }, "outliers"));
  } finally {
    if (!signal.aborted) progress(-1);
  }
}

/** @param {string} title @param {any} group @param {string} name */
function card(title, group, name) {
  const faces = group.representatives
    .slice(0, 4)
    .map((/** @type {any} */ { row }) => make("img", { src: thumbnail(row), alt: "", loading: "lazy" }));
  return make(
    "a",
    { className: "group", href: written({ ...NOTHING, group: name }) },
    make("div", { className: "four" }, ...faces),
    make("p", {}, make("strong", {}, title), make("span", { className: "soft" }, images(group.images))),
  );
}
