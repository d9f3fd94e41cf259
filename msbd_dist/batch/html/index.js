// The index: rows from report.js, which is loaded again while the run goes on.

const ORDER = ["quarantined", "failed", "running", "waiting", "stopped", "done", "kept"];
const EVERY = 10_000; // ms between two looks at a run that goes on
const QUIET = 60; // s without news after which a run may have ended
const SORTS = {
  failures: (a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || a.number - b.number,
  manifest: (a, b) => a.number - b.number,
  name: (a, b) => a.id.localeCompare(b.id, "en", { numeric: true }),
  best: (a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity) || a.number - b.number,
  worst: (a, b) => (a.score ?? Infinity) - (b.score ?? Infinity) || a.number - b.number,
  borders: (a, b) => (b.borders ?? -1) - (a.borders ?? -1) || a.number - b.number,
  slowest: (a, b) => (b.seconds ?? -1) - (a.seconds ?? -1) || a.number - b.number,
};

const list = byId("rows");
const known = new Map(); // id -> {row, text, element}
let report = null;
let chosen = new Set();

function element(row) {
  const name = row.link
    ? make("a", { class: "name", href: linkTo(row.link) }, row.id)
    : make("span", { class: "name" }, row.id);
  const thumb = row.thumb
    ? make("img", { class: "thumb", src: linkTo(row.thumb), alt: "", loading: "lazy", decoding: "async", width: 76, height: 60 })
    : make("span", { class: "thumb" });
  const words = make("div", { class: "words" }, name);
  if (row.prompt !== null) words.append(make("div", { class: "says", title: row.prompt }, promptOf(row.prompt)));
  if (row.error) words.append(make("div", { class: "error" }, row.error));
  const how = make("div", { class: "how" }, make("span", { class: `state ${row.state}` }, row.state));
  if (row.state === "running" && row.share !== null) {
    const percent = Math.round(100 * row.share);
    how.firstChild.append(` ${percent} %`);
    how.append(make("progress", { max: 100, value: percent, "aria-label": `${row.id}: ${percent} %` }));
  }
  const score = row.score === null ? "" : `score ${row.score.toFixed(2)}`;
  const borders = row.borders === null ? null : make("div", { title: "How far the mask's edge and the borders of segments show: about 1 where nothing does" }, `borders ${row.borders.toFixed(2)}`);
  return make(
    "li", { class: "row" }, thumb, words, how,
    make("div", { class: "right num soft score" }, score, borders),
    make("div", { class: "right num soft" }, duration(row.seconds)),
  );
}

function take(next) {
  report = next;
  const seen = new Set();
  next.rows.forEach((row, number) => {
    row.number = number;
    seen.add(row.id);
    const text = JSON.stringify(row);
    const old = known.get(row.id);
    if (old && old.text === text) return;
    const item = { row, text, element: element(row), words: `${row.id}\n${row.prompt ?? ""}\n${row.error ?? ""}`.toLowerCase() };
    if (old && old.element.isConnected) keepingFocus(() => old.element.replaceWith(item.element));
    known.set(row.id, item);
  });
  for (const id of known.keys()) if (!seen.has(id)) known.delete(id);
  show();
}

function keepingFocus(change) {
  const active = document.activeElement;
  const href = active && active.closest("#rows") ? active.getAttribute("href") : null;
  change();
  if (href !== null && document.activeElement !== active) {
    const again = [...list.querySelectorAll("a.name")].find((a) => a.getAttribute("href") === href);
    if (again) again.focus({ preventScroll: true });
  }
}

function show() {
  const words = byId("filter").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...known.values()].filter(
    (item) =>
      (chosen.size === 0 || chosen.has(item.row.state)) &&
      words.every((word) => item.words.includes(word)),
  );
  rows.sort((a, b) => SORTS[byId("sort").value](a.row, b.row));
  const same = rows.length === list.children.length && rows.every((item, i) => list.children[i] === item.element);
  if (!same) keepingFocus(() => list.replaceChildren(...rows.map((item) => item.element)));
  byId("nothing").hidden = rows.length > 0 || known.size === 0;
  showStates();
  showSummary(rows.length);
}

function showStates() {
  const counts = {};
  for (const { row } of known.values()) counts[row.state] = (counts[row.state] || 0) + 1;
  const box = byId("states");
  for (const state of ORDER) {
    let button = box.querySelector(`[data-state="${state}"]`);
    if (!button && counts[state]) {
      button = make("button", { type: "button", "data-state": state, onclick: () => toggle(state) });
      const later = ORDER.slice(ORDER.indexOf(state) + 1).map((s) => box.querySelector(`[data-state="${s}"]`));
      box.insertBefore(button, later.find(Boolean) || null);
    }
    if (!button) continue;
    button.textContent = `${state} ${(counts[state] || 0).toLocaleString("en")}`;
    button.hidden = !counts[state] && !chosen.has(state);
    button.setAttribute("aria-pressed", chosen.has(state));
  }
}

function toggle(state) {
  if (!chosen.delete(state)) chosen.add(state);
  remember();
  show();
}

function showSummary(shown) {
  const all = counted(known.size, "edit");
  const which = shown === known.size ? all : `${shown.toLocaleString("en")} of ${all}`;
  const at = new Date(report.written * 1000);
  const quiet = Date.now() / 1000 - report.written;
  let how = `ended ${at.toLocaleString()}`;
  if (report.active) {
    how = quiet > QUIET ? `no news since ${at.toLocaleString()}: the run may have been killed` : "under way";
  }
  byId("summary").textContent = `${which}, ${how}`;
  byId("title").textContent = document.title = report.title;
}

// -- what is chosen stays in the address, so that it is there again after "back"

function remember() {
  const kept = new URLSearchParams();
  if (byId("filter").value) kept.set("filter", byId("filter").value);
  if (byId("sort").value !== "failures") kept.set("sort", byId("sort").value);
  if (chosen.size) kept.set("states", [...chosen].join(" "));
  history.replaceState(null, "", `#${kept}`);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  byId("filter").value = kept.get("filter") || "";
  if (kept.get("sort") in SORTS) byId("sort").value = kept.get("sort");
  chosen = new Set((kept.get("states") || "").split(" ").filter((state) => ORDER.includes(state)));
}

// -- loading: scripts, because pages of files may not fetch

window.msbdReport = take;

function load() {
  const script = make("script", { src: `report.js?${Date.now()}` });
  script.addEventListener("load", () => script.remove());
  script.addEventListener("error", () => {
    script.remove();
    if (!report) byId("summary").textContent = "report.js is not beside this page: copy the run's whole folder";
  });
  document.head.append(script);
}

setInterval(() => { if (!report || report.active) load(); }, EVERY);

byId("filter").addEventListener("input", () => { remember(); show(); });
byId("sort").addEventListener("input", () => { remember(); show(); });
byId("tools").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && !typing(event)) {
    event.preventDefault();
    byId("filter").focus();
  }
  if (event.key === "Escape" && event.target === byId("filter")) byId("filter").blur();
  if (!["ArrowDown", "ArrowUp"].includes(event.key) || event.target.matches("select")) return;
  const links = [...list.querySelectorAll("a.name")];
  const next = links.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
  if (next < 0 || next >= links.length) return;
  event.preventDefault();
  links[next].focus();
});
recall();
load();
