// The page of `embedsearch serve`: what can be pressed, and the start.

import { el } from "./dom.js";
import { DEFAULTS, go, load, onChange, state } from "./address.js";
import "./columns.js";
import { facts } from "./facts.js";
import { current, moreLike, moveFocus, page } from "./grid.js";
import { mark, marked, marks, readMarks, showMarks } from "./marks.js";
import { searchRegion, showQuery, take } from "./query.js";
import { search } from "./search.js";
import { about } from "./store.js";

onChange(() => {
  readMarks();
  el("where").value = state.where;
  el("k").value = state.k;
  el("least").value = state.least;
  showNumbers();
  showQuery();
  showMarks();
  search();
});

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

if (matchMedia("(max-width: 50rem)").matches) el("more").open = false;
el("app").hidden = false;
await about().catch(() => {});
load();
