// @ts-check
// What the page says beside its images: short notices, trouble, progress.

import { el, fill, make } from "./dom.js";
import { explain } from "./words.js";

const SHOWN_MS = 5000;
const PASSING = ["busy", "failed", "too_slow", "filter_too_slow", ""]; // codes of what another try may mend
const box = el("notice"); // it moves into dialogs, and may go with one
/** @type {any} */
let timer = 0;

/** @param {string} words @param {{button?: string, act?: () => void, stays?: boolean}} [options] */
export function notice(words, { button = "", act = () => {}, stays = false } = {}) {
  clearTimeout(timer);
  fill(
    box,
    make("span", {}, words),
    button !== "" &&
      make(
        "button",
        {
          type: "button",
          onclick: () => {
            quiet();
            act();
          },
        },
        button,
      ),
  );
  // In a modal dialog nothing else of the page is seen.
  (document.querySelector("dialog[open]") ?? document.body).append(box);
  box.hidden = false;
  if (!stays) timer = setTimeout(quiet, SHOWN_MS);
}

export function quiet() {
  box.hidden = true;
  document.body.append(box);
}

/** @param {any} problem @param {() => void} [again] What to try once more. Without a problem: all is well. */
export function trouble(problem, again) {
  el("problem").hidden = !problem;
  if (!problem) return;
  const isFilter = problem.code === "bad_filter" || problem.field === "where";
  const words = isFilter ? `This filter has a mistake: ${explain(problem)}` : explain(problem);
  fill(
    el("problem"),
    make("span", {}, words),
    again !== undefined &&
      PASSING.includes(problem.code ?? "") &&
      make("button", { type: "button", onclick: again }, "Try again"),
  );
}

/** @param {number | null} share From 0 to 1; null for a wait of unknown length; below 0 ends it. */
export function progress(share) {
  el("progress").hidden = share !== null && share < 0;
  el("progress").classList.toggle("waiting", share === null || share >= 1);
  el("progress").style.setProperty("--done", String(share ?? 0.4));
}
