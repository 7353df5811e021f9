// @ts-check
// A panel that opens from a chip, and a choice in it.

import { el, Latest, make } from "./dom.js";
import { setCondition } from "./filters.js";

const latest = new Latest();
const AGAIN_MS = 300; // a click on a chip has closed its panel
/** @type {{chip: string, at: number}} */
let closed = { chip: "", at: -Infinity };

/** @param {any} chip @param {...any} children @returns {AbortSignal} Ends when the panel closes. */
export function open(chip, ...children) {
  el("panel")?.remove();
  const signal = latest.next();
  const panel = make(
    "div",
    { id: "panel", className: "panel", popover: "auto", role: "dialog", "aria-label": chip.textContent },
    ...children,
  );
  document.body.append(panel);
  panel.addEventListener("toggle", (/** @type {any} */ event) => {
    chip.setAttribute("aria-expanded", String(event.newState === "open"));
    if (event.newState === "closed") {
      latest.stop();
      panel.remove();
      closed = { chip: nameOf(chip), at: performance.now() };
      if (document.activeElement !== document.body) return;
      const same = `[data-chip="${chip.dataset.chip}"][data-which="${chip.dataset.which}"]`;
      const there = chip.isConnected
        ? chip
        : (document.querySelector(same) ?? document.querySelector(`[data-chip="${chip.dataset.chip}"]`));
      /** @type {any} */ (there)?.focus();
    }
  });
  panel.showPopover();
  place(chip, panel);
  panel.querySelector("input, button")?.focus();
  return signal;
}

/** @param {any} chip @returns {string} */
const nameOf = (chip) => `${chip.dataset.chip} ${chip.dataset.which}`;

/** @param {any} chip @returns {boolean} Whether the same click has just closed its panel. */
export const isClosing = (chip) => closed.chip === nameOf(chip) && performance.now() - closed.at < AGAIN_MS;

/** @param {any} chip @param {any} panel */
export function place(chip, panel) {
  const box = chip.getBoundingClientRect();
  panel.style.left = `${Math.max(8, Math.min(box.left, innerWidth - panel.offsetWidth - 8))}px`;
  panel.style.top = `${Math.max(8, Math.min(box.bottom + 6, innerHeight - panel.offsetHeight - 8))}px`;
}

export const shut = () => el("panel")?.hidePopover();

/** @param {number} which @param {string} condition Close the panel, and filter by it; an empty one removes the filter. */
export function filter(which, condition) {
  shut();
  setCondition(which, condition);
}

/** @param {number} which @param {string} words @returns {any} A button, for a filter that there is. */
export const removal = (which, words) =>
  which >= 0 && make("button", { type: "button", onclick: () => filter(which, "") }, words);

/** @param {string} words @param {string} more @param {boolean} isOn @param {() => void} onclick */
export const choice = (words, more, isOn, onclick) =>
  make(
    "button",
    { type: "button", className: "choice", "aria-pressed": String(isOn), onclick, title: words },
    make("span", {}, words),
    more && make("small", {}, more),
  );
