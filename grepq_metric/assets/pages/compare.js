const total = data.paths.length, canvas = $("scatter"), [ranksA, ranksB] = data.ranks;
const PAD = 34, REACH = 14;
const DARK = matchMedia("(prefers-color-scheme: dark)");
let lit = -1, side = 0;

function share(rank) {
  return (total - rank) / Math.max(total - 1, 1);
}

function place(i) {
  const inner = side - 2 * PAD;
  return [PAD + share(ranksA[i]) * inner, side - PAD - share(ranksB[i]) * inner];
}

function draw() {
  side = canvas.clientWidth;
  const dots = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
  canvas.width = canvas.height = Math.round(side * dots);
  pen.scale(dots, dots);
  const styles = getComputedStyle(document.documentElement), colour = (name) => styles.getPropertyValue(name).trim();
  const far = side - PAD;
  pen.clearRect(0, 0, side, side);
  pen.strokeStyle = colour("--line");
  pen.lineWidth = 1;
  pen.strokeRect(PAD - 0.5, PAD - 0.5, far - PAD + 1, far - PAD + 1);
  pen.beginPath();
  pen.moveTo(PAD, far);
  pen.lineTo(far, PAD);
  pen.setLineDash([4, 4]);
  pen.strokeStyle = colour("--faint");
  pen.stroke();
  pen.setLineDash([]);
  const most = new Set(data.most), size = total > 3000 ? 1.6 : total > 500 ? 2.2 : 3.2;
  const dot = (i, radius) => {
    pen.beginPath();
    pen.arc(...place(i), radius, 0, 2 * Math.PI);
    pen.fill();
  };
  pen.fillStyle = colour("--accent");
  pen.globalAlpha = total > 500 ? 0.5 : 0.7;
  for (let i = 0; i < total; i++) if (!most.has(i)) dot(i, size);
  pen.globalAlpha = 1;
  pen.fillStyle = colour("--warn");
  for (const i of data.most) dot(i, size + 1.2);
  if (lit >= 0) {
    pen.fillStyle = pen.strokeStyle = colour("--ink");
    pen.lineWidth = 2;
    dot(lit, size + 1.5);
    pen.beginPath();
    pen.arc(...place(lit), size + 6, 0, 2 * Math.PI);
    pen.stroke();
  }
  pen.fillStyle = colour("--quiet");
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  pen.fillText(`rank ${count(total)}`, PAD, far + 17);
  pen.textAlign = "right";
  pen.fillText("rank 1", far, far + 17);
  pen.textAlign = "center";
  pen.fillText("A", side / 2, far + 17);
  pen.save();
  pen.translate(PAD - 17, side / 2);
  pen.rotate(-Math.PI / 2);
  pen.fillText("B", 0, 0);
  pen.textAlign = "left";
  pen.fillText(`rank ${count(total)}`, -(side / 2 - PAD), 0);
  pen.textAlign = "right";
  pen.fillText("rank 1", side / 2 - PAD, 0);
  pen.restore();
}

function light(i, tip = false) {
  lit = i;
  for (const item of document.querySelectorAll("#most li")) item.classList.toggle("lit", Number(item.dataset.row) === i);
  $("hovered").textContent = i < 0 ? "" : `${data.paths[i]}: rank ${told(ranksA[i])} in A, ${told(ranksB[i])} in B`;
  $("tip").hidden = !tip || i < 0;
  if (!$("tip").hidden) {
    const [x, y] = place(i);
    $("tip").textContent = `${fileName(data.paths[i])}\u2002${told(data.values[0][i])} / ${told(data.values[1][i])}`;
    $("tip").style.left = `${Math.min(Math.max(x - 80, 0), Math.max(side - 260, 0))}px`;
    $("tip").style.top = `${y > 60 ? y - 48 : y + 18}px`;
  }
  draw();
}

canvas.addEventListener("pointermove", (event) => {
  const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let best = -1, least = REACH ** 2;
  for (let i = 0; i < total; i++) {
    const [a, b] = place(i), distance = (a - x) ** 2 + (b - y) ** 2;
    if (distance < least) [best, least] = [i, distance];
  }
  if (best !== lit) light(best, true);
});
canvas.addEventListener("pointerleave", () => light(-1));
// By keyboard, through the photos in the order of A.
const order = [...data.paths.keys()].sort((a, b) => ranksA[a] - ranksA[b] || a - b);
canvas.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: 1, ArrowRight: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  light(order[Math.min(Math.max(order.indexOf(lit) + by, 0), total - 1)], true);
});

function tile(value, name, about) {
  $("tiles").append(make("li", {}, make("span", { className: "quiet", textContent: name }),
    make("b", { className: "number", textContent: value }), make("span", { className: "about number", textContent: about })));
}

function build() {
  const figure = (value) => value.toFixed(3), [onlyA, onlyB, unscored] = data.left;
  $("name-a").textContent = data.names[0];
  $("name-b").textContent = data.names[1];
  const left = [[onlyA, "only in A"], [onlyB, "only in B"], [unscored, "without a number"]].filter(([number]) => number);
  tile(count(total), "photos in both", left.map(([number, what]) => `${count(number)} ${what}`).join(", "));
  const [srcc, low, high] = data.srcc;
  tile(figure(srcc), "SRCC, of ranks", `95 %: ${figure(low)} to ${figure(high)}`);
  tile(figure(data.plcc), "PLCC, of values", "linear correlation");
  tile(figure(data.krcc), "Kendall's tau", "tau-b, of pairs");
  tile(data.alike === null ? "–" : `${(100 * data.alike).toFixed(1)} %`, "pairs alike", "in the same order");
  canvas.setAttribute("aria-label", `Ranks of ${total} photos in A and B; arrow keys go through them`);
  $("most-section").hidden = !data.most.length;
  data.most.forEach((i, at) => {
    const a = share(ranksA[i]), b = share(ranksB[i]), between = make("i", {});
    between.style.left = `${100 * Math.min(a, b)}%`;
    between.style.width = `${100 * Math.abs(a - b)}%`;
    const marks = [["A", a], ["B", b]].map(([textContent, where]) => {
      const mark = make("b", { textContent, className: textContent.toLowerCase() });
      mark.style.left = `${100 * where}%`;
      return mark;
    });
    const picture = data.pictures[at];
    const item = make("li", {},
      make("div", { className: "thumb" }, picture ? make("img", { alt: "", src: picture }) : make("span", { textContent: "no picture", title: data.problems[at] ?? "" })),
      make("div", { className: "what" }, make("p", { className: "name", textContent: fileName(data.paths[i]), title: data.paths[i] }),
        make("p", { className: "quiet number", textContent: `A: rank ${told(ranksA[i])} (${told(data.values[0][i])}), B: rank ${told(ranksB[i])} (${told(data.values[1][i])})` }),
        make("div", { className: "track" }, make("i", { className: "rail" }), between, ...marks)));
    item.dataset.row = i;
    item.addEventListener("pointerenter", () => light(i));
    item.addEventListener("pointerleave", () => light(-1));
    $("most").append(item);
  });
}

build();
draw();
new ResizeObserver(() => {
  if (canvas.clientWidth !== side) draw();
}).observe(canvas);
DARK.addEventListener("change", draw);
