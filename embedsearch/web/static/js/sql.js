// @ts-check
// The panel for a condition in SQL, which completes names of columns.

import { quoted } from "./conditions.js";
import { make } from "./dom.js";
import { filter, open, removal, shut } from "./panel.js";
import { state } from "./state.js";
import { info } from "./store.js";

/** @param {any} chip @param {number} which */
export function openSql(chip, which) {
  const box = make("input", {
    type: "text",
    name: "sql",
    value: which < 0 ? "" : state.where[which],
    spellcheck: false,
    autocomplete: "off",
    maxLength: 2000,
    placeholder: "width > 1000",
    role: "combobox",
    "aria-label": "Condition in SQL",
    "aria-expanded": "false",
    "aria-controls": "columns",
    "aria-autocomplete": "list",
  });
  const list = make("div", { id: "columns", role: "listbox", "aria-label": "Columns" });
  const form = make(
    "form",
    {},
    make("h3", {}, "Condition in SQL, over these columns"),
    box,
    list,
    make("div", { className: "row-of" }, make("button", { className: "main" }, "Apply"), removal(which, "Remove")),
  );
  let chosen = -1;
  const offers = () => /** @type {any[]} */ ([...list.children]);
  const choose = (/** @type {number} */ index) => {
    chosen = index;
    offers().forEach((node, at) => {
      node.ariaSelected = String(at === index);
    });
    if (index < 0) box.removeAttribute("aria-activedescendant");
    else {
      box.setAttribute("aria-activedescendant", offers()[index].id);
      offers()[index].scrollIntoView({ block: "nearest" });
    }
  };
  const complete = (/** @type {string} */ name) => {
    const before = box.value.slice(0, box.selectionStart).replace(/[\w"]*$/, "") + quoted(name);
    box.value = `${before} ${box.value.slice(box.selectionStart).trimStart()}`;
    box.setSelectionRange(before.length + 1, before.length + 1);
    box.focus();
    offer();
  };
  const offer = () => {
    const before = box.value.slice(0, box.selectionStart);
    const isText = (before.split("'").length - 1) % 2 === 1; // within quotes no name is meant
    const word = /[\w]*$/.exec(before)?.[0].toLowerCase() ?? "";
    const names = isText
      ? []
      : Object.keys(info.columns).filter((name) => name.toLowerCase().includes(word) && name.toLowerCase() !== word);
    names.sort((a, b) => Number(b.toLowerCase().startsWith(word)) - Number(a.toLowerCase().startsWith(word)));
    list.replaceChildren(
      ...(word || !before.trim() ? names.slice(0, 40) : []).map((name, index) => {
        const node = make(
          "div",
          {
            id: `column-${index}`,
            role: "option",
            onpointerdown: (/** @type {Event} */ event) => {
              event.preventDefault();
              complete(name);
            },
          },
          name,
          make("small", { className: "soft" }, info.columns[name]),
        );
        node.dataset.name = name;
        return node;
      }),
    );
    box.ariaExpanded = String(list.children.length > 0);
    choose(-1);
  };
  box.oninput = offer;
  box.onkeydown = (/** @type {KeyboardEvent} */ event) => {
    const count = offers().length;
    if (count && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      const next = chosen + (event.key === "ArrowDown" ? 1 : -1);
      choose(next >= count ? -1 : next < -1 ? count - 1 : next);
    } else if (chosen >= 0 && (event.key === "Enter" || event.key === "Tab")) complete(offers()[chosen].dataset.name);
    else return;
    event.preventDefault();
  };
  form.onsubmit = (/** @type {Event} */ event) => {
    event.preventDefault();
    const text = box.value.trim();
    if (text || which >= 0) filter(which, text);
    else shut();
  };
  open(chip, form);
  offer();
}
