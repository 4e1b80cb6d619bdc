// The page's own script: clips to filter and play, timelines, charts, colours. Texts become text nodes, never HTML.
"use strict";

const boot = JSON.parse(document.getElementById("boot").textContent);
const index = boot.index;
const PAGE = 15, MAX_CHOICES = 200, MAX_LANES = 10, MAX_ROWS = 500;
const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");

// Columns over all files, in the order of the table: a video's clips together, by start.
const videos = { uri: [], seconds: [], status: [], facts: [], timeline: [], first: [], end: [] };
const clips = { id: [], video: [], start: [], end: [], top: [], score: [], caption: [], cscore: [], sound: [], labels: [] };
const sparse = { said: new Map(), problem: new Map(), partial: new Set(), stills: new Set(), excerpts: new Set() };
const timelines = new Map();

// What the files of data call; files come in any order, so a part goes to its place.
window.reeltable = {
  take(kind, value) {
    if (kind === "timelines") { for (const one of value) timelines.set(one.video, one); return; }
    const into = kind === "videos" ? videos : clips;
    for (const name of Object.keys(into)) if (value[name]) value[name].forEach((v, i) => { into[name][value.first + i] = v; });
    if (kind !== "clips") return;
    for (const name of ["said", "problem"]) for (const [i, text] of Object.entries(value[name])) sparse[name].set(value.first + Number(i), text);
    for (const name of ["partial", "stills", "excerpts"]) for (const i of value[name]) sparse[name].add(value.first + i);
    value.video.forEach((v, i) => { videos.first[v] ??= value.first + i; videos.end[v] = value.first + i + 1; });
  },
};

function load(file) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = file;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${file} is missing beside the page`));
    document.head.append(script);
  });
}

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const baseName = (uri) => uri.slice(uri.lastIndexOf("/") + 1) || uri;
function clock(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const tenths = Math.round(seconds * 10), rest = (tenths % 600) / 10, minutes = Math.floor(tenths / 600);
  const two = (n) => String(n).padStart(2, "0");
  const shown = Number.isInteger(rest) ? two(rest) : (rest < 10 ? "0" : "") + rest.toFixed(1);
  return minutes < 60 ? `${minutes}:${shown}` : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${shown}`;
}
const span = (i) => `${clock(clips.start[i])}–${clock(clips.end[i])}`;
const nameOf = (i) => `${baseName(videos.uri[clips.video[i]])}, ${span(i)}`;

// ---- clips ----

let found = [], page = 0, sort = { by: "place", down: false };

function matches() {
  const text = byId("find-text").value.trim().toLowerCase(), video = byId("find-video").value.trim().toLowerCase();
  const label = byId("find-label").value === "" ? -1 : Number(byId("find-label").value);
  const previewed = byId("find-preview").checked;
  const isVideo = video ? videos.uri.map((uri) => uri.toLowerCase().includes(video)) : null;
  const has = (value) => value && value.toLowerCase().includes(text);
  const rows = [];
  for (let i = 0; i < clips.id.length; i++) {
    if (isVideo && !isVideo[clips.video[i]]) continue;
    if (previewed && !sparse.excerpts.has(i) && !sparse.stills.has(i)) continue;
    if (label >= 0 && !hasLabel(clips.labels[i], label)) continue;
    if (text && !has(clips.caption[i]) && !has(sparse.said.get(i))) continue;
    rows.push(i);
  }
  return rows;
}

function hasLabel(labels, code) {
  for (let k = 0; k < labels.length; k += 3) if (labels[k] === code) return true;
  return false;
}

function sorted(rows) {
  if (sort.by === "place") return sort.down ? rows.reverse() : rows;
  const values = clips[sort.by], sign = sort.down ? -1 : 1;
  return rows.sort((a, b) => {
    const x = values[a], y = values[b];
    if (x === y) return a - b;
    if (x === null) return 1; // what there is not comes last, either way
    if (y === null) return -1;
    return x < y ? -sign : sign;
  });
}

function search() {
  found = sorted(matches());
  page = 0;
  showPage();
}

function showPage() {
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(page, pages - 1);
  byId("clip-table").tBodies[0].replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(clipRow));
  const n = clips.id.length, loading = n < index.n_clips ? `; loading, ${number.format(index.n_clips)} in all` : "";
  byId("found").textContent = `${number.format(found.length)} of ${number.format(n)} clips${loading}`;
  byId("page-number").textContent = `page ${number.format(page + 1)} of ${number.format(pages)}`;
  byId("previous").disabled = page === 0;
  byId("next").disabled = page >= pages - 1;
}

