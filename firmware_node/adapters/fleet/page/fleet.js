// The page of a fleet. It keeps a few numbers of each member in typed arrays, fed by the stream of
// snapshots, and draws from those: the homes on a canvas, the rest as elements. No text that came
// from outside is ever taken as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const PAGE = 50; // rows of the table
const MOVING = ["offered", "downloading", "transferred", "activating", "trial"];
// What a chip of the filter stands for, and the shape that the grid draws it in.
const GROUPS = [
  { key: "failed", words: "Failed", phases: ["failed"], colour: "--failed" },
  { key: "off", words: "Off", phases: ["off"], colour: "--off" },
  { key: "waiting", words: "Waiting", phases: ["starting", "idle"], colour: "--waiting" },
  { key: "way", words: "Downloading", phases: ["offered", "downloading"], colour: "--way" },
  { key: "trial", words: "Activating", phases: ["transferred", "activating", "trial"], colour: "--trial" },
  { key: "done", words: "Done", phases: ["done"], colour: "--done" },
];

let fleet = null; // what does not change
let last = null; // the last snapshot
let phaseOf, percentOf, waveOf, causeOf, versionOf, retriesOf; // by member
let groupOf = []; // place in GROUPS, by phase
let rankOf = []; // how far behind, by phase: the lowest of a home stands for it
let history = []; // virtual ms, done, failed, under way
let chosen = -1; // member in the detail
let cursor = 0; // home, by its place
let first = 0; // of the table's page, in ``found``
let found = []; // members that pass the filter
const filter = { groups: new Set(), cause: "", wave: "", text: "" };
let isOver = false; // the run ended while the page looked on
const due = new Set(); // what the next frame draws
const grid = { size: 10, columns: 1, ratio: 1 };

// --- words --------------------------------------------------------------------------------------

const count = (n) => n.toLocaleString("en-GB");
const hex = (n) => n.toString(16).padStart(8, "0");

function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const s = Math.round(seconds), h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
  const two = (n) => String(n).padStart(2, "0");
  if (h >= 48) return `${Math.floor(h / 24)} d ${h % 24} h`;
  return h ? `${h}:${two(m)}:${two(s % 60)} h` : `${m}:${two(s % 60)} min`;
}

function octets(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  while (n >= 1000 && place < units.length - 1) { n /= 1000; place += 1; }
  return `${n.toFixed(n < 10 && place ? 1 : 0)} ${units[place]}`;
}

function moment(ms) { // of the fleet, UTC
  return new Date(Date.parse(fleet.start) + ms).toISOString().replace("T", " ").slice(0, 19);
}

const homeOf = (member) => Math.floor(member / fleet.places.length);
const placeOf = (member) => fleet.places[member % fleet.places.length];
const homeName = (home) => String(home + fleet.first_index);
const phaseName = (member) => fleet.phases[phaseOf[member]];

function kindName(member) {
  const place = member % fleet.places.length;
  const same = fleet.places.filter((p) => p.type === fleet.places[place].type).length;
  const before = fleet.places.slice(0, place).filter((p) => p.type === fleet.places[place].type).length;
  const name = fleet.places[place].type.toUpperCase();
  return same > 1 ? `${name} ${before + 1}` : name;
}

function entityOf(member) {
  const home = hex(homeOf(member) + fleet.first_index).toUpperCase();
  return `${placeOf(member).prefix}${home.match(/../g).join("-")}`;
}

function wordsOf(cause) { // where it was, and why it failed
  if (cause < 0) return "";
  const [phase] = last.causes[cause].split(": ");
  return `${last.words[cause]} (${phase})`;
}

function stateWords(member) {
  const name = phaseName(member);
  if (name === "downloading") return `downloading, ${percentOf[member]} %`;
  if (name === "failed" && causeOf[member] >= 0) return `failed: ${wordsOf(causeOf[member])}`;
  return name;
}

// --- elements -----------------------------------------------------------------------------------

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "click") made.addEventListener("click", value);
    else if (key in made && key !== "list" && key !== "role") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function drawing(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function put(node, text) { if (node.textContent !== text) node.textContent = text; }

// The sign of a group, as the grid draws it.
function mark(group) {
  const sign = element("canvas", { className: "mark", width: 24, height: 24, ariaHidden: "true" });
  const pen = sign.getContext("2d");
  pen.scale(2, 2);
  cell(pen, 0, 0, 12, group, 60);
  return sign;
}

let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  colours = {};
  for (const name of ["--card", "--text", "--focus", "--way-soft", "--track", ...GROUPS.map((g) => g.colour)]) {
    colours[name] = style.getPropertyValue(name).trim();
  }
}

