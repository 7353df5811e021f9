// The page of `embedsearch serve`. What is looked for stands in the fragment of the address, as rows
// and never as paths; an image that was handed over stays in this page's memory alone.

const el = (id) => document.getElementById(id);
const DEFAULTS = { row: null, upload: null, crop: null, like: [], unlike: [], where: "", k: 48, least: 0, offset: 0 };
const BUSY_AFTER_MS = 150;
const TRIES = 6;

const uploads = new Map(); // number → {blob, url, name, width, height}
const marks = new Map(); // row → "like" or "unlike"
let state = { ...DEFAULTS };
let trail = []; // fragments of the queries that led here
let info = { columns: {}, images: 0, takes_images: true };
let natural = null; // width and height of the image that is shown, upright
let region = null; // x, y, width, height that is being drawn
let running = null; // the AbortController of the search
let focusFirst = false;
let shown = []; // what the grid holds

// --- What is looked for, and the address ---------------------------------------------------------

function written(what) {
  const values = new URLSearchParams();
  for (const [name, value] of Object.entries(what)) {
    if (value !== null && String(value) !== String(DEFAULTS[name] ?? "")) values.set(name, value);
  }
  return `#${values}`;
}

function read(fragment) {
  const values = new URLSearchParams(fragment.replace(/^#/, ""));
  const number = (name, least, most, or) => {
    const value = Number(values.get(name));
    return values.has(name) && Number.isFinite(value) && value >= least && value <= most ? value : or;
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

const asks = (what) => what.row !== null || what.upload !== null || what.like.length > 0;

function go(changes, { replace = false, path = trail } = {}) {
  const next = written({ ...state, offset: 0, ...changes });
  history[replace ? "replaceState" : "pushState"]({ trail: path }, "", next === "#" ? location.pathname : next);
  load();
}

function moreLike(row) {
  focusFirst = true;
  const path = asks(state) ? [...trail, written({ ...state, offset: 0 })] : trail;
  go({ row, upload: null, crop: null, like: [], unlike: [] }, { path });
}

function load() {
  state = read(location.hash);
  trail = history.state?.trail ?? [];
  marks.clear();
  for (const row of state.like) marks.set(row, "like");
  for (const row of state.unlike) marks.set(row, "unlike");
  el("where").value = state.where;
  el("k").value = state.k;
  el("least").value = state.least;
  showNumbers();
  showQuery();
  showMarks();
  search();
}

// --- Asking the server ---------------------------------------------------------------------------

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function request(signal) {
  const options = { k: state.k };
  if (state.offset) options.offset = state.offset;
  if (state.where) options.where = state.where;
  if (!asks(state)) return fetch(`/images?${new URLSearchParams(options)}`, { signal });
  if (state.least > 0) options.min_score = state.least;
  if (state.upload !== null) {
    for (const name of ["crop", "like", "unlike"]) if (state[name]?.length) options[name] = state[name].join(",");
    const { blob } = uploads.get(state.upload);
    const type = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
    return fetch(`/search?${new URLSearchParams(options)}`, { method: "POST", body: blob, headers: { "content-type": type }, signal });
  }
  for (const name of ["row", "crop"]) if (state[name] !== null) options[name] = state[name];
  for (const name of ["like", "unlike"]) if (state[name].length) options[name] = state[name];
  return fetch("/search", { method: "POST", body: JSON.stringify(options), headers: { "content-type": "application/json" }, signal });
}

async function search() {
  running?.abort();
  const mine = (running = new AbortController());
  el("trouble").hidden = true;
  wrongFilter("");
  if (state.upload !== null && !uploads.has(state.upload)) {
    trouble("The image that was handed over is no longer in this page: choose it again.", false);
    return;
  }
  const busy = setTimeout(() => { el("results").ariaBusy = "true"; el("status").textContent = "Looking …"; }, BUSY_AFTER_MS);
  try {
    for (let tries = 1; ; tries++) {
      const answer = await request(mine.signal);
      if (answer.status === 503 && tries < TRIES) {
        el("status").textContent = "Many are asking; trying again …";
        await pause(1000 * Number(answer.headers.get("retry-after") ?? 1));
        if (mine.signal.aborted) return;
        continue;
      }
      const said = await answer.json();
      if (mine.signal.aborted) return;
      if (answer.ok) show(said);
      else refused(answer.status, said.error);
      return;
    }
  } catch (error) {
    if (mine.signal.aborted) return;
    trouble("The server does not answer. This page goes on as soon as it does.");
    untilItAnswers(mine);
  } finally {
    clearTimeout(busy);
    if (mine === running) el("results").ariaBusy = "false";
  }
}

async function untilItAnswers(mine) {
  while (mine === running && !el("trouble").hidden) {
    await pause(1500);
    try {
      if ((await fetch("/health")).ok && mine === running) { about(); search(); return; }
    } catch { /* not yet */ }
  }
}

function refused(status, words) {
  if (status === 400 && words.startsWith("--where")) {
    wrongFilter(words.replace(/^--where:? ?/, ""));
    show({ hits: [] }, "The filter cannot be followed.");
  } else if (status === 401) {
    trouble("This server wants its token: open the address that it printed when it started.", false);
  } else if (status === 404) {
    trouble("That image is no longer in the store.", false);
  } else {
    trouble(words);
  }
}

function trouble(words, again = true) {
  show({ hits: [] }, "");
  el("trouble-words").textContent = words;
  el("retry").hidden = !again;
  el("trouble").hidden = false;
}

function wrongFilter(words) {
  el("where-error").textContent = words;
  el("where").ariaInvalid = words ? "true" : "false";
}

async function about() {
  const answer = await fetch("/info");
  if (!answer.ok) return;
  info = await answer.json();
  el("about").textContent = `${info.images.toLocaleString("en")} images, by ${info.model}`;
  el("choose").hidden = !info.takes_images;
  el("drop-words").textContent = info.takes_images
    ? "drop one here, or paste it"
    : "This server has no network to look at new images with: ask with the images of the store.";
}

// --- Images --------------------------------------------------------------------------------------

function show(said, words) {
  shown = said.hits ?? said.images;
  el("grid").replaceChildren(...shown.map(tile));
  el("status").textContent = words ?? summary(said);
  el("pager").hidden = !state.offset && shown.length < state.k;
  el("before").disabled = !state.offset;
  el("next").disabled = shown.length < state.k || state.offset + state.k > 10000;
  if (focusFirst && shown.length) links()[0].focus();
  focusFirst = false;
}

function summary(said) {
  if (!shown.length) {
    if (!info.images) return "The store holds no image yet: embedsearch index FOLDER fills it.";
    if (state.offset) return "There are no more.";
    const why = [state.least > 0 && asks(state) ? `scores ${state.least.toFixed(2)} or more` : "", state.where ? "meets the filter" : ""];
    return `No image ${why.filter(Boolean).join(" and ") || "is found so"}.`;
  }
  const first = state.offset + 1;
  const last = state.offset + shown.length;
  if (said.images) return `${first} to ${last} of ${said.total.toLocaleString("en")} images. Choose one, or hand one over, to see what looks like it.`;
  return `The nearest, ${first} to ${last}, best first.`;
}

function make(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function tile(image, place) {
  const item = make("li", { className: marks.get(image.row) ?? "" });
  item.dataset.row = image.row;
  const ratio = image.height ? image.width / image.height : 1; // not known of an imported vector
  item.style.setProperty("--ratio", Math.min(4, Math.max(0.4, ratio)));
  const picture = make("img", { alt: image.key, loading: "lazy", decoding: "async" });
  const link = make("a", { className: "tile", href: written({ ...DEFAULTS, k: state.k, where: state.where, row: image.row }), tabIndex: place ? -1 : 0 }, picture);
  picture.onload = () => picture.classList.add("here");
  picture.onerror = () => missing(picture, link, image, 1);
  picture.src = `/images/${image.row}/thumbnail`;
  const mark = (kind, sign, words) => {
    const button = make("button", { type: "button", textContent: sign, ariaLabel: `${words}: ${image.key}`, title: words, tabIndex: place ? -1 : 0 });
    button.dataset.mark = kind;
    button.ariaPressed = String(marks.get(image.row) === kind);
    return button;
  };
  const score = image.score === undefined ? [] : [make("span", { className: "score", textContent: image.score.toFixed(3) })];
  const name = make("span", { className: "name", textContent: image.key, title: image.key });
  const buttons = make("span", { className: "marks" }, mark("like", "+", "Mark as like"), mark("unlike", "−", "Mark as unlike"), mark("facts", "i", "What is known of it"));
  item.append(link, make("p", { className: "under" }, ...score, name, buttons));
  item.querySelector('[data-mark="facts"]').removeAttribute("aria-pressed");
  return item;
}

async function missing(picture, link, image, tries) {
  let status = 0;
  try { status = (await fetch(picture.src)).status; } catch { /* the server is away */ }
  if (!link.isConnected) return;
  if (status !== 404 && tries < TRIES) {
    await pause(1000);
    picture.onerror = () => missing(picture, link, image, tries + 1);
    picture.src = `/images/${image.row}/thumbnail`;
    return;
  }
  link.classList.add("gone");
  link.replaceChildren("The file is gone, or cannot be read any more", make("span", { hidden: true, textContent: image.key }));
  link.ariaLabel = `${image.key}: the file is gone, or cannot be read any more`;
}

const links = () => [...document.querySelectorAll("#grid .tile")];

function current(link) { // one image at a time is in the order of Tab
  for (const other of document.querySelectorAll('#grid [tabindex="0"]')) other.tabIndex = -1;
  for (const node of link.closest("li").querySelectorAll("a, button")) node.tabIndex = 0;
}

function moveFocus(key) {
  const all = links();
  const here = document.activeElement?.closest?.("#grid li")?.querySelector(".tile");
  let next = here ? null : all[0];
  const at = all.indexOf(here);
  if (here && key === "ArrowRight") next = all[at + 1];
  if (here && key === "ArrowLeft") next = all[at - 1];
  if (here && (key === "ArrowDown" || key === "ArrowUp")) {
    const from = here.getBoundingClientRect();
    const middle = (box) => box.left + box.width / 2;
    const down = key === "ArrowDown";
    const places = all.map((link) => [link, link.getBoundingClientRect()])
      .filter(([, box]) => (down ? box.top >= from.bottom : box.bottom <= from.top));
    const edge = down ? Math.min(...places.map(([, box]) => box.top)) : Math.max(...places.map(([, box]) => box.top));
    next = places.filter(([, box]) => Math.abs(box.top - edge) < 8)
      .sort(([, a], [, b]) => Math.abs(middle(a) - middle(from)) - Math.abs(middle(b) - middle(from)))[0]?.[0];
  }
  next?.focus();
  return Boolean(next);
}

// --- The image that is looked for, and parts of it -------------------------------------------------

function take(file) {
  if (!info.takes_images) return;
  const number = uploads.size + 1;
  uploads.set(number, { blob: file, url: URL.createObjectURL(file), name: file.name || "the image pasted" });
  const path = asks(state) ? [...trail, written({ ...state, offset: 0 })] : trail;
  go({ row: null, upload: number, crop: null, like: [], unlike: [] }, { path });
}

async function showQuery() {
  const { row, upload, crop } = state;
  const handed = uploads.get(upload);
  natural = null;
  region = null;
  el("box").hidden = true;
  el("search-region").hidden = true;
  el("whole").hidden = crop === null;
  el("query").hidden = row === null && !handed && !trail.length;
  el("preview").hidden = row === null && !handed;
  el("clear").hidden = !asks(state);
  showTrail();
  const picture = el("preview-image");
  picture.onerror = () => { el("preview").hidden = true; };
  if (row !== null) {
    el("preview-words").textContent = "";
    picture.alt = "";
    picture.src = `/images/${row}/thumbnail?side=1024`;
    const answer = await fetch(`/images/${row}`).catch(() => null);
    if (!answer?.ok || state.row !== row) return;
    const facts = await answer.json();
    if (state.row !== row) return;
    natural = { width: facts.width, height: facts.height };
    picture.alt = facts.key;
    el("preview-words").textContent = facts.key;
  } else if (handed) {
    picture.alt = handed.name;
    picture.src = handed.url;
    el("preview-words").textContent = handed.name;
    try {
      const bitmap = await createImageBitmap(handed.blob);
      if (state.upload === upload) natural = { width: bitmap.width, height: bitmap.height };
      bitmap.close();
    } catch {
      el("preview-words").textContent = `${handed.name} (this browser does not show that format)`;
    }
  } else {
    el("preview-words").textContent = "";
  }
  if (crop && natural) drawBox(crop);
}

function showTrail() {
  el("trail").replaceChildren(...trail.map((fragment, place) => {
    const what = read(fragment);
    const handed = uploads.get(what.upload);
    const source = what.row !== null ? `/images/${what.row}/thumbnail` : handed?.url;
    const blank = make("span", { className: "blank" });
    const face = source ? make("img", { src: source, alt: "", onerror: () => face.replaceWith(blank) }) : blank;
    const button = make("button", { type: "button", ariaLabel: `Back to query ${place + 1}` }, face);
    button.onclick = () => {
      history.pushState({ trail: trail.slice(0, place) }, "", fragment);
      load();
    };
    return make("li", {}, button);
  }));
}

function drawBox([x, y, width, height]) {
  const scale = el("preview-image").clientWidth / natural.width;
  const box = el("box");
  Object.assign(box.style, { left: `${x * scale}px`, top: `${y * scale}px`, width: `${width * scale}px`, height: `${height * scale}px` });
  box.hidden = false;
}

function setRegion(x, y, width, height) {
  width = Math.min(Math.max(1, Math.round(width)), natural.width);
  height = Math.min(Math.max(1, Math.round(height)), natural.height);
  x = Math.min(Math.max(0, Math.round(x)), natural.width - width);
  y = Math.min(Math.max(0, Math.round(y)), natural.height - height);
  region = [x, y, width, height];
  drawBox(region);
  el("search-region").hidden = false;
}

function endRegion() {
  region = null;
  el("search-region").hidden = true;
  el("box").hidden = true;
  if (state.crop && natural) drawBox(state.crop);
}

function searchRegion() {
  if (region) go({ crop: region });
}

function pixelAt(event) {
  const box = el("preview-image").getBoundingClientRect();
  const clamp = (value) => Math.min(1, Math.max(0, value));
  return [clamp((event.clientX - box.left) / box.width) * natural.width, clamp((event.clientY - box.top) / box.height) * natural.height];
}

let from = null;
el("preview").addEventListener("pointerdown", (event) => {
  if (!natural || event.button) return;
  from = pixelAt(event);
  el("preview").setPointerCapture(event.pointerId);
});
el("preview").addEventListener("pointermove", (event) => {
  if (!from) return;
  const to = pixelAt(event);
  const [width, height] = [Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1])];
  if (width > natural.width / 50 && height > natural.height / 50) setRegion(Math.min(from[0], to[0]), Math.min(from[1], to[1]), width, height);
});
el("preview").addEventListener("pointerup", () => { from = null; });
el("preview").addEventListener("pointercancel", () => { from = null; });
el("preview").addEventListener("keydown", (event) => {
  if (!natural) return;
  const { width: W, height: H } = natural;
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.key === "Enter") region ? searchRegion() : setRegion(W / 4, H / 4, W / 2, H / 2);
  else if (event.key === "Escape") endRegion();
  else if (steps && region) {
    const [x, y, width, height] = region;
    const [dx, dy] = [steps[0] * W / 40, steps[1] * H / 40];
    if (event.shiftKey) setRegion(x, y, width + dx, height + dy);
    else setRegion(x + dx, y + dy, width, height);
  } else return;
  event.preventDefault();
  event.stopPropagation();
});

// --- Marks ---------------------------------------------------------------------------------------

function mark(row, kind) {
  if (marks.get(row) === kind) marks.delete(row);
  else marks.set(row, kind);
  const item = document.querySelector(`#grid li[data-row="${row}"]`);
  if (item) { // it may be on another page
    item.className = marks.get(row) ?? "";
    for (const button of item.querySelectorAll("button[aria-pressed]")) button.ariaPressed = String(marks.get(row) === button.dataset.mark);
  }
  showMarks();
}

const marked = (kind) => [...marks].filter(([, mine]) => mine === kind).map(([row]) => row);

function showMarks() {
  const [like, unlike] = [marked("like"), marked("unlike")];
  el("marks").hidden = !marks.size;
  el("marks-words").textContent = `${like.length} marked as like, ${unlike.length} as unlike.`;
  el("again").disabled = !like.length && state.row === null && state.upload === null;
}

// --- What is known of an image -------------------------------------------------------------------

let known = null;

async function facts(row) {
  known = null;
  for (const id of ["facts-name", "facts-copied"]) el(id).textContent = "";
  el("facts-list").replaceChildren();
  el("facts-trouble").hidden = true;
  const picture = el("facts-image");
  picture.hidden = false;
  picture.onerror = () => {
    picture.hidden = true;
    el("facts-trouble").textContent = "The file is gone, or cannot be read any more.";
    el("facts-trouble").hidden = false;
  };
  picture.src = el("facts-open").href = `/images/${row}/thumbnail?side=1024`;
  el("facts").showModal();
  const answer = await fetch(`/images/${row}`).catch(() => null);
  if (!answer?.ok) {
    el("facts-trouble").textContent = "The server does not say.";
    el("facts-trouble").hidden = false;
    return;
  }
  known = await answer.json();
  el("facts-name").textContent = picture.alt = known.key;
  const folder = known.path.slice(0, known.path.lastIndexOf("/")) || "/";
  const rows = {
    folder, size: `${known.width} × ${known.height} pixels, ${(known.size_bytes / 1024).toFixed(0)} kB`, format: known.format,
    taken: known.taken_at?.replace("T", " "), camera: known.camera, place: known.gps?.join(", "), ...known.metadata,
  };
  for (const [name, value] of Object.entries(rows)) {
    if (value === null || value === undefined || value === "") continue;
    el("facts-list").append(make("dt", { textContent: name }), make("dd", { textContent: typeof value === "object" ? JSON.stringify(value) : value }));
  }
  el("facts-path").onclick = () => copy(known.path);
  el("facts-folder").onclick = () => copy(folder);
  el("facts-more").onclick = () => { el("facts").close(); moreLike(row); };
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    el("facts-copied").textContent = `Copied: ${text}`;
  } catch { // not allowed, or no https beyond this machine
    el("facts-copied").textContent = text;
    getSelection().selectAllChildren(el("facts-copied"));
  }
}

// --- The filter, and what completes it -----------------------------------------------------------

let offered = [];
let chosen = -1;

function offer() {
  const box = el("where");
  const word = /[\w"]*$/.exec(box.value.slice(0, box.selectionStart))[0].replace(/"/g, "").toLowerCase();
  const names = Object.keys(info.columns);
  const begins = names.filter((name) => name.toLowerCase().startsWith(word));
  const holds = names.filter((name) => name.toLowerCase().includes(word) && !begins.includes(name));
  offered = word ? [...begins, ...holds].slice(0, 8) : [];
  if (offered.length === 1 && offered[0].toLowerCase() === word) offered = [];
  chosen = -1;
  showOffers();
}

function showOffers() {
  const list = el("columns");
  list.replaceChildren(...offered.map((name, place) => {
    const option = make("li", { id: `column-${place}`, textContent: name }, make("small", { textContent: info.columns[name] }));
    option.role = "option";
    option.ariaSelected = String(place === chosen);
    option.onpointerdown = (event) => { event.preventDefault(); complete(name); };
    return option;
  }));
  list.hidden = !offered.length;
  el("where").ariaExpanded = String(Boolean(offered.length));
  if (chosen >= 0) el("where").setAttribute("aria-activedescendant", `column-${chosen}`);
  else el("where").removeAttribute("aria-activedescendant");
}

function complete(name) {
  const box = el("where");
  const before = box.value.slice(0, box.selectionStart).replace(/[\w"]*$/, "");
  const text = /^[a-z_]\w*$/i.test(name) ? name : `"${name.replace(/"/g, '""')}"`;
  const after = box.value.slice(box.selectionStart);
  box.value = `${before}${text} ${after.replace(/^ /, "")}`;
  box.setSelectionRange(before.length + text.length + 1, before.length + text.length + 1);
  offered = [];
  showOffers();
}

el("where").addEventListener("input", offer);
el("where").addEventListener("blur", () => { offered = []; showOffers(); });
el("where").addEventListener("keydown", (event) => {
  if (offered.length && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    chosen = (chosen + (event.key === "ArrowDown" ? 1 : -1) + offered.length + 1) % (offered.length + 1);
    if (chosen === offered.length) chosen = -1;
    showOffers();
    event.preventDefault();
  } else if (chosen >= 0 && (event.key === "Enter" || event.key === "Tab")) {
    complete(offered[chosen]);
    event.preventDefault();
  } else if (event.key === "Escape" && offered.length) {
    offered = [];
    showOffers();
    event.stopPropagation();
  }
});

// --- Everything else that can be pressed ---------------------------------------------------------

function showNumbers() {
  el("k-out").textContent = el("k").value;
  el("least-out").textContent = Number(el("least").value) > 0 ? Number(el("least").value).toFixed(2) : "any";
}

el("options").addEventListener("submit", (event) => { event.preventDefault(); go({ where: el("where").value.trim() }); });
el("where").addEventListener("change", () => { if (el("where").value.trim() !== state.where) go({ where: el("where").value.trim() }); });
for (const id of ["k", "least"]) {
  el(id).addEventListener("input", showNumbers);
  el(id).addEventListener("change", () => go({ [id]: Number(el(id).value) }, { replace: true }));
}
el("choose").addEventListener("click", () => el("file").click());
el("file").addEventListener("change", () => { if (el("file").files[0]) take(el("file").files[0]); el("file").value = ""; });
addEventListener("paste", (event) => { const file = event.clipboardData?.files[0]; if (file) { event.preventDefault(); take(file); } });
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
});
el("search-region").addEventListener("click", searchRegion);
el("whole").addEventListener("click", () => go({ crop: null }));
el("clear").addEventListener("click", () => go({ row: null, upload: null, crop: null, like: [], unlike: [] }, { path: [] }));
el("again").addEventListener("click", () => go({ like: marked("like"), unlike: marked("unlike") }));
el("forget").addEventListener("click", () => {
  for (const [row, kind] of [...marks]) mark(row, kind);
  if (state.like.length || state.unlike.length) go({ like: [], unlike: [] });
});
el("retry").addEventListener("click", search);
el("before").addEventListener("click", () => page(-1));
el("next").addEventListener("click", () => page(1));
el("home").addEventListener("click", (event) => { event.preventDefault(); go({ ...DEFAULTS }, { path: [] }); });
el("facts-close").addEventListener("click", () => el("facts").close());

function page(step) {
  const button = el(step > 0 ? "next" : "before");
  if (button.disabled || el("pager").hidden) return;
  scrollTo({ top: 0 });
  focusFirst = true;
  go({ offset: Math.max(0, state.offset + step * state.k) });
}

el("grid").addEventListener("click", (event) => {
  const item = event.target.closest("li");
  const button = event.target.closest("button");
  if (!item) return;
  const row = Number(item.dataset.row);
  if (button) {
    if (button.dataset.mark === "facts") facts(row);
    else mark(row, button.dataset.mark);
  } else if (event.target.closest("a") && !(event.ctrlKey || event.metaKey || event.shiftKey || event.button)) {
    event.preventDefault();
    moreLike(row);
  }
});
el("grid").addEventListener("focusin", (event) => {
  const link = event.target.closest("li")?.querySelector(".tile");
  if (link) current(link);
});

addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const row = document.activeElement?.closest?.("#grid li")?.dataset.row;
  if (event.key === "/") { el("more").open = true; el("where").focus(); }
  else if (event.key.startsWith("Arrow")) { if (!moveFocus(event.key)) return; }
  else if (event.key === "n") page(1);
  else if (event.key === "p") page(-1);
  else if (row && event.key === "+") mark(Number(row), "like");
  else if (row && event.key === "-") mark(Number(row), "unlike");
  else if (row && event.key === "i") facts(Number(row));
  else return;
  event.preventDefault();
});
addEventListener("popstate", load);
addEventListener("resize", () => { if (natural && (region ?? state.crop)) drawBox(region ?? state.crop); });
el("preview-image").addEventListener("load", () => { if (natural && (region ?? state.crop)) drawBox(region ?? state.crop); });

if (matchMedia("(max-width: 50rem)").matches) el("more").open = false;
el("app").hidden = false;
await about().catch(() => {});
load();
