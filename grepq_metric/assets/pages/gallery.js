const total = data.paths.length;
const NARROW = matchMedia("(max-width: 760px)");
const OVERSCAN = 300, CAPTION = 26, STEPS = 200;
const BARS = Math.min(40, Math.max(12, Math.ceil(1.6 * Math.sqrt(total)))); // few photos in many bars show nothing
const PATH = ""; // the choice of a column that means the path
const names = Object.keys(data.numbers);
const lowered = data.paths.map((path) => path.toLowerCase());
const folders = data.paths.map((path) => path.slice(0, Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\"), 0)));
const limits = Object.fromEntries(names.map((name) => {
  let least = Infinity, greatest = -Infinity;
  for (const value of data.numbers[name]) {
    if (value === null) continue;
    if (value < least) least = value;
    if (value > greatest) greatest = value;
  }
  return [name, [least, greatest]];
}));

const fresh = () => ({ search: "", folder: "", ranges: {}, show: "all", group: false });
let state = { ...fresh(), column: data.first ?? PATH, descending: data.first !== null };
let cuts = {}; // by column: {side, value}, value null: nothing is rejected
let fitting = []; // rows that the filters let through, in order
let shown = []; // those that are in the grid
let together = new Map(); // row -> how many near duplicates it stands for
let lines = [], lefts = [], widths = [];
let active = -1, anchor = -1, current = -1;
let withMap = false, actual = false;
const chosen = new Set(), cells = new Map();
const grid = $("grid"), space = $("space");

// What is shown

function cut() {
  return (cuts[state.column] ??= { side: "above", value: null });
}

/** 1: kept, -1: rejected, 0: has no value. */
function judged(row) {
  if (state.column === PATH) return 1;
  const value = data.numbers[state.column][row], { side, value: edge } = cut();
  if (value === null) return 0;
  return edge === null || (side === "above" ? value >= edge : value <= edge) ? 1 : -1;
}

function fits(row) {
  if (state.search && !lowered[row].includes(state.search)) return false;
  if (state.folder && folders[row] !== state.folder && !below(folders[row], state.folder)) return false;
  for (const [name, [least, greatest]] of Object.entries(state.ranges)) {
    const value = data.numbers[name][row];
    if (value === null || value < least || value > greatest) return false;
  }
  return true;
}

function below(folder, parent) {
  return folder.startsWith(parent) && "/\\".includes(folder[parent.length]);
}

function filter() {
  fitting = [];
  for (let row = 0; row < total; row++) if (fits(row)) fitting.push(row);
  const sign = state.descending ? -1 : 1;
  if (state.column === PATH) {
    const order = new Intl.Collator("en", { numeric: true });
    fitting.sort((a, b) => sign * order.compare(data.paths[a], data.paths[b]) || a - b);
  } else {
    const values = data.numbers[state.column];
    fitting.sort((a, b) => {
      if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null) || a - b;
      return sign * (values[a] - values[b]) || a - b;
    });
  }
}

function pick() {
  const wanted = { all: null, kept: 1, rejected: -1 }[state.show];
  shown = wanted === null ? fitting : fitting.filter((row) => judged(row) === wanted);
  together = new Map();
  if (!state.group) return;
  const first = new Map();
  shown = shown.filter((row) => {
    const group = data.alike[row];
    if (group < 0) return true;
    if (first.has(group)) {
      together.set(first.get(group), together.get(first.get(group)) + 1);
      return false;
    }
    first.set(group, row);
    together.set(row, 1);
    return true;
  });
}

/** Lines of equal height that fill the width, so that photos keep their shape. */
function arrange() {
  const narrow = NARROW.matches, pad = narrow ? 8 : 20, gap = narrow ? 6 : 14, target = narrow ? 108 : 168;
  const width = Math.max(grid.clientWidth - 2 * pad, 50);
  lines = [];
  lefts = new Float32Array(shown.length);
  widths = new Float32Array(shown.length);
  let start = 0, sum = 0, top = pad;
  const close = (end, height) => {
    let left = pad;
    for (let place = start; place < end; place++) {
      lefts[place] = left;
      widths[place] = shape(shown[place]) * height;
      left += widths[place] + gap;
    }
    lines.push({ top, height, start, end });
    top += height + CAPTION + (narrow ? 6 : 12);
    start = end;
    sum = 0;
  };
  for (let place = 0; place < shown.length; place++) {
    sum += shape(shown[place]);
    const room = width - gap * (place - start);
    if (sum * target >= room) close(place + 1, Math.min(room / sum, 1.5 * target));
  }
  if (start < shown.length) close(shown.length, target);
  space.style.height = `${top + 70}px`;
}

function shape(row) {
  return Math.min(Math.max(data.aspects[row], 0.62), 2.6);
}

function lineAt(y) {
  let low = 0, high = lines.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (lines[middle].top + lines[middle].height + CAPTION < y) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Only the cells that can be seen are in the document. */
function draw() {
  const bottom = grid.scrollTop + grid.clientHeight + OVERSCAN, wanted = new Set();
  for (let at = lineAt(grid.scrollTop - OVERSCAN); at < lines.length && lines[at].top < bottom; at++) {
    const line = lines[at];
    for (let place = line.start; place < line.end; place++) {
      const row = shown[place];
      wanted.add(row);
      if (!cells.has(row)) {
        cells.set(row, cell(row));
        space.append(cells.get(row));
      }
      const node = cells.get(row);
      node.style.transform = `translate(${lefts[place]}px, ${line.top}px)`;
      node.style.width = `${widths[place]}px`;
      node.firstChild.style.height = `${line.height}px`;
      node.setAttribute("aria-posinset", place + 1);
      node.setAttribute("aria-setsize", shown.length);
      decorate(node, row);
    }
  }
  for (const [row, node] of cells) {
    if (wanted.has(row)) continue;
    node.remove();
    cells.delete(row);
  }
  if (cells.has(active)) grid.setAttribute("aria-activedescendant", `photo-${active}`);
  else grid.removeAttribute("aria-activedescendant");
}

function why(row) {
  return data.texts.error?.[row] ?? data.problems[row];
}

function cell(row) {
  const thumb = data.thumbs[row];
  const picture = make("div", { className: "picture" },
    thumb ? make("img", { alt: "", decoding: "async", draggable: false, src: `thumbs/${thumb}` })
      : make("span", { className: "none", textContent: why(row) ?? "No picture" }),
    make("span", { className: "tick" }), make("span", { className: "badge" }));
  const node = make("div", { className: "cell", id: `photo-${row}`, title: data.paths[row] }, picture,
    make("div", { className: "caption" },
      make("span", { className: "name", textContent: fileName(data.paths[row]) }),
      make("span", { className: "value number" })));
  node.setAttribute("role", "option");
  node.dataset.row = row;
  return node;
}

function decorate(node, row) {
  const failed = Boolean(data.texts.error?.[row]), value = node.querySelector(".value"), badge = node.querySelector(".badge");
  value.textContent = failed ? "error" : state.column === PATH ? "" : told(data.numbers[state.column][row]);
  value.classList.toggle("failed", failed);
  const alike = together.get(row) ?? 1;
  badge.hidden = alike < 2;
  badge.textContent = `${alike} alike`;
  node.classList.toggle("rejected", state.show === "all" && judged(row) < 0);
  node.classList.toggle("chosen", chosen.has(row));
  node.classList.toggle("active", row === active);
  node.setAttribute("aria-selected", chosen.has(row));
  node.setAttribute("aria-label", `${fileName(data.paths[row])} ${value.textContent}`);
}

function refresh(top = true) {
  filter();
  pick();
  if (!shown.includes(active)) active = -1;
  controls();
  arrange();
  if (top) grid.scrollTop = 0;
  draw();
}

/** After the cut-off has moved. */
function recut() {
  if (state.show === "all" && !state.group) {
    controls();
    draw();
  } else {
    pick();
    controls();
    arrange();
    draw();
  }
}

let waiting = false;
grid.addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
});
new ResizeObserver(() => {
  arrange();
  draw();
}).observe(grid);

