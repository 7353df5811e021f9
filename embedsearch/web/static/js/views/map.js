// @ts-check
// A map with similar images near each other: points, thumbnails from a zoom on, a lasso that selects.

import { ask, thumbnail } from "../api.js";
import { icon, Latest, make } from "../dom.js";
import { notice, progress } from "../notices.js";
import { pickAll } from "../selection.js";
import { go } from "../state.js";
import { explain, images, number } from "../words.js";
import { isInside } from "./lasso.js";

const latest = new Latest();
/** End what is waited for. */
export const leave = () => latest.stop();
const PICTURES = 160; // drawn at once
const PICTURE = 56; // pixels
const KEPT = 600; // thumbnails in memory
const MOST = 1000; // images that a lasso selects

/** @param {any} holder */
export async function show(holder) {
  const signal = latest.next();
  holder.replaceChildren(make("p", { className: "empty soft", role: "status" }, "Placing images …"));
  progress(null);
  try {
    const found = await ask("map", { signal });
    if (!found.rows.length)
      return void holder.replaceChildren(make("p", { className: "empty" }, "A map needs at least three images."));
    new PictureMap(holder, found, signal).draw();
  } finally {
    if (!signal.aborted) progress(-1);
  }
  return undefined;
}

class PictureMap {
  /** @param {any} holder @param {{rows: number[], x: number[], y: number[], images: number}} found @param {AbortSignal} signal */
  constructor(holder, found, signal) {
    this.found = found;
    this.zoom = 1;
    this.middle = [0.5, 0.5];
    /** @type {number[][] | null} */
    this.line = null;
    this.isLasso = false;
    /** @type {Map<number, any>} */
    this.pictures = new Map();
    this.isDue = false;
    const words = `Map of ${number(found.rows.length)} of ${images(found.images)}. Arrows move it, plus and minus zoom.`;
    this.canvas = make("canvas", { tabIndex: 0, role: "img", "aria-label": words });
    const tool = (/** @type {string} */ label, /** @type {string} */ sign, /** @type {() => void} */ onclick) =>
      make("button", { type: "button", "aria-label": label, title: label, onclick }, icon(sign));
    this.lasso = make(
      "button",
      { type: "button", "aria-pressed": "false", onclick: () => this.setLasso(!this.isLasso) },
      "Lasso",
    );
    const tools = make(
      "div",
      { className: "tools" },
      this.lasso,
      make("button", { type: "button", onclick: () => this.select(this.visible()) }, "Select what is seen"),
      tool("Zoom in", "plus", () => this.scale(1.6)),
      tool("Zoom out", "minus", () => this.scale(1 / 1.6)),
    );
    holder.replaceChildren(make("div", { id: "map" }, this.canvas, tools));
    this.bind();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", () => this.draw(), { signal });
  }

  get size() {
    return [this.canvas.clientWidth, this.canvas.clientHeight];
  }

  /** @param {number} index @returns {number[]} Its place in pixels. */
  at(index) {
    return this.toPixel(this.found.x[index], this.found.y[index]);
  }

  /** @param {number} x @param {number} y */
  toPixel(x, y) {
    const [width, height] = this.size;
    const side = Math.min(width, height) * 0.94 * this.zoom;
    return [
      width / 2 + (x - this.middle[0]) * side * Math.max(1, (width / height) * 0.8),
      height / 2 + (y - this.middle[1]) * side,
    ];
  }

  /** @returns {number[]} Points in the window. */
  visible() {
    const [width, height] = this.size;
    return [...this.found.rows.keys()].filter((index) => {
      const [x, y] = this.at(index);
      return x >= 0 && y >= 0 && x <= width && y <= height;
    });
  }

