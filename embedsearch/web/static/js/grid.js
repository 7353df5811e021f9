// @ts-check
// The images in justified rows, in sections of which only those near the window are there: memory
// does not grow with the number of images.

import { debounced, el, isPhone, Latest, make } from "./dom.js";
import { rowHeight, rowsOf } from "./rows.js";
import { state } from "./state.js";
import { captionOf, decorate, makeTile, ratioOf, stopLoading } from "./tile.js";
import { explain } from "./words.js";

/** @typedef {import("./api.js").Image} Image */
/** @typedef {import("./source.js").Page} Page */
/** @typedef {(offset: number, k: number, signal: AbortSignal) => Promise<Page>} Source */

const SECTION = 60; // images
const LAST_ROW = 0.6; // share of the width from which the last row of a section is stretched
const [NEAR, FAR] = [900, 5000]; // pixels from the window
const NARROW = 150; // pixels: no room for all buttons

class Section {
  /** @param {number} number @param {any} node */
  constructor(number, node) {
    this.number = number;
    this.node = node;
    /** @type {Image[] | null} */
    this.items = null;
    this.loading = new Latest();
    /** @type {Promise<void> | null} */
    this.coming = null;
  }
}

class Grid {
  /** @type {Section[]} */
  sections = [];
  total = 0;
  /** @type {Source | null} */
  #source = null;
  #latest = new Latest();
  #isDue = false;
  /** @type {string[] | null} Columns with captions, if they are shown. */
  #captions = null;
  /** @type {Section | null} One that is asked for, wherever it is. */
  #pinned = null;

  constructor() {
    let width = 0;
    new ResizeObserver(
      debounced(() => {
        if (this.#width() === width) return;
        width = this.#width();
        this.layOut();
      }, 60),
    ).observe(el("grid"));
    addEventListener("scroll", () => this.#lookSoon(), { passive: true });
    addEventListener("resize", () => this.#lookSoon());
  }

  /**
   * Show what a source has. What is shown stays until its first page is there. Raises Problem.
   * @param {Source} source @param {string[] | null} captions @returns {Promise<Page | null>} null if another one came meanwhile
   */
  async show(source, captions) {
    const signal = this.#latest.next();
    el("grid").classList.add("stale");
    el("grid").ariaBusy = "true";
    try {
      const page = await source(0, SECTION, signal);
      signal.throwIfAborted();
      this.#fill(source, page, captions);
      return page;
    } catch (error) {
      if (signal.aborted) return null;
      throw error;
    } finally {
      if (!signal.aborted) {
        el("grid").classList.remove("stale");
        el("grid").ariaBusy = "false";
      }
    }
  }

  /** @param {Source} source @param {Page} page @param {string[] | null} captions */
  #fill(source, page, captions) {
    this.#clear();
    this.#source = source;
    this.#captions = captions && page.items.some((image) => captionOf(image, captions)) ? captions : null;
    this.total = page.total;
    const count = Math.max(1, Math.ceil(page.reach / SECTION));
    const nodes = [];
    for (let number = 0; number < count; number++) {
      const node = make("div", { className: "section" });
      node.dataset.section = String(number);
      this.sections.push(new Section(number, node));
      nodes.push(node);
    }
    this.#place(this.sections[0], page.items);
    el("grid").replaceChildren(...nodes);
    this.#guess();
    this.#lookSoon();
  }

  #clear() {
    for (const section of this.sections) section.loading.stop();
    stopLoading(el("grid"));
    this.sections = [];
  }

  /** Give sections that are not there the height that they will have about. */
  #guess() {
    const first = this.sections[0]?.node.offsetHeight ?? 0;
    for (const section of this.sections) if (!section.items) section.node.style.height = `${first}px`;
    const rest = this.total - (this.sections.length - 1) * SECTION;
    const last = this.sections.at(-1);
    if (last && !last.items) last.node.style.height = `${Math.round((first * Math.max(1, rest)) / SECTION)}px`;
  }