// Controls

function controls() {
  $("status").textContent = shown.length === total ? `${count(total)} ${total === 1 ? "photo" : "photos"}`
    : `${count(shown.length)} of ${count(total)} photos`;
  $("empty").hidden = shown.length > 0;
  $("direction").textContent = state.descending ? "↓" : "↑";
  const order = state.descending ? (state.column === PATH ? "Z to A" : "Highest first") : state.column === PATH ? "A to Z" : "Lowest first";
  $("direction").title = order;
  $("direction").setAttribute("aria-label", order);
  $("cut").hidden = state.column === PATH;
  const active = Object.keys(state.ranges).length;
  $("ranges-count").textContent = active ? `(${active})` : "";
  $("select-others").hidden = !state.group;
  for (const button of document.querySelectorAll("[data-show]")) button.setAttribute("aria-pressed", button.dataset.show === state.show);
  let kept = 0, rejected = 0;
  for (const row of fitting) {
    const found = judged(row);
    if (found > 0) kept++;
    else if (found < 0) rejected++;
  }
  $("all-count").textContent = count(fitting.length);
  $("kept-count").textContent = count(kept);
  $("rejected-count").textContent = count(rejected);
  const without = fitting.length - kept - rejected;
  $("without").textContent = without ? `${count(without)} without a value` : "";
  if (state.column !== PATH) histogram();
}