function clipRow(i) {
  const where = make("td", {}, make("bdi", { className: "long name", textContent: baseName(videos.uri[clips.video[i]]) }), make("span", { className: "when", textContent: span(i) }));
  if (sparse.partial.has(i)) where.append(" ", make("span", { className: "state look", textContent: "partial" }));
  const caption = clips.caption[i] ?? sparse.problem.get(i) ?? "";
  return make("tr", {}, make("td", {}, openButton(i)), where,
    make("td", {}, make("bdi", { className: "long", textContent: clips.top[i] ?? "–" })),
    make("td", { className: "score" }, ...meter(clips.score[i])),
    make("td", {}, make("bdi", { className: "long", textContent: caption })));
}

function meter(score) {
  if (score === null) return ["–"];
  const fill = make("i");
  fill.style.width = `${Math.round(100 * score)}%`;
  return [make("span", { className: "meter", ariaHidden: "true" }, fill), score.toFixed(2)];
}

function openButton(i) {
  const plays = sparse.excerpts.has(i);
  const button = make("button", { type: "button", className: plays ? "open plays" : "open" });
  button.setAttribute("aria-label", `${plays ? "Play" : "Open"} clip: ${nameOf(i)}`);
  button.append(sparse.stills.has(i) ? make("img", { src: `media/${clips.id[i]}.jpg`, alt: "", loading: "lazy" }) : "Open");
  button.addEventListener("click", () => openClip(i));
  return button;
}

function openClip(i) {
  byId("clip-title").replaceChildren(make("bdi", { textContent: nameOf(i) }));
  byId("clip-media").replaceChildren(...clipMedia(i));
  byId("clip-caption").textContent = clips.caption[i] ?? sparse.problem.get(i) ?? "No caption.";
  const facts = [["Source", videos.uri[clips.video[i]]], ["Clip", clips.id[i]], ["Streams", videos.facts[clips.video[i]]],
    ["Sound", clips.sound[i] === null ? "none" : `${Math.round(100 * clips.sound[i])} % of the clip`],
    ["Caption's score", clips.cscore[i]?.toFixed(2)], ["Said", sparse.said.get(i)]];
  byId("clip-facts").replaceChildren(...facts.filter(([, v]) => v).map(([name, value]) =>
    make("div", {}, make("dt", { textContent: name }), make("dd", {}, make("bdi", { className: "long", textContent: value })))));
  byId("clip-labels").replaceChildren(...labelRows(clips.labels[i]));
  byId("clip-timeline").onclick = () => { byId("clip").close(); byId("video-find").value = ""; chooseVideo(clips.video[i]); byId("timeline").scrollIntoView(); byId("video-choice").focus(); };
  byId("clip").showModal();
}

function clipMedia(i) {
  const still = sparse.stills.has(i) ? `media/${clips.id[i]}.jpg` : "";
  if (sparse.excerpts.has(i)) {
    const video = make("video", { src: `media/${clips.id[i]}.mp4`, controls: true, autoplay: true, poster: still });
    video.setAttribute("aria-label", `Preview of ${nameOf(i)}`);
    return [video];
  }
  if (still) return [make("img", { src: still, alt: `A picture of ${nameOf(i)}` })];
  return [make("p", { className: "quiet", textContent: "No preview was made of this clip." })];
}

function labelRows(labels) {
  const rows = [];
  for (let k = 0; k < labels.length; k += 3) {
    const [space, label] = index.labels[labels[k]];
    const cells = [label, space, index.modalities[labels[k + 1]]].map((text) => make("td", {}, make("bdi", { textContent: text })));
    rows.push(make("tr", {}, ...cells, make("td", { className: "n", textContent: (labels[k + 2] / 1000).toFixed(2) })));
  }
  return rows;
}

function offerLabels() {
  const groups = new Map();
  index.labels.forEach(([space, label, n], code) => {
    if (!groups.has(space)) groups.set(space, make("optgroup", { label: space }));
    const shown = label.length > 60 ? `${label.slice(0, 60)}…` : label;
    groups.get(space).append(make("option", { value: String(code), textContent: `${shown} (${number.format(n)})` }));
  });
  byId("find-label").append(...groups.values());
}

function listenToClips() {
  let waiting = 0;
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(search, 120); };
  for (const id of ["find-text", "find-video"]) byId(id).addEventListener("input", soon);
  for (const id of ["find-label", "find-preview"]) byId(id).addEventListener("change", search);
  byId("filter").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  byId("filter").addEventListener("reset", () => setTimeout(search));
  byId("previous").addEventListener("click", () => { page -= 1; showPage(); });
  byId("next").addEventListener("click", () => { page += 1; showPage(); });
  byId("clip").addEventListener("close", () => byId("clip-media").replaceChildren()); // and the sound stops
  for (const head of document.querySelectorAll("[data-sort]")) head.querySelector("button").addEventListener("click", () => {
    const by = head.dataset.sort, numeric = by === "score";
    sort = { by, down: sort.by === by ? !sort.down : numeric };
    for (const other of document.querySelectorAll("[data-sort]")) other.setAttribute("aria-sort", other !== head ? "none" : sort.down ? "descending" : "ascending");
    search();
  });
}