// One home: failed is crossed out, off is hollow, waiting a dot, a download fills up from below,
// activating is full with a notch, done is full.
function cell(pen, x, y, size, group, percent) {
  const key = GROUPS[group].key, colour = colours[GROUPS[group].colour];
  const side = size - (size > 5 ? 1 : 0);
  pen.fillStyle = colour;
  pen.strokeStyle = colour;
  if (key === "waiting") {
    const dot = Math.max(2, side * 0.4);
    pen.fillRect(x + (side - dot) / 2, y + (side - dot) / 2, dot, dot);
  } else if (key === "off") {
    const line = Math.max(1, side * 0.14);
    pen.lineWidth = line;
    pen.strokeRect(x + line / 2, y + line / 2, side - line, side - line);
  } else if (key === "way") {
    pen.fillStyle = colours["--way-soft"];
    pen.fillRect(x, y, side, side);
    const filled = Math.max(1, side * percent / 100);
    pen.fillStyle = colour;
    pen.fillRect(x, y + side - filled, side, filled);
  } else {
    pen.fillRect(x, y, side, side);
    pen.strokeStyle = pen.fillStyle = colours["--card"];
    if (key === "failed") {
      const edge = side * 0.25;
      pen.lineWidth = Math.max(1, side * 0.16);
      pen.beginPath();
      pen.moveTo(x + edge, y + edge); pen.lineTo(x + side - edge, y + side - edge);
      pen.moveTo(x + side - edge, y + edge); pen.lineTo(x + edge, y + side - edge);
      pen.stroke();
    } else if (key === "trial") {
      const notch = side * 0.42;
      pen.fillRect(x + side - notch, y, notch, notch);
    }
  }
}

// --- the stream ---------------------------------------------------------------------------------

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(path, options);
  const document_ = await answer.json();
  if (!answer.ok) throw new Error(document_.error || answer.statusText);
  return document_;
}

async function begin() {
  readColours();
  fleet = await ask("/v1/fleet");
  const members = fleet.members_shown;
  fleet.shownHomes = Math.floor(members / fleet.places.length);
  groupOf = fleet.phases.map((name) => GROUPS.findIndex((group) => group.phases.includes(name)));
  const order = ["failed", ...fleet.phases.filter((name) => name !== "failed")];
  rankOf = fleet.phases.map((name) => order.indexOf(name));
  phaseOf = new Uint8Array(members);
  percentOf = new Uint8Array(members);
  waveOf = new Int16Array(members);
  causeOf = new Int16Array(members);
  versionOf = new Uint32Array(members);
  retriesOf = new Uint32Array(members);
  empty();
  history = fleet.history;
  last = fleet.snapshot;
  put($("plan"), fleet.plan);
  document.title = `${fleet.plan} – fleet`;
  $("grid").setAttribute("aria-label", `${count(fleet.homes)} homes`);
  chips();
  tableRows();
  layout();
  take(fleet.snapshot);
  listen();
}

function empty() {
  phaseOf.fill(fleet.phases.indexOf("starting"));
  percentOf.fill(0);
  waveOf.fill(-1);
  causeOf.fill(-1);
  versionOf.fill(0);
  retriesOf.fill(0);
}

const AGAIN_MS = 5000; // after which a stream that was refused is asked for once more

function listen() {
  const stream = new EventSource("/v1/events");
  stream.addEventListener("snapshot", (event) => {
    const snapshot = JSON.parse(event.data);
    if (snapshot.run !== fleet.run) { location.reload(); return; } // another fleet answers
    if (snapshot.since === 0) { empty(); due.add("grid"); }
    take(snapshot);
  });
  stream.addEventListener("end", over);
  stream.addEventListener("error", () => {
    if (isOver) return; // should another run begin here, the stream comes back with it
    $("state").className = "state lost";
    put($("state"), "no connection");
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN_MS); // it was refused
  });
}

// The run ended and nobody answers any more: what is shown stays, and no button promises anything.
function over() {
  isOver = true;
  soon("head", "waves", "chart", "chips", "failures", "table");
  $("report").hidden = true;
  const where = fleet.folder ? `${fleet.folder}/report.html` : "its folder";
  tell(`The run has ended, and this page with it. The report is in ${where}.`);
}

function take(snapshot) {
  const touched = new Set();
  for (const [index, phase, percent, wave, cause, version, retries] of snapshot.rows) {
    phaseOf[index] = phase;
    percentOf[index] = percent;
    waveOf[index] = wave;
    causeOf[index] = cause;
    versionOf[index] = version;
    retriesOf[index] = retries;
    touched.add(homeOf(index));
    if (index === chosen) refresh();
  }
  last = snapshot;
  const totals = snapshot.totals, moving = MOVING.reduce((sum, name) => sum + totals[name], 0);
  const newest = [snapshot.now_ms, totals.done, totals.failed, moving];
  if (!history.length || history[history.length - 1][0] < newest[0]) history.push(newest);
  else history[history.length - 1] = newest;
  if (history.length > 1000) history = history.filter((_, place) => place % 2 === 0);
  if (snapshot.since === 0) due.add("now");
  if (filtered()) due.add("grid"); else if (touched.size) homesDue(touched);
  for (const part of ["head", "waves", "chart", "chips", "failures", "table"]) due.add(part);
  schedule();
}