function domain() {
  const [least, greatest] = limits[state.column];
  return least < greatest ? [least, greatest] : [least - 0.5, greatest + 0.5];
}

/** Where the cut-off stands; with none, at the end from which it rejects. */
function edge() {
  const { side, value } = cut(), [least, greatest] = domain();
  return value ?? (side === "above" ? least : greatest);
}

function histogram() {
  const [least, greatest] = domain(), counts = new Array(BARS).fill(0), values = data.numbers[state.column];
  for (const row of fitting) {
    if (values[row] === null) continue;
    counts[Math.min(BARS - 1, Math.floor(((values[row] - least) / (greatest - least)) * BARS))]++;
  }
  const width = 252, height = 92, floor = height - 1, most = Math.max(...counts, 1), step = width / BARS;
  const picture = draws("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const bars = draws("g", { class: "bars" }), at = edge(), { side } = cut();
  counts.forEach((number, i) => {
    if (!number) return;
    const middle = least + ((i + 0.5) / BARS) * (greatest - least);
    const tall = Math.max(2, (number / most) * (floor - 14));
    bars.append(draws("rect", {
      x: i * step + 0.5, width: step - 1, y: floor - tall, height: tall, rx: 1,
      class: (side === "above" ? middle >= at : middle <= at) ? "kept" : "rejected",
    }));
  });
  const x = ((at - least) / (greatest - least)) * width, handle = draws("g", { class: "handle" });
  handle.append(draws("line", { x1: x, x2: x, y1: 6, y2: floor }), draws("circle", { cx: x, cy: 6, r: 5 }));
  picture.append(draws("line", { x1: 0, x2: width, y1: floor, y2: floor, class: "base" }), bars, handle);
  const slider = $("histogram");
  slider.replaceChildren(picture);
  slider.setAttribute("aria-valuemin", least);
  slider.setAttribute("aria-valuemax", greatest);
  slider.setAttribute("aria-valuenow", at);
  slider.setAttribute("aria-valuetext",
    `${state.column} ${told(at)}: keeps ${$("kept-count").textContent}, rejects ${$("rejected-count").textContent}`);
  $("least").textContent = told(limits[state.column][0]);
  $("greatest").textContent = told(limits[state.column][1]);
  $("side").value = side;
  if (document.activeElement !== $("cutoff")) $("cutoff").value = Number(at.toPrecision(4));
}

function moveCut(value) {
  const [least, greatest] = domain();
  cut().value = Math.min(Math.max(value, least), greatest);
  recut();
}

let due = null;
$("histogram").addEventListener("pointerdown", (event) => {
  $("histogram").setPointerCapture(event.pointerId);
  drag(event);
});
$("histogram").addEventListener("pointermove", (event) => {
  if ($("histogram").hasPointerCapture(event.pointerId)) drag(event);
});
function drag(event) {
  const box = $("histogram").getBoundingClientRect(), [least, greatest] = domain();
  const share = (event.clientX - box.left) / box.width;
  if (due === null) {
    requestAnimationFrame(() => {
      const value = due;
      due = null;
      moveCut(value);
    });
  }
  due = least + share * (greatest - least);
}
$("histogram").addEventListener("keydown", (event) => {
  const [least, greatest] = domain(), step = (greatest - least) / STEPS;
  const moves = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, PageDown: -10 * step, PageUp: 10 * step };
  if (event.key in moves) moveCut(edge() + moves[event.key]);
  else if (event.key === "Home") moveCut(least);
  else if (event.key === "End") moveCut(greatest);
  else return;
  event.preventDefault();
  event.stopPropagation();
});
$("cutoff").addEventListener("input", () => {
  if (Number.isFinite($("cutoff").valueAsNumber)) moveCut($("cutoff").valueAsNumber);
});
$("side").addEventListener("change", () => {
  cut().side = $("side").value;
  recut();
});
for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    state.show = button.dataset.show;
    refresh();
  });
}
$("search").addEventListener("input", () => {
  state.search = $("search").value.toLowerCase();
  refresh();
});
$("folder").addEventListener("change", () => {
  state.folder = $("folder").value;
  refresh();
});
$("column").addEventListener("change", () => {
  state.column = $("column").value;
  refresh();
});
$("direction").addEventListener("click", () => {
  state.descending = !state.descending;
  refresh();
});
$("group").addEventListener("change", () => {
  state.group = $("group").checked;
  refresh();
});
$("select-others").addEventListener("click", () => {
  const seen = new Set();
  for (const row of fitting) {
    if (data.alike[row] < 0) continue;
    if (seen.has(data.alike[row])) chosen.add(row);
    seen.add(data.alike[row]);
  }
  selected();
});
function reset() {
  state = { ...state, ...fresh() };
  cuts = {};
  fill();
  refresh();
}
$("reset").addEventListener("click", reset);
$("empty-reset").addEventListener("click", reset);
$("open-controls").addEventListener("click", () => {
  const open = $("controls").classList.toggle("open");
  $("open-controls").setAttribute("aria-expanded", open);
});