// ---- timeline ----

let shownVideo = -1;

function offerVideos(keep = -1) {
  const text = byId("video-find").value.trim().toLowerCase(), rows = [];
  let n = 0;
  videos.uri.forEach((uri, v) => {
    if (text && !uri.toLowerCase().includes(text)) return;
    n += 1;
    if (rows.length < MAX_CHOICES) rows.push(v);
  });
  if (keep >= 0 && !rows.includes(keep)) rows.unshift(keep);
  byId("video-choice").replaceChildren(...rows.map((v) => make("option", { value: String(v), textContent: baseName(videos.uri[v]).slice(0, 120) })));
  byId("video-more").textContent = n > MAX_CHOICES ? `the first ${MAX_CHOICES} of ${number.format(n)}` : "";
  return rows;
}

function chooseVideo(v) {
  const rows = offerVideos(v);
  if (!rows.length) { byId("video-facts").textContent = "No video."; return; }
  const chosen = v >= 0 ? v : rows[0];
  byId("video-choice").value = String(chosen);
  if (chosen !== shownVideo) showTimeline(chosen);
}

async function showTimeline(v) {
  shownVideo = v;
  const n = (videos.end[v] ?? 0) - (videos.first[v] ?? 0);
  byId("video-facts").replaceChildren(make("bdi", { className: "long", textContent: `${videos.uri[v]}: ${clock(videos.seconds[v])}, ${number.format(n)} clips; ${videos.facts[v]}` }));
  const withStill = [];
  for (let i = videos.first[v]; i < videos.end[v]; i++) if (sparse.stills.has(i)) withStill.push(i);
  byId("film").replaceChildren(...withStill.map(openButton));
  if (!timelines.has(v)) await load(`data/${index.timelines[videos.timeline[v]]}`);
  if (shownVideo !== v) return;
  const rows = timelineRows(timelines.get(v));
  byId("timeline-rows").replaceChildren(...rows.slice(0, MAX_ROWS).map((r) => make("tr", {},
    ...[clock(r.from), clock(r.to), r.lane, r.kind, r.score === null ? "" : r.score.toFixed(2)].map((text) => make("td", {}, make("bdi", { textContent: text }))))));
  const end = Math.max(videos.seconds[v] ?? 0, ...rows.map((r) => r.to));
  await draw("timeline-chart", timelineSpec(rows, v, end));
  await draw("level-chart", levelSpec(timelines.get(v).level, v, end));
}

const LEAST_DB = -60, LANE_WIDTH = 150; // both charts begin at one place, so that a second is above itself

function levelSpec(level, v, end) {
  const steps = (level?.db ?? []).map((db, i) => ({ from: i * level.step_s, to: (i + 1) * level.step_s, db })).filter((x) => x.db !== null);
  const values = steps.map((x) => ({ ...x, top: Math.max(x.db, LEAST_DB) }));
  const loudest = steps.reduce((a, b) => (b.db > a.db ? b : a), { from: 0, db: -Infinity });
  const told = steps.length ? `loudest ${loudest.db} dB at ${clock(loudest.from)}` : "none is known";
  return {
    description: `Loudness of the sound of ${baseName(videos.uri[v])}: ${told}.`,
    width: "container", height: 70, data: { values }, title: "loudness, dB",
    mark: { type: "bar", clip: true },
    encoding: {
      x: { field: "from", type: "quantitative", title: "seconds", scale: { domain: [0, end], nice: false } },
      x2: { field: "to" },
      y: { field: "top", type: "quantitative", title: null, stack: null, scale: { domain: [LEAST_DB, 0] }, axis: { values: [LEAST_DB, -40, -20, 0], ticks: false, domain: false, minExtent: LANE_WIDTH, maxExtent: LANE_WIDTH } },
      y2: { datum: LEAST_DB },
      tooltip: [{ field: "from", type: "quantitative", title: "second" }, { field: "db", type: "quantitative", title: "dB" }],
    },
  };
}

