// @ts-check
// The page of `embedsearch serve`: the start, what changes with the address, keys.

import { away, Problem, server } from "./api.js";
import { el, pause, style } from "./dom.js";
import { bindField, showField } from "./field.js";
import { bindFilters } from "./filters.js";
import { grid } from "./grid.js";
import { showImages, shown, withoutFirst } from "./images.js";
import { mark, onMarks, readMarks } from "./marks.js";
import { notice, progress, quiet, trouble } from "./notices.js";
import { bindQuery, onNamed, queryName, queryWords, showMarks, showQuery } from "./query.js";
import { onPicked, pick, pickAll, pickNone } from "./selection.js";
import {
  go,
  keepScroll,
  load,
  NO_QUERY,
  NOTHING,
  onChange,
  sameImages,
  searches,
  state,
  stepsOn,
  written,
} from "./state.js";
import { askAgain, info, openStore } from "./store.js";

const LONG_PRESS_MS = 500;
const REST_AFTER_MS = 2000;
let comesBack = true; // to an entry of the history, where it was scrolled to
/** @type {any} */
let viewer = null; // its module, once it is there
let leaveView = () => {}; // ends what a view still waits for

onChange(async (before) => {
  const isSame = shown.once && sameImages(before, state);
  showField(comesBack || before.text !== state.text);
  for (const dialog of document.querySelectorAll("dialog[open]"))
    if (dialog.id !== "viewer") /** @type {any} */ (dialog).close();
  const isElsewhere = comesBack; // in the history, or just opened
  const scroll = comesBack ? (history.state?.scroll ?? 0) : before.least === state.least ? 0 : null;
  comesBack = false;
  const asked = state;
  if (state.open !== null || viewer) openViewer().then((module) => module.showViewer(), away);
  title();
  if (isSame) return;
  leaveView();
  if (isElsewhere) readMarks(state);
  showQuery();
  showViews();
  if (state.view === "images") await showImages();
  else await showOther();
  if (state.open !== null && asked === state) openViewer().then((module) => module.showViewer(), away); // with its neighbors
  if (scroll !== null && asked === state) scrollTo({ top: scroll });
});

async function openViewer() {
  const [module] = await Promise.all([import("./viewer.js"), style("viewer")]);
  if (!viewer) module.bindViewer(title);
  return (viewer = module);
}