/** Fields as the state has them. */
function fill() {
  $("search").value = state.search;
  $("folder").value = state.folder;
  $("column").value = state.column;
  $("group").checked = state.group;
  for (const field of document.querySelectorAll("#range-list input")) field.value = "";
}

function build() {
  $("title").textContent = data.title;
  $("about").textContent = data.about;
  for (const name of names) $("column").append(make("option", { value: name, textContent: name }));
  $("column").append(make("option", { value: PATH, textContent: "path" }));
  const there = [...new Set(folders)].sort();
  $("folder-field").hidden = there.length < 2;
  $("folder").append(make("option", { value: "", textContent: `All ${there.length} folders` }),
    ...there.filter(Boolean).map((folder) => make("option", { value: folder, textContent: folder })));
  $("ranges").hidden = !names.length;
  for (const name of names) {
    const fields = ["least", "greatest"].map((which, i) => {
      const field = make("input", { type: "number", step: "any", placeholder: told(limits[name][i]) });
      field.setAttribute("aria-label", `${which} ${name}`);
      return field;
    });
    for (const field of fields) {
      field.addEventListener("input", () => {
        const [least, greatest] = fields.map((one) => one.valueAsNumber);
        delete state.ranges[name];
        if (!Number.isNaN(least) || !Number.isNaN(greatest)) {
          state.ranges[name] = [Number.isNaN(least) ? -Infinity : least, Number.isNaN(greatest) ? Infinity : greatest];
        }
        refresh();
      });
    }
    $("range-list").append(make("div", { className: "range" }, make("span", { textContent: name, title: name }), ...fields));
  }
  const groups = new Set(data.alike.filter((group) => group >= 0)).size, members = data.alike.filter((group) => group >= 0).length;
  $("group-count").textContent = groups ? `${count(members)} photos in ${count(groups)} ${groups === 1 ? "group" : "groups"}` : "There are none.";
  $("group").disabled = !groups;
  fill();
}

