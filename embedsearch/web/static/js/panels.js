// @ts-check
// What opens from a chip: orders, values with counts, ranges, days, folders.

import { ask } from "./api.js";
import { days, holds, inFolder, joined, oneOf, quoted, range } from "./conditions.js";
import { el, make } from "./dom.js";
import { linesOf, treeOf } from "./folder_tree.js";
import { grid } from "./grid.js";
import { choice, filter, isClosing, open, place, removal, shut } from "./panel.js";
import { openSql } from "./sql.js";
import { go, state } from "./state.js";
import { info } from "./store.js";
import { baseName, explain, number, shown } from "./words.js";

const SHOWN = 200; // values of a list
const FEW = 12; // numbers that are offered one by one

/** @param {any} chip @param {Record<string, string>} orders */
export function openOrders(chip, orders) {
  if (isClosing(chip)) return;
  const choices = Object.entries(orders).map(([order, words]) =>
    choice(words, "", state.order === order, () => {
      shut();
      go({ order });
    }),
  );
  const month = make("div", {});
  const signal = open(chip, make("h3", {}, "Order"), ...choices, month);
  if (/^(taken_at)?$/.test(state.order)) jumpToMonth(month, signal);
  else if (/path/.test(state.order)) jumpToFolder(month, signal);
}

/** @param {string} month As 2024-05. */
const monthName = (month) =>
  new Date(`${month}-01T00:00:00Z`).toLocaleDateString("en", { month: "long", year: "numeric", timeZone: "UTC" });

/** @param {any} holder @param {AbortSignal} signal Months with the place where each begins. */
async function jumpToMonth(holder, signal) {
  const found = await asked("values/taken_at", state.where, holder, signal);
  if (!found?.months?.length) return;
  const months = [...found.months];
  if (state.order === "taken_at") months.reverse();
  let place = 0;
  holder.append(make("h3", {}, "Jump to"));
  for (const { month, images } of months) {
    const at = place;
    holder.append(
      choice(monthName(month), number(images), false, () => {
        shut();
        grid.jump(at);
      }),
    );
    place += images;
  }
}

/** @param {any} holder @param {AbortSignal} signal */
async function jumpToFolder(holder, signal) {
  const found = await asked("folders", state.where, holder, signal);
  if (!found) return;
  holder.append(make("h3", {}, "Only one folder"), ...folderChoices(found.folders, -1));
}

/** @param {string} address @param {string[]} where @param {any} holder @param {AbortSignal} signal @returns {Promise<any>} */
async function asked(address, where, holder, signal) {
  const parameters = where.length ? `?${new URLSearchParams({ where: joined(where) })}` : "";
  try {
    return await ask(address + parameters, { signal });
  } catch (problem) {
    if (!signal.aborted) holder.append(make("p", { className: "error" }, explain(problem)));
    return null;
  }
}

/** @param {any} chip @param {string} column Empty for SQL. @param {number} which The condition that it has, or -1. */
export async function openFilter(chip, column, which) {
  if (isClosing(chip)) return undefined;
  if (!column) return openSql(chip, which);
  const body = make("div", {}, make("p", { className: "soft" }, "Loading …"));
  const signal = open(chip, body, removal(which, "Remove this filter"));
  const others = state.where.filter((_, index) => index !== which);
  const isFolder = column === "folder";
  const address = isFolder ? "folders" : `values/${encodeURIComponent(column)}`;
  const found = await asked(address, others, body, signal);
  if (found)
    body.replaceChildren(...(isFolder ? folderChoices(found.folders, which) : valueChoices(column, found, which)));
  if (signal.aborted || !el("panel")) return undefined;
  place(chip, el("panel"));
  el("panel").querySelector("input, button")?.focus();
  return undefined;
}

/** @param {{root: string, folder: string, images: number}[]} folders @param {number} which @returns {any[]} */
function folderChoices(folders, which) {
  const lines = treeOf(folders).flatMap((root) => linesOf(root));
  return lines.slice(0, SHOWN).map(({ node, depth }) => {
    const condition = inFolder(node.root, node.folder);
    const isOn = state.where[which] === condition;
    const line = choice(baseName(node.name), number(node.all), isOn, () => filter(which, condition));
    line.style.paddingLeft = `${8 + 16 * Math.min(depth, 6)}px`;
    return line;
  });
}

/** @param {string} column @param {any} found @param {number} which @returns {any[]} */
function valueChoices(column, found, which) {
  const type = info.columns[column] ?? found.type;
  if (/^timestamp|^date/.test(type)) return dayChoices(column, found, which);
  const isList = /^list/.test(type);
  const isNumber = !isList && /int|float|double|decimal/.test(type);
  if (isNumber && found.distinct > FEW) return [rangeForm(column, found, which)];
  if (isNumber) found.values.sort((/** @type {any} */ a, /** @type {any} */ b) => b.value - a.value);
  const rows = found.values.slice(0, SHOWN).map((/** @type {any} */ { value, images }) => {
    const condition = isList ? holds(column, value) : oneOf(column, [value]);
    return choice(shown(value), number(images), state.where[which] === condition, () => filter(which, condition));
  });
  if (!rows.length)
    return [
      make(
        "p",
        { className: "soft" },
        found.total ? "Nearly every image has its own value: use “+ Filter”." : "No image has a value.",
      ),
    ];
  const parts = isNumber ? [rangeForm(column, found, which), ...rows] : rows;
  if (found.missing)
    parts.push(choice("no value", number(found.missing), false, () => filter(which, `${quoted(column)} is null`)));
  return parts;
}

/** @param {string} column @param {any} found @param {number} which */
function rangeForm(column, found, which) {
  const field = (/** @type {string} */ name, /** @type {any} */ bound) =>
    make("input", {
      type: "text",
      inputMode: "decimal",
      name,
      placeholder: shown(bound),
      "aria-label": name,
      pattern: "-?[0-9]+([.][0-9]+)?",
    });
  const form = make(
    "form",
    {},
    make("h3", {}, `${column} from … to …`),
    make("div", { className: "row-of" }, field("from", found.min), field("to", found.max)),
    make("button", { className: "main" }, "Apply"),
  );
  form.onsubmit = (/** @type {Event} */ event) => {
    event.preventDefault();
    filter(which, range(column, form.elements.from.value.trim(), form.elements.to.value.trim()));
  };
  return form;
}

/** @param {string} column @param {any} found @param {number} which @returns {any[]} */
function dayChoices(column, found, which) {
  if (!found.total) return [make("p", { className: "soft" }, "No image has a date.")];
  const field = (/** @type {string} */ name, /** @type {string} */ bound) =>
    make("input", {
      type: "date",
      name,
      "aria-label": name === "from" ? "First day" : "Last day",
      title: shown(bound),
    });
  const form = make(
    "form",
    {},
    make("h3", {}, "First and last day"),
    make("div", { className: "row-of" }, field("from", found.min), field("to", found.max)),
    make("button", { className: "main" }, "Apply"),
  );
  form.onsubmit = (/** @type {Event} */ event) => {
    event.preventDefault();
    filter(which, days(column, form.elements.from.value, form.elements.to.value));
  };
  const months = (found.months ?? []).slice(0, SHOWN).map((/** @type {any} */ { month, images }) => {
    const last = new Date(Date.UTC(Number(month.slice(0, 4)), Number(month.slice(5)), 0)).toISOString().slice(0, 10);
    return choice(monthName(month), number(images), false, () => filter(which, days(column, `${month}-01`, last)));
  });
  return [form, make("h3", {}, "Months"), ...months];
}
