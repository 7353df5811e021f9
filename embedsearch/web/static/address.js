// What is searched for. It is kept in the fragment of the address, as rows and never as paths; an
// uploaded image stays in this page's memory alone.

export const DEFAULTS = { row: null, upload: null, crop: null, like: [], unlike: [], where: "", k: 48, least: 0, offset: 0 };

export const uploads = new Map(); // number → {blob, url, name, width, height}
export let state = { ...DEFAULTS };
export let trail = []; // fragments of the queries that led here
let show = () => {};

// Call `listener` whenever what is searched for has changed.
export function onChange(listener) {
  show = listener;
}

export function written(what) {
  const values = new URLSearchParams();
  for (const [name, value] of Object.entries(what)) {
    if (value !== null && String(value) !== String(DEFAULTS[name] ?? "")) values.set(name, value);
  }
  return `#${values}`;
}

export function read(fragment) {
  const values = new URLSearchParams(fragment.replace(/^#/, ""));
  const number = (name, min, max, otherwise) => {
    const value = Number(values.get(name));
    return values.has(name) && Number.isFinite(value) && value >= min && value <= max ? value : otherwise;
  };
  const numbers = (name) => (values.get(name) ?? "").split(",").filter((text) => /^\d{1,12}$/.test(text)).map(Number);
  const crop = numbers("crop");
  return {
    row: number("row", 0, 1e12, null),
    upload: number("upload", 1, 1e9, null),
    crop: crop.length === 4 ? crop : null,
    like: numbers("like"),
    unlike: numbers("unlike"),
    where: values.get("where") ?? "",
    k: number("k", 1, 1000, DEFAULTS.k),
    least: number("least", 0, 1, DEFAULTS.least),
    offset: number("offset", 0, 10000, 0),
  };
}

export const asks = (what) => what.row !== null || what.upload !== null || what.like.length > 0;

export function go(changes, { replace = false, path = trail } = {}) {
  const next = written({ ...state, offset: 0, ...changes });
  history[replace ? "replaceState" : "pushState"]({ trail: path }, "", next === "#" ? location.pathname : next);
  load();
}

// The trail of a search that starts from the present one.
export const trailOn = () => (asks(state) ? [...trail, written({ ...state, offset: 0 })] : trail);

export function load() {
  state = read(location.hash);
  trail = history.state?.trail ?? [];
  show();
}