// Selection

function selected() {
  $("bar").hidden = !chosen.size;
  $("chosen").textContent = `${count(chosen.size)} selected`;
  $("pair-open").disabled = chosen.size !== 2;
  draw();
}

function choose(row, range = false) {
  const from = shown.indexOf(anchor), to = shown.indexOf(row);
  if (range && from >= 0 && to >= 0) {
    for (let place = Math.min(from, to); place <= Math.max(from, to); place++) chosen.add(shown[place]);
  } else if (chosen.has(row)) chosen.delete(row);
  else chosen.add(row);
  anchor = row;
  selected();
}

function csvCell(value, mark = "'") { // the mark is for what a spreadsheet would run
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const safe = /^[=+\-@\t\r\n]/.test(value) ? mark + value : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csv() {
  const columns = [["path", data.paths], ...Object.entries(data.numbers), ...Object.entries(data.texts)];
  const rows = [...chosen].sort((a, b) => a - b)
    .map((row) => columns.map(([, values], column) => csvCell(values[row], column ? "'" : "./")));
  return [columns.map(([name]) => csvCell(name)), ...rows].map((cells) => `${cells.join(",")}\n`).join("");
}

$("export").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  make("a", { href: address, download: "selection.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
});
$("clear").addEventListener("click", () => {
  chosen.clear();
  selected();
  grid.focus();
});

// Large views

/** Put the best picture of a photo that is in reach into a frame: its map, the preview, the original, the thumbnail. */
function load(frame, row) {
  frame.replaceChildren();
  const thumb = data.thumbs[row];
  if (!thumb) {
    frame.append(make("p", { className: "none", textContent: why(row) ?? "No picture" }));
    return;
  }
  const image = make("img", { alt: fileName(data.paths[row]), src: `thumbs/${thumb}` });
  image.classList.toggle("actual", actual);
  frame.append(image);
  const map = withMap && data.maps?.[row], better = map ? `maps/${map}` : data.previews ? `previews/${data.previews[row]}` : data.links[row];
  image.dataset.kind = "thumb";
  const full = new Image();
  full.addEventListener("load", () => {
    image.src = better;
    image.dataset.kind = map ? "map" : data.previews ? "preview" : "original";
  });
  full.src = better;
}

function facts(row) {
  const found = [];
  for (const name of names) if (data.numbers[name][row] !== null) found.push([name, told(data.numbers[name][row])]);
  for (const name of Object.keys(data.texts)) {
    if (name !== "error" && name !== "warning" && data.texts[name][row] !== null) found.push([name, data.texts[name][row]]);
  }
  return found;
}

function open(row) {
  current = active = row;
  anchor = anchor < 0 ? row : anchor;
  const place = shown.indexOf(row), path = data.paths[row];
  $("large-name").textContent = fileName(path);
  $("large-place").textContent = place < 0 ? "" : `${count(place + 1)} of ${count(shown.length)}`;
  $("large-path").textContent = path;
  $("large-link").hidden = !data.links[row];
  if (data.links[row]) $("large-link").href = data.links[row];
  const notes = new Set([data.texts.error?.[row], data.texts.warning?.[row], data.problems[row]]);
  $("large-notes").replaceChildren(...[...notes].filter(Boolean).map((textContent) => make("p", { className: "notice", textContent })));
  $("large-facts").replaceChildren(...facts(row).flatMap(([name, value]) => {
    const className = name === state.column ? "main" : "";
    return [make("dt", { textContent: name, className }), make("dd", { textContent: value, className: `${className} number` })];
  }));
  $("previous").disabled = place <= 0;
  $("next").disabled = place < 0 || place === shown.length - 1;
  $("large-select").setAttribute("aria-pressed", chosen.has(row));
  $("large-select").textContent = chosen.has(row) ? "Selected" : "Select";
  $("large-map").hidden = !data.maps;
  $("large-map").disabled = !data.maps?.[row];
  $("large-map").setAttribute("aria-pressed", withMap);
  $("large-actual").setAttribute("aria-pressed", actual);
  const others = [];
  for (let other = 0; data.alike[row] >= 0 && other < total; other++) if (other !== row && data.alike[other] === data.alike[row]) others.push(other);
  $("large-alike").hidden = !others.length;
  $("large-strip").replaceChildren(...others.map((other) => {
    const button = make("button", { type: "button", title: data.paths[other] },
      make("img", { alt: fileName(data.paths[other]), src: `thumbs/${data.thumbs[other]}` }));
    button.addEventListener("click", () => open(other));
    return button;
  }));
  load($("large-frame"), row);
  if (!$("large").open) $("large").showModal();
}

function step(by) {
  const place = shown.indexOf(current) + by;
  if (shown.includes(current) && place >= 0 && place < shown.length) open(shown[place]);
}

function pair() {
  if (chosen.size !== 2) return;
  const rows = [...chosen].sort((a, b) => fitting.indexOf(a) - fitting.indexOf(b));
  $("pair-views").replaceChildren(...rows.map((row) => {
    const frame = make("div", { className: "frame" });
    load(frame, row);
    return make("figure", {}, make("figcaption", { textContent: fileName(data.paths[row]), title: data.paths[row] }), frame);
  }));
  const [a, b] = rows;
  $("pair-facts").replaceChildren(...names.filter((name) => rows.some((row) => data.numbers[name][row] !== null)).map((name) => {
    const [x, y] = rows.map((row) => data.numbers[name][row]);
    return make("tr", { className: x === y ? "same" : "" },
      make("td", { textContent: told(x), className: x !== null && x > y ? "more number" : "number" }),
      make("th", { scope: "row", textContent: name }),
      make("td", { textContent: told(y), className: y !== null && y > x ? "more number" : "number" }));
  }));
  $("pair-map").hidden = !data.maps;
  $("pair-map").disabled = !data.maps?.[a] && !data.maps?.[b];
  $("pair-map").setAttribute("aria-pressed", withMap);
  $("pair-actual").setAttribute("aria-pressed", actual);
  if (!$("pair").open) $("pair").showModal();
}

function again() {
  if ($("large").open) open(current);
  if ($("pair").open) pair();
}
function toggleMap() {
  if (!data.maps) return;
  withMap = !withMap;
  again();
}
function toggleActual() {
  actual = !actual;
  again();
}
for (const view of ["large", "pair"]) {
  $(`${view}-map`).addEventListener("click", toggleMap);
  $(`${view}-actual`).addEventListener("click", toggleActual);
}
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("large-select").addEventListener("click", () => {
  choose(current);
  open(current);
});
$("pair-open").addEventListener("click", pair);
$("open-help").addEventListener("click", () => $("help").showModal());
for (const view of ["large", "pair", "help"]) {
  $(`${view}-close`).addEventListener("click", () => $(view).close());
  $(view).addEventListener("click", (event) => {
    if (event.target === $(view)) $(view).close(); // the backdrop
  });
  $(view).addEventListener("close", () => {
    for (const frame of $(view).querySelectorAll(".frame")) frame.replaceChildren();
    if (view !== "help") reveal();
    grid.focus();
  });
}
// On the document: a focused button that is disabled by its own doing passes no keys to the dialog.
document.addEventListener("keydown", (event) => {
  const large = $("large").open;
  if (!(large || $("pair").open) || event.ctrlKey || event.metaKey || event.altKey) return;
  const select = () => {
    choose(current);
    open(current);
  };
  const both = { m: toggleMap, z: toggleActual };
  const does = (large ? { ...both, ArrowLeft: () => step(-1), ArrowRight: () => step(1), x: select } : both)[event.key];
  if (!does) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  does();
});

// Mouse and keys in the grid

space.addEventListener("click", (event) => {
  const node = event.target.closest(".cell");
  if (!node) return;
  const row = Number(node.dataset.row);
  active = row;
  if (event.target.closest(".tick") || event.ctrlKey || event.metaKey || event.shiftKey) choose(row, event.shiftKey);
  else open(row);
});
space.addEventListener("mousedown", (event) => {
  if (event.shiftKey) event.preventDefault(); // no text is meant
});

/** Bring the active photo into view. */
function reveal() {
  const place = shown.indexOf(active), line = lines.find(({ start, end }) => place >= start && place < end);
  if (line) {
    if (line.top < grid.scrollTop + 8) grid.scrollTop = line.top - 12;
    const bottom = line.top + line.height + CAPTION + ($("bar").hidden ? 12 : 80);
    if (bottom > grid.scrollTop + grid.clientHeight) grid.scrollTop = bottom - grid.clientHeight;
  }
  draw();
}

function go(place) {
  if (!shown.length) return;
  active = shown[Math.min(Math.max(place, 0), shown.length - 1)];
  reveal();
}

/** The place above or below that is nearest. */
function nearest(place, by) {
  const at = lines.findIndex(({ start, end }) => place >= start && place < end);
  const line = lines[Math.min(Math.max(at + by, 0), lines.length - 1)], middle = lefts[place] + widths[place] / 2;
  let best = line.start;
  const far = (other) => Math.abs(lefts[other] + widths[other] / 2 - middle);
  for (let other = line.start; other < line.end; other++) if (far(other) < far(best)) best = other;
  return at + by < 0 || at + by >= lines.length ? place : best;
}

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest("input, select, summary");
  if (event.key === "Escape") {
    if (field || $("controls").classList.contains("open")) {
      $("controls").classList.remove("open");
      $("open-controls").setAttribute("aria-expanded", false);
      grid.focus();
    }
    return;
  }
  if (field) return;
  if (event.key === "/") {
    if (NARROW.matches) $("controls").classList.add("open");
    $("search").focus();
    $("search").select();
  } else if (event.key === "?") $("help").showModal();
  else if (event.key === "c" && chosen.size === 2) pair();
  else if (event.target === grid || event.target === document.body || event.key.startsWith("Arrow")) {
    const place = shown.indexOf(active), page = Math.max(1, Math.floor(grid.clientHeight / 220));
    const does = {
      ArrowRight: () => go(place + 1), ArrowLeft: () => go(place - 1),
      ArrowDown: () => go(place < 0 ? 0 : nearest(place, 1)), ArrowUp: () => go(place < 0 ? 0 : nearest(place, -1)),
      PageDown: () => go(place < 0 ? 0 : nearest(place, page)), PageUp: () => go(place < 0 ? 0 : nearest(place, -page)),
      Home: () => go(0), End: () => go(shown.length - 1),
      Enter: () => place >= 0 && open(active),
      x: () => place >= 0 && choose(active), X: () => place >= 0 && choose(active, true),
    }[event.key];
    if (!does) return;
    grid.focus();
    does();
  } else return;
  event.preventDefault();
});

build();
refresh();
