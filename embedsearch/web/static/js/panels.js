// @ts-check
// What opens from a chip: orders, values with counts, ranges, days, folders.

import { ask } from "./api.js";
import { days, holds, inFolder, joined, oneOf, quoted, range } from "./conditions.js";
import { el, make } from "./dom.js";
import { setCondition } from "./filters.js";
import { grid } from "./grid.js";
import { choice, isClosing, open, place, shut } from "./panel.js";
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

/** @param {any} holder @param {AbortSignal} signal Months with the place where each begins. */
async function jumpToMonth(holder, signal) {
  const found = await asked(
    `values/taken_at?${new URLSearchParams({ where: joined(state.where) || "row >= 0" })}`,
    holder,
    signal,
  );
  if (!found?.months?.length) return;
  const months = [...found.months];
  if (state.order === "taken_at") months.reverse();
  let place = 0;
  holder.append(make("h3", {}, "Jump to"));
  for (const { month, images } of months) {
    const at = place;
    holder.append(
      choice(
        new Date(`${month}-01T00:00:00Z`).toLocaleDateString("en", { month: "long", year: "numeric", timeZone: "UTC" }),
        number(images),
        false,
        () => {
          shut();
          grid.jump(at);
        },
      ),
    );
    place += images;
  }
}

/** @param {any} holder @param {AbortSignal} signal */
async function jumpToFolder(holder, signal) {
  const found = await asked(
    `folders?${new URLSearchParams({ where: joined(state.where) || "row >= 0" })}`,
    holder,
    signal,
  );
  if (!found) return;
  holder.append(make("h3", {}, "Only one folder"), ...folderChoices(found.folders, -1));
}

/** @param {string} address @param {any} holder @param {AbortSignal} signal @returns {Promise<any>} */
async function asked(address, holder, signal) {
  try {
    return await ask(address, { signal });
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
  const remove =
    which >= 0 &&
    make(
      "button",
      {
        type: "button",
        onclick: () => {
          shut();
          setCondition(which, "");
        },
      },
      "Remove this filter",
    );
  const signal = open(chip, body, remove);
  const others = joined(state.where.filter((_, index) => index !== which));
  const parameters = others ? `?${new URLSearchParams({ where: others })}` : "";
  const isFolder = column === "folder";
  const address = isFolder ? "folders" : `values/${encodeURIComponent(column)}`;
  const found = await asked(address + parameters, body, signal);
  if (found)
    body.replaceChildren(...(isFolder ? folderChoices(found.folders, which) : valueChoices(column, found, which)));
  if (signal.aborted || !el("panel")) return undefined;
  place(chip, el("panel"));
  el("panel").querySelector("input, button")?.focus();
  return undefined;
}

/** @param {{root: string, folder: string, images: number}[]} folders @param {number} which @returns {any[]} */
function folderChoices(folders, which) {
  const roots = new Set(folders.map(({ root }) => root));
  const counts = new Map();
  for (const { root, folder, images } of folders) {
    const parts = folder ? folder.split("/") : [];
    for (let depth = 0; depth <= parts.length; depth++) {
      const key = JSON.stringify([root, parts.slice(0, depth).join("/")]);
      counts.set(key, (counts.get(key) ?? 0) + images);
    }
  }
  const all = [...counts].map(([key, images]) => ({ root: JSON.parse(key)[0], folder: JSON.parse(key)[1], images }));
  all.sort((a, b) => a.root.localeCompare(b.root) || a.folder.localeCompare(b.folder));
  return all.slice(0, SHOWN).map(({ root, folder, images }) => {
    const depth = folder ? folder.split("/").length - (roots.size > 1 ? 0 : 1) : 0;
    const condition = inFolder(root, folder);
    const line = choice(baseName(folder || root), number(images), state.where[which] === condition, () => {
      shut();
      setCondition(which, condition);
    });
    line.style.paddingLeft = `${8 + 16 * Math.min(depth, 6)}px`;
    return line;
  });
}

/** @param {string} column @param {any} found @param {number} which @returns {any[]} */
function valueChoices(column, found, which) {
  const type = info.columns[column] ?? found.type;
  if (/^timestamp|^date/.test(type)) return dayChoices(column, found, which);
  const isNumber = /int|float|double|decimal/.test(type);
  if (isNumber && found.distinct > FEW) return [rangeForm(column, found, which)];
  if (isNumber) found.values.sort((/** @type {any} */ a, /** @type {any} */ b) => b.value - a.value);
  const isList = /^list/.test(type);
  const rows = found.values.slice(0, SHOWN).map((/** @type {any} */ { value, images }) => {
    const condition = isList ? holds(column, value) : oneOf(column, [value]);
    return choice(shown(value), number(images), state.where[which] === condition, () => {
      shut();
      setCondition(which, condition);
    });
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
    parts.push(
      choice("no value", number(found.missing), false, () => {
        shut();
        setCondition(which, `${quoted(column)} is null`);
      }),
    );
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
    shut();
    setCondition(which, range(column, form.elements.from.value.trim(), form.elements.to.value.trim()));
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
    shut();
    setCondition(which, days(column, form.elements.from.value, form.elements.to.value));
  };
  const months = (found.months ?? []).slice(0, SHOWN).map((/** @type {any} */ { month, images }) => {
    const last = new Date(Date.UTC(Number(month.slice(0, 4)), Number(month.slice(5)), 0)).toISOString().slice(0, 10);
    return choice(
      new Date(`${month}-01T00:00:00Z`).toLocaleDateString("en", { month: "long", year: "numeric", timeZone: "UTC" }),
      number(images),
      false,
      () => {
        shut();
        setCondition(which, days(column, `${month}-01`, last));
      },
    );
  });
  return [form, make("h3", {}, "Months"), ...months];
}
