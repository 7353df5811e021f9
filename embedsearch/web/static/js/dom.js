// @ts-check
// Small helpers for the document. All text is set as text, never as HTML.

/** @param {string} id @returns {any} */
export const el = (id) => document.getElementById(id);

/** @param {number} ms */
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Make an element. Names with a dash are attributes, others properties; `false` and null leave out.
 * @param {string} name
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string | null | false | undefined)} children
 * @returns {any}
 */
export function make(name, properties = {}, ...children) {
  const node = /** @type {any} */ (document.createElement(name));
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === false || value === undefined) continue;
    if (key.includes("-") || key === "role" || key === "for") node.setAttribute(key, String(value));
    else node[key] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== false && child !== undefined));
  return node;
}

/** @param {any} node @param {...(Node | string | null | false | undefined)} children Put them in place of what is there. */
export function fill(node, ...children) {
  node.replaceChildren(...children.filter((child) => child !== null && child !== false && child !== undefined));
}

/** @param {string} name @returns {SVGElement} An icon of the sprite in the page. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** @param {string} name Load a style sheet, once; what needs it waits for it. */
export function style(name) {
  const address = new URL(`../css/${name}.css`, import.meta.url).href;
  if (document.querySelector(`link[href="${address}"]`)) return Promise.resolve();
  const link = make("link", { rel: "stylesheet", href: address });
  return new Promise((resolve) => {
    link.onload = link.onerror = resolve;
    document.head.append(link);
  });
}

/**
 * Requests of which only the last counts: `next()` ends the one before and returns its signal.
 * What comes late belongs to nobody: check `signal.aborted` after every wait.
 */
export class Latest {
  /** @type {AbortController | null} */
  #running = null;

  next() {
    this.#running?.abort();
    this.#running = new AbortController();
    return this.#running.signal;
  }

  stop() {
    this.#running?.abort();
  }
}

/** @param {(...args: any[]) => void} work @param {number} ms Wait until nobody calls for so long. */
export function debounced(work, ms) {
  /** @type {any} */
  let timer = 0;
  return (/** @type {any[]} */ ...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...args), ms);
  };
}

/** @type {Map<string, string>} */
const memory = new Map();

/** What a browser keeps for this tab; this page's memory where storage is switched off. */
export const kept = {
  /** @param {string} name @returns {any} */
  get(name) {
    try {
      return JSON.parse(sessionStorage.getItem(name) ?? "null");
    } catch {
      return JSON.parse(memory.get(name) ?? "null");
    }
  },
  /** @param {string} name @param {any} value */
  set(name, value) {
    try {
      sessionStorage.setItem(name, JSON.stringify(value));
    } catch {
      memory.set(name, JSON.stringify(value));
    }
  },
};

export const isPhone = () => matchMedia("(max-width: 50rem)").matches;