// --- drawing, once a frame ----------------------------------------------------------------------

const cellsDue = new Set();
function homesDue(homes) { for (const home of homes) cellsDue.add(home); due.add("cells"); }

let isScheduled = false;
let slowAt = 0; // when lists and curves are drawn next: nobody reads faster than that
function schedule() {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame((now) => {
    isScheduled = false;
    if (due.delete("grid")) { cellsDue.clear(); due.delete("cells"); drawGrid(); }
    if (due.delete("cells")) { for (const home of cellsDue) drawHome(home); cellsDue.clear(); }
    if (due.delete("head")) drawHead();
    if (due.has("now") || now >= slowAt) {
      due.delete("now");
      slowAt = now + 900;
      if (due.delete("waves")) drawWaves();
      if (due.delete("chart")) drawChart();
      if (due.delete("chips")) drawChips();
      if (due.delete("failures")) drawFailures();
      if (due.delete("table")) { look(); drawTable(); }
    } else if (due.size) setTimeout(schedule, Math.max(50, slowAt - now));
  });
}
function soon(...parts) { for (const part of parts) due.add(part); due.add("now"); schedule(); }

function tile(list, name, value, more, sign) {
  let node = $(`tile-${name}`);
  if (!node) {
    const title = element("dt", {}, sign === undefined ? null : mark(sign), name);
    node = element("dd", { id: `tile-${name}` });
    list.append(element("div", {}, title, node));
  }
  const text = more ? `${value} ${more}` : value;
  if (node.dataset.text === text) return;
  node.dataset.text = text;
  node.replaceChildren(value, ...(more ? [" ", element("small", {}, more)] : []));
}

function drawHead() {
  const { totals, rates, campaign } = last;
  put($("state"), campaign.state);
  $("state").className = `state ${campaign.state}`;
  put($("reason"), campaign.reason);
  put($("now"), `${moment(last.now_ms)} UTC`);
  put($("speed"), rates.speed ? `${rates.speed.toFixed(rates.speed < 10 ? 1 : 0)} ×` : "–");
  const left = last.eta_ms === null ? "–" : last.eta_s === null ? duration(last.eta_ms / 1000)
    : `${duration(last.eta_ms / 1000)} (${duration(last.eta_s)} here)`;
  put($("eta"), campaign.state === "running" ? left : "–");
  const words = { ready: "Start", running: "Pause", paused: "Resume" }[campaign.state];
  put($("toggle"), words || "Pause");
  $("toggle").disabled = isOver || !words;
  $("stop").disabled = isOver || !["running", "paused"].includes(campaign.state);
  const share = (n) => `${(100 * n / fleet.members).toFixed(1)} %`;
  const moving = MOVING.reduce((sum, name) => sum + totals[name], 0);
  const list = $("tiles");
  tile(list, "Done", count(totals.done), share(totals.done), 5);
  const before = last.waves.reduce((sum, wave) => sum + wave.failed, 0) - totals.failed;
  tile(list, "Failed", count(totals.failed), share(totals.failed) + (before > 0 ? `, ${count(before)} earlier` : ""), 0);
  tile(list, "Under way", count(moving), share(moving), 3);
  tile(list, "Devices", count(fleet.members), `in ${count(fleet.homes)} homes`);
  tile(list, "Outcomes", count(Math.round(rates.outcomes_per_minute)), "a fleet minute");
  tile(list, "Downloads", `${octets(rates.bytes_per_second)}/s`, `${octets(last.downloaded)} in all`);
  const messages = Object.entries(last.messages);
  const inAll = messages.reduce((sum, [, n]) => sum + n, 0);
  tile(list, "GBCS messages", count(inAll), messages.map(([name, n]) => `${name} ${count(n)}`).slice(0, 3).join(", "));
  tile(list, "Events", count(last.events), rates.events_per_second ? `${count(Math.round(rates.events_per_second))}/s` : "");
}

