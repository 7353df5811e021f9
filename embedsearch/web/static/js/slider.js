// @ts-check
// The least similarity, under a histogram of all scores.

import { debounced, el } from "./dom.js";
import { go, sameImages, state } from "./state.js";
import { two } from "./words.js";

/** @type {import("./source.js").Scores | null} */
let scores = null;
let isBound = false;
/** @type {import("./state.js").State | null} What was shown when the slider moved, until that is searched for. */
let moved = null;

/**
 * @param {import("./source.js").Scores | null} found null if they are not known yet
 * @param {boolean} isSame Whether those that are shown are of the same search.
 */
export function showScores(found, isSame) {
  if (!isBound) bind();
  if (!found && !isSame) scores = null;
  if (found) {
    scores = found;
    const some = found.counts
      .map((count, index) => [count, found.low + index * found.step])
      .filter(([count]) => count > 0);
    el("least-range").min = String(Math.min(0, some[0]?.[1] ?? 0).toFixed(2));
    el("least-range").max = "1";
  }
  if (moved && !sameImages(moved, state)) moved = null; // another search came meanwhile
  if (!moved) el("least-range").value = String(state.least ?? el("least-range").min);
  show();
}

function show() {
  const value = Number(el("least-range").value);
  const isOff = value <= Number(el("least-range").min);
  el("least-out").textContent = isOff ? "off" : two(value);
  el("least-range").setAttribute("aria-valuetext", isOff ? "off" : two(value));
  draw(isOff ? -2 : value);
}

/** @param {number} least */
function draw(least) {
  const canvas = el("least-canvas");
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  const drawing = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  drawing.scale(ratio, ratio);
  if (!scores || !width) return;
  const style = getComputedStyle(document.documentElement);
  const [min, max] = [Number(el("least-range").min), 1];
  const most = Math.max(...scores.counts, 1);
  const inner = width - 16; // the thumb's middle goes from 8 to width - 8
  const { low, step, counts } = scores;
  counts.forEach((count, index) => {
    const from = low + index * step;
    if (!count || from < min - 0.001) return;
    const x = 8 + ((from - min) / (max - min)) * inner;
    const tall = Math.max(2, Math.sqrt(count / most) * height); // few good ones are seen beside many others
    drawing.fillStyle = style.getPropertyValue(from + step / 2 >= least ? "--accent" : "--line");
    drawing.fillRect(x, height - tall, Math.max(1, (step / (max - min)) * inner - 1), tall);
  });
}

function bind() {
  isBound = true;
  el("least-range").disabled = false;
  const search = debounced(() => {
    const isLate = !moved || !sameImages(moved, state);
    moved = null;
    if (isLate) return;
    const value = Number(el("least-range").value);
    go({ least: value <= Number(el("least-range").min) ? null : value, open: state.open }, { replace: true });
  }, 250);
  el("least-range").addEventListener("input", () => {
    moved = state;
    show();
    search();
  });
}
