// The filter, and the names of columns that complete it.

import { el, make } from "./dom.js";
import { info } from "./store.js";

let offered = [];
let chosen = -1;

function offer() {
  const box = el("where");
  const word = /[\w"]*$/.exec(box.value.slice(0, box.selectionStart))[0].replace(/"/g, "").toLowerCase();
  const names = Object.keys(info.columns);
  const begins = names.filter((name) => name.toLowerCase().startsWith(word));
  const holds = names.filter((name) => name.toLowerCase().includes(word) && !begins.includes(name));
  offered = word ? [...begins, ...holds].slice(0, 8) : [];
  if (offered.length === 1 && offered[0].toLowerCase() === word) offered = [];
  chosen = -1;
  showOffers();
}

function showOffers() {
  const list = el("columns");
  list.replaceChildren(...offered.map((name, index) => {
    const option = make("li", { id: `column-${index}`, textContent: name }, make("small", { textContent: info.columns[name] }));
    option.role = "option";
    option.ariaSelected = String(index === chosen);
    option.onpointerdown = (event) => { event.preventDefault(); complete(name); };
    return option;
  }));
  list.hidden = !offered.length;
  el("where").ariaExpanded = String(Boolean(offered.length));
  if (chosen >= 0) el("where").setAttribute("aria-activedescendant", `column-${chosen}`);
  else el("where").removeAttribute("aria-activedescendant");
}

function complete(name) {
  const box = el("where");
  const before = box.value.slice(0, box.selectionStart).replace(/[\w"]*$/, "");
  const text = /^[a-z_]\w*$/i.test(name) ? name : `"${name.replace(/"/g, '""')}"`;
  const after = box.value.slice(box.selectionStart);
  box.value = `${before}${text} ${after.replace(/^ /, "")}`;
  box.setSelectionRange(before.length + text.length + 1, before.length + text.length + 1);
  offered = [];
  showOffers();
}

el("where").addEventListener("input", offer);
el("where").addEventListener("blur", () => { offered = []; showOffers(); });
el("where").addEventListener("keydown", (event) => {
  if (offered.length && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    chosen = (chosen + (event.key === "ArrowDown" ? 1 : -1) + offered.length + 1) % (offered.length + 1);
    if (chosen === offered.length) chosen = -1;
    showOffers();
    event.preventDefault();
  } else if (chosen >= 0 && (event.key === "Enter" || event.key === "Tab")) {
    complete(offered[chosen]);
    event.preventDefault();
  } else if (event.key === "Escape" && offered.length) {
    offered = [];
    showOffers();
    event.stopPropagation();
  }
});