// A line for a wave; of one that runs the numbers as well, and it is scrolled to when it begins.
let wavesRunning = "";
function drawWaves() {
  const list = $("waves");
  if (!last.waves.length) { put(list, "The plan has none."); return; }
  if (!list.children.length) list.replaceChildren();
  while (list.children.length > last.waves.length) list.lastChild.remove();
  last.waves.forEach((wave, place) => {
    let node = list.children[place];
    if (!node) {
      node = element("div", {},
        element("div", { className: "head" }, element("b"), element("span", { className: "quiet" }), element("span")),
        element("div", { className: "track", role: "progressbar", ariaValueMin: "0", ariaValueMax: "100" },
          element("i", { className: "fill-done" }), element("i", { className: "fill-way" }), element("i", { className: "fill-failed" })),
        element("div", { className: "counts" }));
      list.append(node);
    }
    const [head, track, counts] = node.children;
    const members = Math.max(1, wave.members - wave.skipped, wave.done + wave.failed + wave.under_way);
    const share = Math.floor(100 * wave.share);
    const moves = wave.state === "running" || wave.under_way > 0;
    node.className = `wave ${moves ? "running" : wave.state}`;
    put(head.children[0], wave.name);
    put(head.children[1], `${wave.image}, ${wave.state}`);
    const failed = wave.failed ? `, ${count(wave.failed)} failed` : "";
    put(head.children[2], moves ? `${share} %` : wave.members ? `${count(wave.done)} of ${count(wave.members)}${failed}` : "");
    [wave.done, wave.under_way, wave.failed].forEach((n, at) => {
      track.children[at].style.width = `${100 * n / members}%`;
      track.children[at].hidden = n === 0;
    });
    const text = `${count(wave.done)} done, ${count(wave.under_way)} under way, ${count(wave.failed)} failed of ${count(wave.members)}`
      + (wave.skipped ? `, ${count(wave.skipped)} skipped` : "");
    counts.hidden = !moves;
    put(counts, text);
    track.setAttribute("aria-label", `Wave ${wave.name}`);
    track.setAttribute("aria-valuenow", String(share));
    track.setAttribute("aria-valuetext", text);
  });
  const running = last.waves.flatMap((wave, place) => (wave.state === "running" ? [place] : [])).join();
  if (running !== wavesRunning && running) {
    const top = list.children[Number(running.split(",")[0])].offsetTop;
    list.scrollTop = top - 40;
  }
  wavesRunning = running;
}

// Stacked areas: failed below, done above it, under way on top.
const STEPS_S = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
function step(seconds) { // a round number, not below that
  return STEPS_S.find((one) => one >= seconds) || 86400 * Math.ceil(seconds / 86400);
}

