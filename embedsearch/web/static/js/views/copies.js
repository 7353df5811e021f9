// @ts-check
// Copies of pictures, each group with the one to keep. Nothing is deleted here.

import { ask, thumbnail } from "../api.js";
import { el, icon, Latest, make } from "../dom.js";
import { progress } from "../notices.js";
import { go, KEEPS, KINDS, state, written } from "../state.js";
import { bytes, images, number, spoken } from "../words.js";

const latest = new Latest();
/** End what is waited for. */
export const leave = () => latest.stop();
const SHOWN = 50; // groups at a time
const KIND_WORDS = { same: "Same picture", turned: "Mirrored or turned", parts: "Cut out", similar: "Look-alikes" };

/** @param {any} holder */
export async function show(holder) {
  const signal = latest.next();
  const status = make(
    "p",
    { className: "soft about", role: "status" },
    "Comparing pictures. This takes a while in a large store …",
  );
  holder.replaceChildren(make("div", { className: "marks bar" }, ...chips(), status));
  progress(null);
  try {
    const found = await ask(`copies?${new URLSearchParams({ kind: state.kind, keep: state.keep })}`, { signal });
    status.textContent = [
      images(found.groups.length, "group", "groups"),
      images(found.copies, "copy", "copies"),
      bytes(found.bytes),
      "nothing is deleted here",
    ].join(" · ");
    if (state.kind === "same") el("view-copies").dataset.count = found.groups.length ? number(found.groups.length) : "";
    if (found.truncated) status.textContent += " · the list is cut, the script has them all";
    if (!found.groups.length) holder.append(make("p", { className: "empty" }, "No copies were found."));
    draw(holder, found.groups, 0);
  } finally {
    if (!signal.aborted) progress(-1);
  }
}

function chips() {
  const kinds = KINDS.map((kind) =>
    make(
      "button",
      {
        type: "button",
        className: `chip toggle ${state.kind === kind ? "on" : ""}`,
        "aria-pressed": String(state.kind === kind),
        onclick: () => go({ kind }),
      },
      /** @type {any} */ (KIND_WORDS)[kind],
    ),
  );
  const keep = make(
    "select",
    { "aria-label": "Which one to keep", className: "chip" },
    ...KEEPS.map((rule) => make("option", { value: rule, selected: state.keep === rule }, `Keep: ${rule}`)),
  );
  keep.onchange = () => go({ keep: keep.value });
  const script = make(
    "a",
    {
      className: "button chip toggle",
      href: `copies/script?${new URLSearchParams({ kind: state.kind, keep: state.keep })}`,
      download: "delete_copies.sh",
    },
    icon("download"),
    "Save delete script …",
  );
  return [...kinds, keep, script];
}

/** @param {any} holder @param {any[]} groups @param {number} from */
function draw(holder, groups, from) {
  const cards = groups.slice(from, from + SHOWN).map((group, index) => card(group, from + index + 1));
  holder.append(...cards);
  if (groups.length <= from + SHOWN) return;
  const more = make("button", { type: "button" }, `Show more of ${number(groups.length)} groups`);
  more.onclick = () => {
    more.remove();
    draw(holder, groups, from + SHOWN);
  };
  holder.append(more);
}

/** @param {any} group @param {number} place */
function card(group, place) {
  const all = [group.keep, ...group.copies];
  const compare = make(
    "button",
    {
      type: "button",
      className: "bare link",
      onclick: () => import("./compare.js").then((module) => module.compare(group)),
    },
    "compare ⇄",
  );
  return make(
    "section",
    { className: "card", "aria-label": `Group ${place}` },
    make(
      "header",
      {},
      make("h2", {}, `Group ${number(place)}`),
      make("span", { className: "soft" }, `${images(all.length, "picture", "pictures")} ·`, compare),
    ),
    make("ul", { className: "copies" }, ...all.map((member) => figure(member, group.keep))),
  );
}

/** @param {any} member @param {any} keep */
function figure(member, keep) {
  const isKept = member === keep;
  const words = {
    keep: "✓ Keep",
    "same bytes": "Same file",
    copy: member.width * member.height < keep.width * keep.height ? "Smaller copy" : "Copy",
  };
  const what = /** @type {any} */ (words)[member.what] ?? member.what.charAt(0).toUpperCase() + member.what.slice(1);
  const isSmaller = !isKept && member.width * member.height < keep.width * keep.height;
  const isLighter = !isKept && member.size_bytes < keep.size_bytes;
  const link = make(
    "a",
    { href: written({ ...state, open: member.row }), "aria-label": `Open ${spoken(member.key)}` },
    make("img", { src: thumbnail(member.row), alt: "", loading: "lazy" }),
  );
  link.onclick = (/** @type {MouseEvent} */ event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go({ open: member.row });
  };
  return make(
    "li",
    { className: `copy ${isKept ? "keep" : ""}` },
    link,
    make(
      "div",
      {},
      make("p", { className: "what" }, what),
      make("p", { title: member.full_path }, member.key),
      make(
        "p",
        { className: "soft" },
        make("span", { className: isSmaller ? "worse" : "" }, `${number(member.width)} × ${number(member.height)}`),
        " · ",
        make("span", { className: isLighter ? "worse" : "" }, bytes(member.size_bytes)),
        ` · ${member.format}`,
      ),
    ),
  );
}