  #lookSoon() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#look();
    });
  }

  /** Load the sections near the window, and let go of those far from it. */
  #look() {
    if (!this.sections.length || el("grid").hidden) return;
    const last = this.#at(innerHeight + NEAR);
    const near = this.sections.slice(this.#at(-NEAR), last + 1);
    for (const section of near) this.#load(section);
    for (const section of this.sections) {
      if (section.coming && section !== this.#pinned && !near.includes(section)) section.loading.stop();
      if (section.items && !near.includes(section)) this.#letGo(section);
    }
  }

  /** @param {number} y In the window. @returns {number} The first section that ends below it. */
  #at(y) {
    let [low, high] = [0, this.sections.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.sections[middle].node.getBoundingClientRect().bottom < y) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** @param {Section} section */
  #letGo(section) {
    const { top, bottom, height } = section.node.getBoundingClientRect();
    if (section === this.#pinned || section.items?.some((image) => image.row === state.open)) return;
    if ((bottom > -FAR && top < innerHeight + FAR) || section.node.contains(document.activeElement)) return;
    section.node.style.height = `${height}px`;
    stopLoading(section.node);
    section.node.replaceChildren();
    section.items = null;
  }

  /** @param {Section} section @returns {Promise<void>} */
  #load(section) {
    if (section.items || !this.#source) return Promise.resolve();
    section.coming ??= this.#fetch(section, this.#source);
    return section.coming;
  }

  /** @param {Section} section @param {Source} source */
  async #fetch(section, source) {
    const signal = section.loading.next();
    try {
      const page = await source(section.number * SECTION, SECTION, signal);
      if (signal.aborted || this.sections[section.number] !== section) return;
      this.#place(section, page.items);
      this.#lookSoon(); // its height may differ from what was guessed
      if (page.items.length < SECTION - 1 && section.number < this.sections.length - 1) this.#end(section);
    } catch (problem) {
      if (signal.aborted) return;
      const again = make("button", { type: "button" }, "Try again");
      again.onclick = () => {
        again.parentElement.remove();
        this.#load(section);
      };
      section.node.replaceChildren(make("p", { className: "empty error", role: "alert" }, explain(problem), again));
    } finally {
      section.coming = null;
    }
  }

  /** @param {Section} section There are no images behind it. */
  #end(section) {
    for (const { node } of this.sections.splice(section.number + 1)) node.remove();
  }

  /** @param {Section} section @param {Image[]} items */
  #place(section, items) {
    section.items = items;
    section.node.style.height = "";
    const width = this.#width();
    const tiles = items.map((image) =>
      makeTile(image, {
        total: this.total,
        caption: this.#captions && captionOf(image, this.#captions),
      }),
    );
    section.node.replaceChildren(...this.#rows(tiles, items, width, section.number === this.sections.length - 1));
    if (!section.number && tiles.length && !document.querySelector('#grid a[tabindex="0"]'))
      tiles[0].querySelector("a").tabIndex = 0;
  }

  /** @param {any[]} tiles @param {Image[]} items @param {number} width @param {boolean} isLast @returns {any[]} */
  #rows(tiles, items, width, isLast) {
    const [height, gap] = [rowHeight(), isPhone() ? 4 : 6];
    const ratios = items.map(ratioOf);
    const breaks = rowsOf(ratios, width, height, gap);
    tiles.forEach((tile, index) => tile.classList.toggle("narrow", ratios[index] * height < NARROW));
    // Between two sections there is no hole: what is left over goes into the row before.
    const left = ratios.slice(breaks.at(-2) ?? 0).reduce((all, ratio) => all + ratio, 0);
    if (!isLast && breaks.length > 1 && left * height < width * LAST_ROW) breaks.splice(-2, 1);
    let from = 0;
    return breaks.map((to, index) => {
      const row = make("div", { className: "row" }, ...tiles.slice(from, to));
      const sum = items.slice(from, to).reduce((all, image) => all + ratioOf(image), 0);
      const full = (width - gap * (to - from - 1)) / height;
      if (index === breaks.length - 1 && sum < full * (isLast ? 0.95 : LAST_ROW)) {
        row.classList.add("short");
        row.style.setProperty("--rest", String(Math.max(0, full - sum)));
      }
      row.style.containIntrinsicHeight = `auto ${Math.round((width - gap * (to - from - 1)) / Math.max(sum, row.classList.contains("short") ? full : 0)) + (this.#captions ? 20 : 0)}px`;
      from = to;
      return row;
    });
  }

  #width() {
    const style = getComputedStyle(el("grid"));
    return el("grid").clientWidth - Number.parseFloat(style.paddingLeft) - Number.parseFloat(style.paddingRight);
  }

  /** Arrange the rows again, after the window or the size of thumbnails has changed. */
  layOut() {
    for (const section of this.sections) {
      if (!section.items) continue;
      const focused = /** @type {any} */ (
        section.node.contains(document.activeElement) ? document.activeElement : null
      );
      const tiles = [...section.node.querySelectorAll(".tile")];
      if (!tiles.length) continue;
      section.node.replaceChildren(
        ...this.#rows(tiles, section.items, this.#width(), section.number === this.sections.length - 1),
      );
      focused?.focus({ preventScroll: true });
    }
    this.#guess();
  }

  decorate() {
    for (const tile of el("grid").querySelectorAll(".tile[data-row]")) decorate(tile);
  }

  /** @returns {Image[]} What is there, in order. */
  loaded() {
    return this.sections.flatMap((section) => section.items ?? []);
  }

  /** @param {number} row @returns {Image | undefined} */
  find(row) {
    return this.loaded().find((image) => image.row === row);
  }

  /** @param {number} row @returns {number} Its place among all images, from 0; -1 if it is not there. */
  position(row) {
    return this.find(row)?.place ?? -1;
  }

  /** @param {number} row @param {number} step @returns {Promise<Image | null>} The image before or after it. */
  async beside(row, step) {
    const section = this.sections.find(({ items }) => items?.some((image) => image.row === row));
    if (!section?.items) return null;
    const index = section.items.findIndex((image) => image.row === row) + step;
    if (section.items[index]) return section.items[index];
    const next = this.sections[section.number + step];
    if (!next) return null;
    this.#pinned = next;
    await this.#load(next);
    return (step > 0 ? next.items?.[0] : next.items?.at(-1)) ?? null;
  }

  /** @param {number} position Scroll to the image at a place. */
  jump(position) {
    const section = this.sections[Math.min(this.sections.length - 1, Math.floor(position / SECTION))];
    if (!section) return;
    const bars = el("bar").offsetHeight + (el("query").hidden ? 0 : el("query").offsetHeight);
    const within = section.node.offsetHeight * ((position % SECTION) / SECTION);
    scrollTo({ top: section.node.getBoundingClientRect().top + scrollY - bars + within });
  }
}

export const grid = new Grid();