function drawChart() {
  const figure = $("chart"); // drawn as wide as it is, so that its words have the size of words
  const width = Math.max(280, figure.clientWidth), height = 250, left = 50, right = 14, top = 22, bottom = 34;
  const end = history[history.length - 1][0], start = history[0][0];
  if (end <= start) { figure.replaceChildren(element("p", { className: "quiet" }, "Nothing has happened yet.")); return; }
  const x = (ms) => left + (width - left - right) * (ms - start) / (end - start);
  const y = (n) => height - bottom - (height - top - bottom) * n / fleet.members;
  const area = (from, to) => {
    const up = history.map((point) => `${x(point[0]).toFixed(1)},${y(to(point)).toFixed(1)}`);
    const down = history.map((point) => `${x(point[0]).toFixed(1)},${y(from(point)).toFixed(1)}`).reverse();
    return `M${up.join("L")}L${down.join("L")}Z`;
  };
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  const [, done, failed, moving] = history[history.length - 1];
  svg.append(drawing("title", {}, `After ${duration((end - start) / 1000)}: ${done} done, ${failed} failed, ${moving} under way of ${fleet.members}`));
  svg.append(drawing("path", { class: "s-failed", d: area(() => 0, (p) => p[2]) }));
  svg.append(drawing("path", { class: "s-done", d: area((p) => p[2], (p) => p[2] + p[1]) }));
  svg.append(drawing("path", { class: "s-way", d: area((p) => p[2] + p[1], (p) => p[1] + p[2] + p[3]) }));
  for (const part of [0, 0.5, 1]) {
    const n = Math.round(fleet.members * part);
    svg.append(drawing("path", { class: "axis", d: `M${left} ${y(n)}H${width - right}` }));
    svg.append(drawing("text", { x: left - 6, y: y(n) + 4, "text-anchor": "end" }, count(n)));
  }
  svg.append(drawing("text", { x: 4, y: 12 }, "devices"));
  let at = left + 64;
  for (const [name, style] of [["failed", "s-failed"], ["done", "s-done"], ["under way", "s-way"]]) {
    svg.append(drawing("rect", { class: style, x: at, y: 3, width: 10, height: 10 }));
    svg.append(drawing("text", { x: at + 14, y: 12 }, name));
    at += 34 + 7 * name.length;
  }
  const every = step((end - start) / 1000 / Math.max(2, Math.floor(width / 110)));
  for (let seconds = Math.ceil(start / 1000 / every) * every; seconds * 1000 <= end; seconds += every) {
    const at = x(seconds * 1000), anchor = at > width - 40 ? "end" : "middle";
    svg.append(drawing("path", { class: "axis", d: `M${at.toFixed(1)} ${height - bottom}v4` }));
    svg.append(drawing("text", { x: at, y: height - bottom + 15, "text-anchor": anchor }, seconds ? duration(seconds) : "0"));
  }
  svg.append(drawing("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, "fleet time since the start"));
  figure.replaceChildren(svg);
}

// --- homes --------------------------------------------------------------------------------------

function layout() {
  const canvas = $("grid"), width = Math.max(120, $("frame").clientWidth - 4);
  const height = Math.max(300, Math.min(620, window.innerHeight - 330));
  grid.ratio = window.devicePixelRatio || 1;
  grid.size = Math.max(5, Math.min(36, Math.floor(Math.sqrt(width * height / fleet.shownHomes))));
  grid.columns = Math.max(1, Math.floor(width / grid.size));
  const rows = Math.ceil(fleet.shownHomes / grid.columns);
  canvas.width = Math.floor((width + 4) * grid.ratio);
  canvas.height = Math.ceil((rows * grid.size + 4) * grid.ratio);
  canvas.style.height = `${canvas.height / grid.ratio}px`;
  drawGrid(); // at once: a canvas that got another size is empty
  drawRings();
}

// The member that stands for its home: the one that failed, else the one furthest behind.
function worstOf(home) {
  const size = fleet.places.length;
  let worst = home * size;
  for (let member = worst + 1; member < home * size + size; member += 1) {
    if (rankOf[phaseOf[member]] < rankOf[phaseOf[worst]]) worst = member;
  }
  return worst;
}

function drawGrid() {
  const canvas = $("grid"), pen = canvas.getContext("2d");
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  for (let home = 0; home < fleet.shownHomes; home += 1) drawHome(home);
}

function drawHome(home) {
  if (home >= fleet.shownHomes) return;
  const pen = $("grid").getContext("2d"), size = grid.size;
  pen.setTransform(grid.ratio, 0, 0, grid.ratio, 2 * grid.ratio, 2 * grid.ratio);
  const x = home % grid.columns * size, y = Math.floor(home / grid.columns) * size;
  const worst = worstOf(home);
  pen.clearRect(x, y, size, size);
  pen.globalAlpha = filtered() && !homePasses(home) ? 0.12 : 1;
  cell(pen, x, y, size, groupOf[phaseOf[worst]], percentOf[worst]);
  pen.globalAlpha = 1;
}

// Rings lie above the canvas: which home is looked at, and which the arrow keys are at.
function ring(id, home) {
  const node = $(id), size = Math.max(9, grid.size + 3);
  node.hidden = home < 0;
  if (home < 0) return;
  const middle = 2 + (grid.size - 1) / 2 - size / 2;
  node.style.width = node.style.height = `${size}px`;
  node.style.left = `${home % grid.columns * grid.size + middle}px`;
  node.style.top = `${Math.floor(home / grid.columns) * grid.size + middle}px`;
}

function drawRings() {
  ring("chosen-ring", chosen < 0 ? -1 : homeOf(chosen));
  ring("cursor-ring", document.activeElement === $("grid") ? cursor : -1);
}

function homeWords(home) {
  const size = fleet.places.length, parts = [];
  for (let place = 0; place < size; place += 1) {
    parts.push(`${kindName(home * size + place)} ${stateWords(home * size + place)}`);
  }
  return parts;
}

function moveCursor(home) {
  cursor = Math.max(0, Math.min(fleet.shownHomes - 1, home));
  drawRings();
  put($("spoken"), `Home ${homeName(cursor)}: ${homeWords(cursor).join("; ")}`);
  tip(cursor);
}

function tip(home) {
  const node = $("tip"), x = home % grid.columns * grid.size, y = Math.floor(home / grid.columns) * grid.size;
  node.hidden = false;
  put(node, [`Home ${homeName(home)}`, ...homeWords(home)].join("\n"));
  const width = $("frame").clientWidth;
  node.style.top = `${y + grid.size + 6}px`;
  node.style.left = `${Math.max(0, Math.min(x, width - node.offsetWidth))}px`;
}

function homeAt(event) {
  const box = $("grid").getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left - 2) / grid.size);
  const home = Math.floor((event.clientY - box.top - 2) / grid.size) * grid.columns + column;
  return column < grid.columns && home >= 0 && home < fleet.shownHomes ? home : -1;
}

function wireGrid() {
  const canvas = $("grid");
  canvas.addEventListener("pointermove", (event) => {
    const home = homeAt(event);
    if (home < 0) $("tip").hidden = true; else tip(home);
  });
  canvas.addEventListener("pointerleave", () => { $("tip").hidden = true; });
  canvas.addEventListener("click", (event) => {
    const home = homeAt(event);
    if (home >= 0) { moveCursor(home); choose(worstOf(home)); }
  });
  canvas.addEventListener("focus", () => moveCursor(cursor));
  canvas.addEventListener("blur", () => { $("tip").hidden = true; drawRings(); });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns, Home: -1e9, End: 1e9 };
    if (event.key in steps) moveCursor(cursor + steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") choose(worstOf(cursor), true);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => layout()).observe($("frame"));
  new ResizeObserver(() => soon("chart")).observe($("chart"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    document.querySelectorAll("canvas.mark").forEach((sign) => sign.remove());
    $("tiles").replaceChildren();
    $("phases").querySelectorAll("label").forEach((label) => label.remove());
    chips();
    soon("grid", "head", "chips", "table");
  });
}

