// @ts-check
// The view of images: what the grid shows, how many there are, what to do where there are none.

import { ask } from "./api.js";
import { el, kept, Latest, make, style } from "./dom.js";
import { showChips } from "./filters.js";
import { grid } from "./grid.js";
import { progress, trouble } from "./notices.js";
import { queryName, queryWords } from "./query.js";
import { sizeStep } from "./rows.js";
import { MOST, scoresOf, sourceOf } from "./source.js";
import { go, hasPicture, NO_QUERY, NOTHING, searches, state, written } from "./state.js";
import { info } from "./store.js";
import { images, number, two } from "./words.js";

const BUSY_AFTER_MS = 150;
const scoring = new Latest();
let scored = ""; // the search whose scores are shown

/** Whether images were shown since the page was loaded, and whether the first of the next ones gets the focus. */
export const shown = { once: false, focusFirst: false };

export async function showImages() {
  trouble(null);
  showChips();
  if (hasPicture(state)) showScores(null);
  const busy = setTimeout(() => progress(null), BUSY_AFTER_MS);
  const asked = state;
  try {
    const page = await grid.show(
      sourceOf(state, (share) => {
        clearTimeout(busy);
        progress(share);
      }),
      state.text ? info.words : null,
    );
    if (!page) return;
    shown.once = true;
    withoutFirst();
    if (hasPicture(state)) showScores(() => page.scores ?? scoresOf(state, scoring.next()));
    count(page);
    if (!page.items.length) showEmpty();
    if (shown.focusFirst) /** @type {any} */ (document.querySelector("#grid a"))?.focus({ preventScroll: true });
    shown.focusFirst = false;
  } catch (problem) {
    if (asked !== state) return;
    if (/** @type {any} */ (problem).code === "no_such_image" && (await foundAgain())) return;
    trouble(problem, showImages);
    if (!shown.once && asked === state) await showAll();
  } finally {
    clearTimeout(busy);
    if (asked === state) progress(-1);
  }
}

/** Where nothing else can be shown: all images. */
async function showAll() {
  const page = await grid
    .show(
      sourceOf({ ...NOTHING }, () => {}),
      null,
    )
    .catch(() => null);
  if (page) withoutFirst();
  el("count").replaceChildren();
}

/** @param {(() => any) | null} find Returns the scores of the present search, or a promise of them; null if they are to come. */
async function showScores(find) {
  const query = written({ ...state, least: null, open: null });
  const isKnown = scored === query;
  const isAsked = find !== null && !isKnown; // they do not depend on the least similarity
  const [slider, scores] = await Promise.all([import("./slider.js"), isAsked ? find() : null]).catch(() => []);
  if (!slider || query !== written({ ...state, least: null, open: null })) return;
  slider.showScores(scores ?? null, isKnown);
  if (scores) scored = query;
}

/** A store that was made again has other rows: look its image up by name. */
async function foundAgain() {
  const key = history.state?.key;
  if (state.row === null || !key) return false;
  const where = `path = '${key.replaceAll("'", "''")}'`;
  const found = await ask(`images?${new URLSearchParams({ k: "2", where })}`).catch(() => null);
  if (found?.images.length !== 1 || found.images[0].row === state.row) return false;
  go({ row: found.images[0].row, like: [], unlike: [] }, { replace: true });
  return true;
}

/** @param {import("./source.js").Page} page */
function count(page) {
  const total = page.isExact ? number(page.total) : `about ${number(page.total)}`;
  let words = `${images(page.total)}`;
  if (searches(state)) {
    words =
      state.least === null
        ? `${total} of ${images(info.images)}`
        : `${total} of ${images(info.images)}, ${two(state.least)} and more`;
    if (page.total > MOST) words = `The ${number(MOST)} most similar of ${words}`;
  } else if (state.where.length) words = `${total} of ${images(info.images)}`;
  const about = make(
    "button",
    { type: "button", className: "bare", title: "What the store holds", onclick: openFacts },
    words,
  );
  const size = make("input", {
    type: "range",
    id: "size",
    min: "0",
    max: "4",
    value: String(sizeStep()),
    "aria-label": "Size of thumbnails",
  });
  size.oninput = () => {
    kept.set("size", Number(size.value));
    grid.layOut();
  };
  el("count").replaceChildren(size, about);
  el("status").textContent = searches(state)
    ? `Similar to ${queryName() || queryWords()}: ${words}`
    : `${words}. Open one, or search for similar ones.`;
}

/** Take away the images that came with the page. */
export function withoutFirst() {
  document.querySelector(".first")?.remove();
}

async function openFacts() {
  const [{ openStoreFacts }] = await Promise.all([import("./views/about.js"), style("viewer")]);
  openStoreFacts();
}

function showEmpty() {
  const parts = [];
  if (!info.images) {
    parts.push(
      make("h2", {}, "The store holds no image yet."),
      make("p", {}, "1. Index a folder: ", make("code", {}, "embedsearch index ./photos")),
      make("p", {}, "2. Wait until it says how many images it has."),
      make("p", {}, "3. Reload this page."),
    );
  } else {
    parts.push(
      make("h2", {}, state.text && !hasPicture(state) ? `Nothing matches “${state.text}”.` : "No image passes."),
    );
    if (state.least !== null)
      parts.push(
        make(
          "button",
          { type: "button", onclick: () => go({ least: null }) },
          `Drop the minimum similarity of ${two(state.least)}`,
        ),
      );
    state.where.forEach((condition, index) =>
      parts.push(
        make(
          "button",
          { type: "button", onclick: () => go({ where: state.where.filter((_, other) => other !== index) }) },
          `Drop the filter ${condition}`,
        ),
      ),
    );
    if (searches(state))
      parts.push(make("button", { type: "button", onclick: () => go(NO_QUERY, { steps: [] }) }, "Show all images"));
  }
  el("grid").replaceChildren(make("div", { className: "empty" }, ...parts));
}