function showViews() {
  const isImages = state.view === "images";
  el("chips").hidden = !isImages;
  el("grid").hidden = !isImages;
  el("other").hidden = isImages;
  el("results").ariaLabel = el(`view-${state.view}`).textContent.trim();
  for (const link of el("views").children) {
    if (link.id === `view-${state.view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function showOther() {
  withoutFirst();
  el("status").textContent = "";
  trouble(null);
  const asked = state;
  try {
    const [view] = await Promise.all([import(`./views/${state.view}.js`), style("views")]);
    if (asked !== state) return;
    leaveView = () => {
      view.leave();
      progress(-1);
    };
    await view.show(el("other"));
    shown.once = true;
  } catch (problem) {
    if (asked !== state || /** @type {any} */ (problem).name === "AbortError") return;
    if (!(problem instanceof Problem)) away(); // the module could not be loaded
    trouble(problem instanceof Problem ? problem : { code: "offline" }, showOther);
  }
}

function title() {
  const parts = [
    viewer?.viewerTitle() ?? "",
    searches(state) && state.view === "images" ? queryWords() : "",
    state.view !== "images" ? el(`view-${state.view}`).textContent.trim() : "",
  ];
  document.title = [...parts.filter(Boolean), "embedsearch"].join(" – ");
}

/** @param {import("./api.js").Image} image Search for what is like it. */
function moreLike(image) {
  shown.focusFirst = document.activeElement?.closest("#grid") !== null;
  go({ ...NO_QUERY, view: "images", row: image.row }, { steps: stepsOn(queryName() || state.text) });
}

/** @param {any} node @returns {import("./api.js").Image | undefined} */
function imageAt(node) {
  const row = node?.closest?.("#grid .tile")?.dataset.row;
  return row === undefined ? undefined : grid.find(Number(row));
}

/** @param {string} what @param {import("./api.js").Image} image @param {boolean} isShift */
function act(what, image, isShift) {
  if (what === "similar") moreLike(image);
  else if (what === "pick") pick(image, isShift ? grid.loaded() : undefined);
  else mark(image, what === "like" ? "like" : "unlike");
}

function bindGrid() {
  let pressed = -1; // the row of a long press
  /** @type {any} */
  let timer = 0;
  el("grid").addEventListener("click", (/** @type {any} */ event) => {
    const image = imageAt(event.target);
    if (!image) return;
    const button = event.target.closest("button");
    if (button) return act(button.dataset.act, image, event.shiftKey);
    if (!event.target.closest("a") || event.ctrlKey || event.metaKey || event.button) return;
    event.preventDefault();
    if (pressed === image.row) pressed = -1;
    else if (event.shiftKey || (document.body.classList.contains("picking") && matchMedia("(hover: none)").matches))
      pick(image, event.shiftKey ? grid.loaded() : undefined);
    else go({ open: image.row });
  });
  el("grid").addEventListener("pointerdown", (/** @type {any} */ event) => {
    const image = event.pointerType === "touch" && imageAt(event.target);
    clearTimeout(timer);
    if (image)
      timer = setTimeout(() => {
        pressed = image.row;
        pick(image);
      }, LONG_PRESS_MS);
  });
  for (const end of ["pointerup", "pointercancel", "pointermove", "scroll"])
    addEventListener(
      end,
      (/** @type {any} */ event) => {
        if (end !== "pointermove" || Math.hypot(event.movementX, event.movementY) > 3) clearTimeout(timer);
      },
      { passive: true },
    );
  el("grid").addEventListener("contextmenu", (/** @type {Event} */ event) => {
    if (pressed >= 0) event.preventDefault();
  });
  el("grid").addEventListener("focusin", (/** @type {any} */ event) => {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    for (const other of document.querySelectorAll('#grid [tabindex="0"]'))
      if (!tile.contains(other)) /** @type {any} */ (other).tabIndex = -1;
    for (const node of tile.querySelectorAll("a, button")) node.tabIndex = 0;
  });
  // Keys act on the image that has the focus, and nowhere else.
  el("grid").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const image = imageAt(event.target);
    const isPickAll = (event.ctrlKey || event.metaKey) && event.key === "a";
    if (!image || event.altKey || ((event.ctrlKey || event.metaKey) && !isPickAll)) return;
    if (isPickAll) pickAll(grid.loaded());
    else if (event.key.startsWith("Arrow")) moveFocus(event.key);
    else if (event.key === "+" || event.key === "-") mark(image, event.key === "+" ? "like" : "unlike");
    else if (event.key === "m") moreLike(image);
    else if (event.key === "x") pick(image, event.shiftKey ? grid.loaded() : undefined);
    else if (event.key === "Escape") pickNone();
    else return;
    event.preventDefault();
  });
}

/** @param {string} key */
function moveFocus(key) {
  const links = /** @type {any[]} */ ([...document.querySelectorAll("#grid .tile a")]);
  const at = links.indexOf(document.activeElement?.closest(".tile")?.querySelector("a"));
  if (key === "ArrowLeft" || key === "ArrowRight") return links[at + (key === "ArrowRight" ? 1 : -1)]?.focus();
  const middle = (/** @type {any} */ node) => {
    const box = node.getBoundingClientRect();
    return box.left + box.width / 2;
  };
  const rows = /** @type {any[]} */ ([...document.querySelectorAll("#grid .row")]);
  const row = rows[rows.indexOf(links[at]?.closest(".row")) + (key === "ArrowDown" ? 1 : -1)];
  const near = [...(row?.querySelectorAll("a") ?? [])].sort(
    (a, b) => Math.abs(middle(a) - middle(links[at])) - Math.abs(middle(b) - middle(links[at])),
  );
  return near[0]?.focus();
}

function bindPage() {
  el("skip").onclick = () => {
    const first = /** @type {any} */ (document.querySelector("#grid a"));
    (first ?? el("results")).focus();
  };
  for (const link of [...el("views").children, el("home")]) {
    link.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      const view = link.id.replace("view-", "");
      go(view === "home" ? { ...NOTHING } : { ...NO_QUERY, view }, { steps: [] });
    });
    if (link.id !== "home") link.href = written({ ...NOTHING, view: link.id.replace("view-", "") });
  }
  document.addEventListener("keydown", (event) => {
    const isAsked = event.key === "k" && (event.ctrlKey || event.metaKey);
    const isSlash = event.key === "/" && /** @type {any} */ (event.target).closest?.("#grid");
    if (!isAsked && !isSlash) return;
    event.preventDefault();
    el("words").focus();
  });
  history.scrollRestoration = "manual";
  addEventListener("popstate", () => {
    comesBack = true;
    load();
  });
  addEventListener("pagehide", keepScroll);
  server.addEventListener("offline", () => notice("No connection to the server. Reconnecting …", { stays: true }));
  server.addEventListener("online", () => {
    quiet();
    if (!el("problem").hidden || !shown.once || (state.open !== null && !viewer)) refresh();
  });
  server.addEventListener("generation", () =>
    notice("The store has changed.", { button: "Reload", act: refresh, stays: true }),
  );
}

/** Load what will soon be needed, also if the server is away by then. */
function loadRest() {
  openViewer().catch(() => {});
  style("panel");
  for (const name of ["crop", "panels", "photo", "slider"]) import(`./${name}.js`).catch(() => {});
}

async function refresh() {
  await askAgain().catch(() => {});
  shown.once = false;
  load();
}

async function start() {
  bindPage();
  bindGrid();
  bindField();
  bindFilters();
  bindQuery();
  onMarks(() => {
    grid.decorate();
    showMarks();
  });
  onPicked(() => grid.decorate(), notice);
  onNamed(title);
  while (!info.columns.row) {
    try {
      await openStore();
    } catch {
      await pause(1000);
    }
  }
  if (location.hash) withoutFirst();
  load();
  setTimeout(loadRest, REST_AFTER_MS);
  el("grid").addEventListener("pointerover", loadRest, { once: true });
}

start();