  draw() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      if (this.canvas.isConnected) this.paint();
    });
  }

  paint() {
    const ratio = devicePixelRatio || 1;
    const [width, height] = this.size;
    [this.canvas.width, this.canvas.height] = [width * ratio, height * ratio];
    const drawing = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    drawing.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const seen = this.visible();
    const withPictures = seen.length <= PICTURES || this.zoom >= 6;
    drawing.fillStyle = style.getPropertyValue("--accent");
    drawing.globalAlpha = 0.7;
    const radius = Math.max(1.5, Math.min(4, 60 / Math.sqrt(seen.length)));
    for (const index of seen) {
      const [x, y] = this.at(index);
      drawing.beginPath();
      drawing.arc(x, y, radius, 0, 7);
      drawing.fill();
    }
    drawing.globalAlpha = 1;
    if (withPictures) for (const index of seen.slice(0, PICTURES)) this.paintPicture(drawing, index);
    if (!this.line) return;
    drawing.strokeStyle = style.getPropertyValue("--ink");
    drawing.setLineDash([6, 4]);
    drawing.beginPath();
    for (const [x, y] of this.line) drawing.lineTo(x, y);
    drawing.closePath();
    drawing.stroke();
  }

  /** @param {CanvasRenderingContext2D} drawing @param {number} index */
  paintPicture(drawing, index) {
    const row = this.found.rows[index];
    let picture = this.pictures.get(row);
    if (!picture) {
      picture = new Image();
      picture.onload = () => this.draw();
      picture.src = thumbnail(row, 128);
      this.pictures.set(row, picture);
      if (this.pictures.size > KEPT) this.pictures.delete(this.pictures.keys().next().value ?? -1);
    }
    if (!picture.naturalWidth) return;
    const scale = PICTURE / Math.max(picture.naturalWidth, picture.naturalHeight);
    const [w, h] = [picture.naturalWidth * scale, picture.naturalHeight * scale];
    const [x, y] = this.at(index);
    drawing.drawImage(picture, x - w / 2, y - h / 2, w, h);
  }

  /** @param {number} factor @param {number[]} [around] In pixels. */
  scale(factor, around) {
    const zoom = Math.min(200, Math.max(1, this.zoom * factor));
    const [x, y] = around ?? this.size.map((side) => side / 2);
    const [x0, y0] = this.toPixel(0, 0);
    const [x1, y1] = this.toPixel(1, 1);
    const at = [(x - x0) / (x1 - x0), (y - y0) / (y1 - y0)];
    const share = 1 - this.zoom / zoom;
    this.middle = [
      this.middle[0] + (at[0] - this.middle[0]) * share,
      this.middle[1] + (at[1] - this.middle[1]) * share,
    ];
    this.zoom = zoom;
    this.draw();
  }

  /** @param {number} dx @param {number} dy In pixels. */
  move(dx, dy) {
    const [x0, y0] = this.toPixel(0, 0);
    const [x1, y1] = this.toPixel(1, 1);
    this.middle = [
      Math.min(1, Math.max(0, this.middle[0] - dx / (x1 - x0))),
      Math.min(1, Math.max(0, this.middle[1] - dy / (y1 - y0))),
    ];
    this.draw();
  }

  /** @param {boolean} isOn */
  setLasso(isOn) {
    this.isLasso = isOn;
    this.canvas.classList.toggle("lasso", isOn);
    this.lasso.setAttribute("aria-pressed", String(isOn));
    this.lasso.classList.toggle("main", isOn);
  }

  /** @param {number[]} chosen */
  async select(chosen) {
    if (!chosen.length) return notice("No image is there.");
    if (chosen.length > MOST) notice(`The first ${number(MOST)} of ${number(chosen.length)} images are selected.`);
    const rows = chosen.slice(0, MOST).map((index) => this.found.rows[index]);
    try {
      const { images: records } = await ask(
        `images?${new URLSearchParams({ k: String(rows.length), where: `row in (${rows.join(",")})` })}`,
      );
      pickAll(records);
    } catch (problem) {
      notice(explain(problem));
    }
    return undefined;
  }

  bind() {
    /** @type {number[] | null} */
    let from = null;
    let moved = 0;
    const place = (/** @type {PointerEvent} */ event) => {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    /** @type {Map<number, number[]>} */
    const fingers = new Map();
    this.canvas.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
      this.canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, place(event));
      from = place(event);
      moved = 0;
      if (this.isLasso || event.shiftKey) this.line = [from];
    });
    this.canvas.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
      if (!from || !fingers.has(event.pointerId)) return;
      const to = place(event);
      const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      if (others.length) {
        const before = /** @type {number[]} */ (fingers.get(event.pointerId));
        const gap = (/** @type {number[]} */ at) => Math.hypot(at[0] - others[0][0], at[1] - others[0][1]);
        this.scale(gap(to) / Math.max(1, gap(before)), others[0]);
      } else if (this.line) {
        this.line.push(to);
        this.draw();
      } else this.move(to[0] - from[0], to[1] - from[1]);
      moved += Math.hypot(to[0] - from[0], to[1] - from[1]);
      fingers.set(event.pointerId, to);
      from = to;
    });
    const end = (/** @type {PointerEvent} */ event) => {
      fingers.delete(event.pointerId);
      if (this.line) {
        const line = this.line;
        this.line = null;
        this.setLasso(false);
        this.select([...this.found.rows.keys()].filter((index) => isInside(this.at(index), line)));
        this.draw();
      } else if (from && moved < 4) this.openAt(from);
      from = null;
    };
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", () => {
      fingers.clear();
      from = null;
      this.line = null;
      this.draw();
    });
    this.canvas.addEventListener(
      "wheel",
      (/** @type {WheelEvent} */ event) => {
        event.preventDefault();
        const box = this.canvas.getBoundingClientRect();
        this.scale(Math.exp(-event.deltaY / 400), [event.clientX - box.left, event.clientY - box.top]);
      },
      { passive: false },
    );
    this.canvas.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const steps = /** @type {Record<string, number[]>} */ ({
        ArrowLeft: [60, 0],
        ArrowRight: [-60, 0],
        ArrowUp: [0, 60],
        ArrowDown: [0, -60],
      })[event.key];
      if (steps) this.move(steps[0], steps[1]);
      else if (event.key === "+" || event.key === "=") this.scale(1.4);
      else if (event.key === "-") this.scale(1 / 1.4);
      else return;
      event.preventDefault();
    });
  }

  /** @param {number[]} place */
  openAt([x, y]) {
    const near = [...this.found.rows.keys()].map((index) => {
      const [px, py] = this.at(index);
      return [Math.hypot(px - x, py - y), index];
    });
    const [distance, index] = near.reduce((best, one) => (one[0] < best[0] ? one : best), [Infinity, -1]);
    if (distance < PICTURE / 2) go({ open: this.found.rows[index] });
  }
}