// --- filter -------------------------------------------------------------------------------------

function filtered() { return filter.groups.size > 0 || filter.cause !== "" || filter.wave !== "" || filter.text !== ""; }

function passes(member) {
  if (filter.groups.size && !filter.groups.has(groupOf[phaseOf[member]])) return false;
  if (filter.cause !== "" && (causeOf[member] < 0 || last.causes[causeOf[member]] !== filter.cause)) return false;
  if (filter.wave !== "" && (waveOf[member] < 0 || last.waves[waveOf[member]].name !== filter.wave)) return false;
  if (filter.text === "") return true;
  if (/^\d+$/.test(filter.text)) return homeName(homeOf(member)) === filter.text;
  return entityOf(member).replaceAll("-", "").includes(filter.text.toUpperCase().replaceAll("-", ""));
}

// As the chips say: a home is in the state of the device that stands for it.
function homePasses(home) {
  if (filter.groups.size && !filter.groups.has(groupOf[phaseOf[worstOf(home)]])) return false;
  const size = fleet.places.length;
  for (let member = home * size; member < home * size + size; member += 1) if (passes(member)) return true;
  return false;
}

function chips() {
  const checked = filter.groups;
  GROUPS.forEach((group, place) => {
    const box = element("input", { type: "checkbox", checked: checked.has(place), value: group.key });
    box.addEventListener("change", () => {
      if (box.checked) checked.add(place); else checked.delete(place);
      refilter();
    });
    $("phases").append(element("label", { className: "chip" }, box, mark(place), group.words, element("span", { className: "none", id: `homes-${group.key}` }, "0")));
  });
}

function refilter() { first = 0; soon("grid", "chips", "table"); }

function options(select, names, words) {
  const known = new Set([...select.options].map((option) => option.value));
  names.forEach((name, place) => {
    if (!known.has(name)) select.append(element("option", { value: name }, words(place)));
  });
}

function drawChips() {
  const counts = new Uint32Array(GROUPS.length);
  let shown = 0;
  for (let home = 0; home < fleet.shownHomes; home += 1) {
    counts[groupOf[phaseOf[worstOf(home)]]] += 1;
    if (filtered() && homePasses(home)) shown += 1;
  }
  GROUPS.forEach((group, place) => put($(`homes-${group.key}`), count(counts[place])));
  const cut = fleet.shownHomes < fleet.homes ? `, the first ${count(fleet.shownHomes)} drawn` : "";
  put($("shown"), (filtered() ? `${count(shown)} of ${count(fleet.homes)} homes` : `${count(fleet.homes)} homes`) + cut);
  options($("cause"), last.causes, wordsOf);
  options($("wave"), last.waves.map((wave) => wave.name), (place) => last.waves[place].name);
}

function wireFilter() {
  $("cause").addEventListener("change", (event) => { filter.cause = event.target.value; refilter(); });
  $("wave").addEventListener("change", (event) => { filter.wave = event.target.value; refilter(); });
  $("find").addEventListener("input", (event) => { filter.text = event.target.value.trim(); refilter(); });
  $("clear").addEventListener("click", () => {
    filter.groups.clear();
    filter.cause = filter.wave = filter.text = $("cause").value = $("wave").value = $("find").value = "";
    $("phases").querySelectorAll("input").forEach((box) => { box.checked = false; });
    refilter();
  });
}

// --- table --------------------------------------------------------------------------------------

function tableRows() {
  const cells = () => Array.from({ length: 9 }, (_, place) => element("td", { className: place === 4 || place === 7 ? "number" : "" }));
  for (let place = 0; place < PAGE; place += 1) {
    const row = element("tr", { hidden: true }, ...cells());
    const button = element("button", { className: "link", click: () => choose(Number(row.dataset.member), true) });
    row.children[1].append(button);
    $("rows").append(row);
  }
}

function look() {
  found = [];
  for (let member = 0; member < fleet.members_shown; member += 1) if (passes(member)) found.push(member);
  first = Math.max(0, Math.min(first, PAGE * Math.floor((found.length - 1) / PAGE)));
}

