// @ts-check
// What the page shows. It is kept in the fragment of the address, as rows and never as paths; `go()`
// alone writes to the history.

/**
 * @typedef {{view: string, row: number | null, upload: number | null, crop: number[] | null, like: number[], unlike: number[],
 *   text: string, where: string[], order: string, least: number | null, hide: boolean, group: string, open: number | null,
 *   kind: string, keep: string}} State
 */

const VIEWS = ["images", "folders", "copies", "groups", "map"];
export const ORDERS = ["", "taken_at", "path", "-path", "-size", "size", "-modified", "row"]; // "": newest first
export const KINDS = ["same", "turned", "parts", "similar"];
export const KEEPS = ["largest", "oldest", "newest"];
const TRAIL = 5; // queries that are remembered

/** @type {State} */
export const NOTHING = {
  view: "images",
  row: null,
  upload: null,
  crop: null,
  like: [],
  unlike: [],
  text: "",
  where: [],
  order: "",
  least: null,
  hide: false,
  group: "",
  open: null,
  kind: "same",
  keep: "largest",
};
// What a search is for; the filters stay when it changes.
export const NO_QUERY = { row: null, upload: null, crop: null, like: [], unlike: [], text: "", group: "", least: null };

/** @type {State} */
export let state = { ...NOTHING };
/** @typedef {{fragment: string, row: number | null, upload: number | null, name: string}} Step */
/** @type {Step[]} The queries that led here, oldest first. */
export let trail = [];
/** @type {(before: State) => void} */
let show = () => {};

/** @param {(before: State) => void} listener Called whenever what is shown has changed. */
export function onChange(listener) {
  show = listener;
}

/** @param {State} what */
export function written(what) {
  const values = new URLSearchParams();
  for (const [name, value] of Object.entries(what)) {
    const otherwise = /** @type {any} */ (NOTHING)[name];
    if (name === "where") for (const one of what.where) values.append(name, one);
    else if (value !== null && String(value) !== String(otherwise ?? "")) values.set(name, String(value));
  }
  return `#${values}`;
}

/** @param {string} fragment @returns {State} */
export function read(fragment) {
  const values = new URLSearchParams(fragment.replace(/^#/, ""));
  const text = (/** @type {string} */ name) => values.get(name) ?? "";
  const one = (/** @type {string} */ name, /** @type {string[]} */ of) =>
    of.includes(text(name)) ? text(name) : of[0];
  const whole = (/** @type {string} */ name) => (/^\d{1,12}$/.test(text(name)) ? Number(text(name)) : null);
  const rows = (/** @type {string} */ name) =>
    text(name)
      .split(",")
      .filter((part) => /^\d{1,12}$/.test(part))
      .map(Number)
      .slice(0, 100);
  const crop = rows("crop");
  const least = Number.parseFloat(text("least"));
  const isSearch = ["row", "upload", "like", "text"].some((name) => text(name).trim());
  return {
    view: one("view", VIEWS),
    row: whole("row"),
    upload: whole("upload"),
    crop: crop.length === 4 && crop[2] && crop[3] ? crop : null,
    like: rows("like"),
    unlike: rows("unlike"),
    text: text("text").trim().slice(0, 1000),
    where: values
      .getAll("where")
      .filter((part) => part.trim())
      .slice(0, 20),
    order: one("order", ORDERS),
    least: least >= -1 && least <= 1 ? least : null,
    hide: text("hide") === "true",
    group: !isSearch && /^(\d{1,9}|outliers)$/.test(text("group")) ? text("group") : "",
    open: whole("open"),
    kind: one("kind", KINDS),
    keep: one("keep", KEEPS),
  };
}

/** @param {State} what @returns {boolean} Whether it is a search, by a picture or by words. */
export const searches = (what) => what.row !== null || what.upload !== null || what.like.length > 0 || what.text !== "";
/** @param {State} what @returns {boolean} Whether a picture is part of it. */
export const hasPicture = (what) => what.row !== null || what.upload !== null || what.like.length > 0;
/** @param {State} a @param {State} b @returns {boolean} Whether both show the same images. */
export const sameImages = (a, b) => written({ ...a, open: null }) === written({ ...b, open: null });

/**
 * Show something else, in a new entry of the history.
 * @param {Partial<State>} changes
 * @param {{replace?: boolean, steps?: Step[]}} [options]
 */
export function go(changes, { replace = false, steps = trail } = {}) {
  const next = written({ ...state, open: null, ...changes });
  const isSame = next === written(state);
  if (isSame && steps === trail) return; // one entry and one request for each change
  keepScroll();
  const isReplaced = replace || isSame;
  const entry = { steps: steps.slice(-TRAIL), opened: changes.open !== undefined && changes.open !== null };
  history[isReplaced ? "replaceState" : "pushState"](
    isReplaced ? { ...history.state, steps: entry.steps } : entry,
    "",
    next === "#" ? location.pathname + location.search : next,
  );
  load();
}

/** Keep with the present entry of the history how far it is scrolled. */
export function keepScroll() {
  history.replaceState({ ...history.state, scroll: scrollY }, "");
}

/** Close what is open over the images: back in the history, if that is where it came from. */
export function close() {
  if (history.state?.opened) history.back();
  else go({ open: null }, { replace: true });
}

/** @param {string} name @returns {Step[]} The trail of a search that starts from the present one. */
export function stepsOn(name) {
  if (!searches(state)) return trail;
  return [
    ...trail,
    {
      fragment: written({ ...state, open: null }),
      row: state.row ?? state.like[0] ?? null,
      upload: state.upload,
      name,
    },
  ];
}

/** @param {number} index Go back to a query of the trail. */
export function retrace(index) {
  const step = trail[index];
  go({ ...NOTHING, ...read(step.fragment) }, { steps: trail.slice(0, index) });
}

export function load() {
  const before = state;
  state = read(location.hash);
  const steps = history.state?.steps;
  trail = Array.isArray(steps) ? steps : [];
  show(before);
}