function timelineRows(line) {
  const rows = [], add = (lane, kind, [from, to], score = null) => rows.push({ lane, kind, from, to, score, strength: score ?? 1 });
  line.shots.forEach((s) => add("shots", "shots", s));
  line.sound.forEach(([a, b, share]) => add("sound", "sound", [a, b], share));
  line.speech.forEach((s) => add("speech", "speech", s));
  line.damaged.forEach((s) => add("damage", "damage", s));
  const seconds = new Map();
  for (const [code, a, b] of line.segments) seconds.set(code, (seconds.get(code) ?? 0) + b - a);
  const shown = [...seconds.keys()].sort((a, b) => seconds.get(b) - seconds.get(a) || a - b).slice(0, MAX_LANES);
  for (const [code, a, b, score] of line.segments) if (shown.includes(code)) add(index.labels[code][1], index.labels[code][0], [a, b], score);
  return rows;
}

function timelineSpec(rows, v, end) {
  const lanes = [...new Set(rows.map((r) => r.lane))], kinds = [...new Set(rows.map((r) => r.kind))];
  const long = lanes.filter((lane) => !["shots", "sound", "speech", "damage"].includes(lane));
  return {
    description: `What happens when in ${baseName(videos.uri[v])}: ${long.join(", ") || "nothing recognised"}. The numbers stand below.`,
    width: "container", height: { step: 24 }, data: { values: rows },
    mark: { type: "bar", height: { band: 0.72 }, cornerRadius: 2, style: "lane" },
    encoding: {
      y: { field: "lane", type: "nominal", sort: lanes, title: null, axis: { minExtent: LANE_WIDTH, maxExtent: LANE_WIDTH, labelLimit: LANE_WIDTH - 10 } },
      x: { field: "from", type: "quantitative", title: "seconds", scale: { domain: [0, end], nice: false } },
      x2: { field: "to" },
      color: { field: "kind", type: "nominal", sort: kinds, title: null },
      opacity: { field: "strength", type: "quantitative", legend: null, scale: { domain: [0, 1], range: [0.35, 1] } },
      tooltip: [{ field: "lane", type: "nominal", title: "what" }, { field: "kind", type: "nominal", title: "in" }, { field: "from", type: "quantitative" }, { field: "to", type: "quantitative" }, { field: "score", type: "quantitative" }],
    },
  };
}

// ---- charts and colours ----

const drawn = new Map();

function colours() {
  const style = getComputedStyle(document.documentElement), of = (name) => style.getPropertyValue(`--${name}`).trim();
  const text = { labelColor: of("ink"), titleColor: of("quiet"), labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelFont: "system-ui", titleFont: "system-ui" };
  return {
    background: of("sheet"), view: { stroke: null }, mark: { aria: false }, bar: { color: of("accent") }, line: { color: of("accent") }, point: { size: 35 },
    title: { anchor: "start", fontSize: 12, fontWeight: "normal", color: of("quiet") },
    axis: { ...text, aria: false, gridColor: of("line"), domainColor: of("line"), tickColor: of("line"), labelLimit: 190, tickCount: 6 },
    axisBand: { grid: false, ticks: false, domain: false }, legend: { ...text, aria: false, orient: "top", labelLimit: 160, columns: 6 }, style: { lane: { stroke: of("sheet"), strokeWidth: 1 }, limit: { color: of("second"), opacity: 1 } },
    range: { category: ["accent", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "quiet"].map(of) },
  };
}

async function draw(id, spec) {
  drawn.set(id, spec);
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, config: colours(), tooltip: { disableDefaultStyle: true } };
  await window.vegaEmbed(byId(id), spec, options);
}

async function redraw() {
  for (const [id, spec] of [...drawn]) await draw(id, spec);
}

function listenToColours() {
  const choice = byId("theme"), root = document.documentElement;
  const remember = (value) => { try { localStorage.setItem("reeltable-theme", value); } catch { /* a page from disk may be refused */ } };
  const remembered = () => { try { return localStorage.getItem("reeltable-theme") ?? ""; } catch { return ""; } };
  const show = (value) => { if (value) root.dataset.theme = value; else delete root.dataset.theme; };
  choice.value = remembered();
  show(choice.value);
  choice.addEventListener("change", () => { show(choice.value); remember(choice.value); redraw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

async function start() {
  listenToColours();
  listenToClips();
  offerLabels();
  for (const file of index.videos) await load(`data/${file}`);
  for (const file of index.clips) { await load(`data/${file}`); if (file === index.clips[0]) search(); }
  search();
  document.documentElement.dataset.ready = "clips";
  await load("charts.js");
  for (const { id, spec } of boot.charts) { await draw(id, spec); await new Promise((done) => setTimeout(done)); }
  byId("video-find").addEventListener("input", () => chooseVideo(-1));
  byId("video-choice").addEventListener("change", () => showTimeline(Number(byId("video-choice").value)));
  chooseVideo(-1);
  document.documentElement.dataset.ready = "all";
}

start().catch((error) => { byId("found").textContent = `The page is not whole: ${error.message}`; throw error; });