function drawTable() {
  [...$("rows").children].forEach((row, place) => {
    const member = found[first + place];
    row.hidden = member === undefined;
    if (row.hidden) return;
    row.dataset.member = member;
    row.className = member === chosen ? "chosen" : "";
    const texts = [
      homeName(homeOf(member)), null, entityOf(member), phaseName(member),
      phaseName(member) === "downloading" ? `${percentOf[member]} %` : "",
      waveOf[member] < 0 ? "" : (last.waves[waveOf[member]] || { name: "" }).name,
      versionOf[member] ? hex(versionOf[member]) : "", count(retriesOf[member]),
      wordsOf(causeOf[member]),
    ];
    texts.forEach((text, at) => { if (text !== null) put(row.children[at], text); });
    put(row.children[1].firstChild, kindName(member));
    row.children[1].firstChild.setAttribute("aria-label", `${kindName(member)} of home ${homeName(homeOf(member))}, show`);
    row.children[2].className = "code";
    row.children[6].className = "code";
  });
  const end = Math.min(found.length, first + PAGE);
  put($("range"), found.length ? `${count(first + 1)} to ${count(end)} of ${count(found.length)}` : "none pass the filter");
  $("before").disabled = first === 0;
  $("after").disabled = end >= found.length;
}

function drawFailures() {
  const place = $("failures");
  if (!last.failures.length) return;
  const shown = last.failures.slice(0, 8);
  const key = JSON.stringify(shown);
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.member : null;
  const rows = shown.map((failure) => element("tr", {},
    element("td", {}, ...moment(failure.at_ms).split(" ").flatMap((part) => [element("span", {}, part), " "])),
    element("td", {}, link(failure.member, `${kindName(failure.member)} of home ${homeName(homeOf(failure.member))}`)),
    element("td", {}, failure.wave), element("td", {}, wordsOf(last.causes.indexOf(`${failure.phase}: ${failure.cause}`)) || failure.cause)));
  const titles = ["When (UTC)", "Device", "Wave", "Cause"].map((text) => element("th", { scope: "col" }, text));
  place.replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...rows)));
  if (focused !== null) place.querySelector(`[data-member="${focused}"]`)?.focus();
}

function link(member, text) {
  const made = element("button", { className: "link", click: () => choose(member, true) }, text);
  made.dataset.member = member;
  return made;
}

// --- one device ---------------------------------------------------------------------------------

function choose(member, moves = false) {
  chosen = member;
  drawRings();
  shownKey = "";
  put($("detail-title"), `${kindName(member)} of home ${homeName(homeOf(member))}`);
  refresh(true);
  soon("table");
  if (moves) $("detail").focus();
}

let refreshing = false, again = false, refreshedAt = -1e9, shownKey = "";
function refresh(now = false) { // at most one question at a time, and one a second
  if (refreshing) { again = true; return; }
  const wait = now ? 0 : Math.max(0, refreshedAt + 1000 - performance.now());
  refreshing = true;
  again = false;
  setTimeout(async () => {
    const member = chosen;
    try {
      const document_ = await ask(`/v1/members/${member}`);
      if (member === chosen) showDevice(document_);
    } catch (error) {
      $("detail-body").replaceChildren(element("p", { className: "failure" }, String(error.message)));
    }
    refreshedAt = performance.now();
    refreshing = false;
    if (again || member !== chosen) refresh(member !== chosen);
  }, wait);
}

function fact(list, name, value) {
  if (value === null || value === undefined || value === "") return;
  list.append(element("dt", {}, name), element("dd", {}, value));
}

function bankOf(name, bank, runs) {
  const lines = [element("b", {}, `Bank ${name}`, element("span", { className: "quiet" }, runs ? "running" : "spare")), element("div", {}, bank.state)];
  if (bank.version) lines.push(element("code", {}, bank.version));
  if (bank.size) lines.push(element("div", { className: "quiet" }, octets(bank.size)));
  if (bank.sha256) lines.push(element("code", { title: bank.sha256 }, `${bank.sha256.slice(0, 16)}…`));
  return element("div", { className: runs ? "bank runs" : "bank" }, ...lines);
}

