// @ts-check
// Chips: the order, a filter for each column that helps, and SQL for the rest.

import { columnOf, label } from "./conditions.js";
import { el, make, style } from "./dom.js";
import { go, hasPicture, searches, state } from "./state.js";
import { info } from "./store.js";

const ORDERS = {
  "": "Newest first",
  taken_at: "Oldest first",
  path: "By name",
  "-path": "By name, backwards",
  "-size": "Largest file first",
  size: "Smallest file first",
  "-modified": "Changed last",
  row: "Order of the store",
};
const OWN = [
  "row",
  "path",
  "full_path",
  "sha256",
  "width",
  "height",
  "size",
  "modified",
  "brightness",
  "sharpness",
  "gps",
  "status",
  "folder",
  "taken_at",
  "camera",
  "format",
];
const USERS = 3; // columns of the user with a chip of their own

/** @param {string} column @returns {string} */
const title = (column) =>
  ({ taken_at: "Date", folder: "Folder", camera: "Camera", format: "Format" })[column] ??
  column.charAt(0).toUpperCase() + column.slice(1).replaceAll("_", " ");

/** @returns {string[]} Columns with a chip. */
function offered() {
  const users = Object.keys(info.columns).filter(
    (name) => !OWN.includes(name) && !info.words.includes(name) && !/^(struct|map)/.test(info.columns[name]),
  );
  return ["taken_at", "folder", "camera", ...users.slice(0, USERS), "format"];
}

/** @param {string} name @param {string} text @param {boolean} isOn @param {string} [kind] @param {string} [which] */
function chip(name, text, isOn, kind = "", which = "") {
  return make(
    "button",
    {
      type: "button",
      className: `chip ${isOn ? "on" : ""} ${kind}`,
      "data-chip": name,
      "data-which": which,
      "aria-haspopup": kind === "toggle" ? null : "dialog",
      "aria-pressed": kind === "toggle" ? String(isOn) : null,
    },
    make("span", {}, text),
  );
}

export function showChips() {
  const chips = [];
  if (state.group)
    chips.push(chip("group", state.group === "outliers" ? "Outliers ×" : `Group ${state.group} ×`, true, "toggle"));
  else if (!searches(state)) chips.push(chip("order", /** @type {any} */ (ORDERS)[state.order], false));
  else if (hasPicture(state)) chips.push(chip("hide", "Hide copies", state.hide, "toggle"));
  if (!state.group) {
    const used = new Set();
    for (const column of offered()) {
      const which = state.where.findIndex((condition) => columnOf(condition) === column);
      used.add(which);
      chips.push(
        chip(
          column,
          which < 0 ? title(column) : label(state.where[which]),
          which >= 0,
          "",
          which < 0 ? "" : String(which),
        ),
      );
    }
    state.where.forEach((condition, index) => {
      if (!used.has(index)) chips.push(chip("sql", label(condition), true, "", String(index)));
    });
    chips.push(chip("sql", "+ Filter", false));
  }
  const focused = /** @type {any} */ (document.activeElement)?.dataset.chip;
  el("filters").replaceChildren(...chips);
  if (focused) /** @type {any} */ (el("filters").querySelector(`[data-chip="${CSS.escape(focused)}"]`))?.focus();
}

/** @param {number} which -1 adds one. @param {string} condition Empty removes it. */
export function setCondition(which, condition) {
  const where = [...state.where];
  if (which < 0) where.push(condition);
  else where[which] = condition;
  go({ where: where.filter(Boolean), view: "images" });
}

export function bindFilters() {
  el("filters").addEventListener("click", async (/** @type {any} */ event) => {
    const button = event.target.closest("[data-chip]");
    if (!button) return;
    const { chip: name, which } = button.dataset;
    if (name === "hide") return go({ hide: !state.hide });
    if (name === "group") return go({ group: "", view: "groups" });
    const [panels] = await Promise.all([import("./panels.js"), style("panel")]);
    const at = which === "" ? -1 : Number(which);
    if (name === "order") return panels.openOrders(button, ORDERS);
    const isOwn = at >= 0 && label(state.where[at]) === state.where[at]; // not made by a panel
    return panels.openFilter(button, name === "sql" || isOwn ? "" : name, at);
  });
}