function showDevice(device) {
  const key = JSON.stringify(device);
  if (key === shownKey) return;
  shownKey = key;
  const body = $("detail-body"), size = fleet.places.length, home = homeOf(chosen);
  const focused = body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const parts = [];
  if (size > 1) {
    const tabs = Array.from({ length: size }, (_, place) => {
      const member = home * size + place;
      const tab = element("button", { role: "tab", click: () => choose(member) }, kindName(member));
      tab.setAttribute("aria-selected", String(member === chosen));
      tab.dataset.key = `tab${place}`;
      return tab;
    });
    parts.push(element("div", { className: "tabs", role: "tablist", ariaLabel: "Devices of the home" }, ...tabs));
  }
  const facts = element("dl", { className: "facts" });
  fact(facts, "Entity id", element("code", {}, device.entity_id));
  fact(facts, "State", device.phase);
  fact(facts, "Wave", device.wave === null ? "none yet" : `${device.wave}, image ${device.image}`);
  fact(facts, "Version", device.version);
  fact(facts, "Starts", count(device.starts));
  fact(facts, "Retries", count(device.retries));
  if (device.begun_ms !== null) fact(facts, "Offered", `${moment(device.begun_ms)} UTC`);
  if (device.ended_ms !== null) fact(facts, "Ended", `${moment(device.ended_ms)} UTC`);
  if (device.begun_ms !== null && device.ended_ms !== null) fact(facts, "Took", duration((device.ended_ms - device.begun_ms) / 1000));
  parts.push(facts);
  if (device.total) {
    parts.push(element("h3", {}, `Download: ${count(device.offset)} of ${count(device.total)} bytes`));
    parts.push(element("progress", { max: device.total, value: device.offset, ariaLabel: "Download" }));
  }
  const status = device.status || {};
  const failure = device.cause ? { phase: device.failed_in, cause: device.words || device.cause } : status.last_failure && { ...status.last_failure, cause: causeWords(status.last_failure.cause) };
  if (failure) {
    parts.push(element("h3", {}, "Last failure"));
    parts.push(element("p", { className: "failure" }, element("b", {}, failure.cause), ` (${failure.phase})`));
    parts.push(element("p", { className: "again" }, "Play it again: ", element("code", {}, replay(device))));
  }
  if (status.banks) {
    parts.push(element("h3", {}, "Banks"));
    parts.push(element("div", { className: "banks" }, ...Object.keys(status.banks).sort().map((name) => bankOf(name, status.banks[name], status.running_bank === name))));
  }
  parts.push(element("h3", {}, "Orders"), orders());
  if (device.messages.length) {
    parts.push(element("h3", {}, "GBCS messages"));
    parts.push(element("ul", { className: "events" }, ...device.messages.slice(-20).reverse().map((text) => element("li", {}, text))));
  }
  parts.push(element("h3", {}, "Events, newest first, UTC"));
  let day = "";
  const events = device.events.slice(-60).reverse().flatMap((event) => {
    const fields = Object.entries(event.fields || {}).map(([name, value]) => `${name} ${value}`).join(", ");
    const [date, time] = moment(event.at_ms).split(" ");
    const line = element("li", {}, element("time", { dateTime: `${date}T${time}Z` }, time), element("b", {}, event.name.replaceAll("_", " ")), fields ? ` ${fields}` : "");
    if (date === day) return [line];
    day = date;
    return [element("li", { className: "day" }, date), line];
  });
  parts.push(events.length ? element("ul", { className: "events" }, ...events) : element("p", { className: "quiet" }, "None."));
  const top = $("detail").scrollTop;
  body.replaceChildren(...parts);
  $("detail").scrollTop = top;
  if (focused) body.querySelector(`[data-key="${focused}"]`)?.focus();
}

function causeWords(cause) { // of one that may be of an earlier wave
  const place = last.causes.findIndex((name) => name.endsWith(`: ${cause}`));
  return place < 0 ? cause.replaceAll("_", " ") : last.words[place];
}

function replay(device) { // the command that plays its home again
  const state = fleet.folder ? ` --state ${quoted(fleet.folder)}` : "";
  return `firmware-node rig replay ${fleet.seed} --device ${device.entity_id}${state}`;
}

function quoted(text) { // for a shell
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}

function orders() {
  const member = chosen;
  const make = (key, text, body) => {
    const made = element("button", { click: () => say(ask(`/v1/members/${member}/orders`, body)) }, text);
    made.dataset.key = key;
    return made;
  };
  return element("div", { className: "orders" },
    make("query", "Ask for an image", { verb: "query" }), make("cut", "Cut the supply, 5 s", { verb: "cut", amount: 5000 }),
    make("pause", "Supply off", { verb: "pause" }), make("resume", "Supply on", { verb: "resume" }));
}

// --- steering -----------------------------------------------------------------------------------

async function say(promise) {
  try {
    tell((await promise).text);
  } catch (error) {
    tell(String(error.message), true);
  }
}

function tell(text, isBad = false) {
  $("said").className = isBad ? "said bad" : "said";
  put($("said"), text);
}

function wireSteering() {
  $("toggle").addEventListener("click", () => {
    const action = { ready: "start", running: "pause", paused: "resume" }[last.campaign.state];
    if (action) say(ask("/v1/campaign", { action }));
  });
  $("stop").addEventListener("click", () => { $("sure").returnValue = ""; $("sure").showModal(); });
  $("sure").addEventListener("close", () => {
    if ($("sure").returnValue === "stop") say(ask("/v1/campaign", { action: "stop" }));
  });
  $("before").addEventListener("click", () => { first -= PAGE; soon("table"); });
  $("after").addEventListener("click", () => { first += PAGE; soon("table"); });
}

wireFilter();
wireSteering();
begin().then(wireGrid).catch((error) => {
  $("state").className = "state lost";
  put($("state"), "no connection");
  put($("said"), String(error.message));
});
