"use strict";
// Clips as points that are heard, beside tables that are sorted: the script of the evaluation report and of the map.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const SHAPES = [
  "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z", "M-4.4-4.4h8.8v8.8h-8.8Z", "M0-6L5.6 4.2H-5.6Z", "M0-6.2L6.2 0L0 6.2L-6.2 0Z",
  "M-1.8-5.4h3.6v3.6h3.6v3.6h-3.6v3.6h-3.6v-3.6h-3.6v-3.6h3.6Z",
];
const WIDTH = 600, HEIGHT = 500, SHOWN = 200;
const MARGIN = data.axes.numbered ? { left: 56, right: 14, top: 14, bottom: 44 } : { left: 14, right: 14, top: 14, bottom: 14 };
const view = { scale: 1, x: 0, y: 0 };
const state = { chosen: -1, hidden: new Set(), label: "", pair: -1, words: "", column: data.sorted, down: true };
let matching = [];

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function drawn(tag, attributes, parent) {
  const made = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  if (parent) parent.append(made);
  return made;
}

function cell(value) {
  const isNumber = typeof value === "number";
  return element("td", { className: isNumber ? "value" : "", textContent: isNumber ? value.toFixed(3) : value });
}

function bar(share) {
  const inner = element("i");
  inner.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
  return element("div", { className: "bar" }, inner);
}

// ---- points ----

const plot = $("plot");
plot.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
const clip = drawn("clipPath", { id: "inside" }, plot);
const AROUND = 8; // a mark on the edge is seen whole
drawn("rect", { x: MARGIN.left - AROUND, y: MARGIN.top - AROUND, width: WIDTH - MARGIN.left - MARGIN.right + 2 * AROUND,
  height: HEIGHT - MARGIN.top - MARGIN.bottom + 2 * AROUND }, clip);
const frame = drawn("g", {}, plot);
const inside = drawn("g", { "clip-path": "url(#inside)" }, plot);
const diagonal = data.axes.diagonal ? drawn("line", { class: "line" }, inside) : null;
const points = drawn("g", { class: "points" }, inside);
const around = drawn("circle", { class: "around", r: 10, visibility: "hidden" }, inside);
const marks = data.clips.map((found, index) => {
  const [, colour, shape] = data.groups[found.group];
  const mark = drawn("path", { d: SHAPES[shape], fill: colour, "data-clip": index }, points);
  drawn("title", {}, mark).textContent = found.cells[0];
  return mark;
});

function place([x, y]) {
  const [left, right] = data.axes.x.slice(1), [low, high] = data.axes.y.slice(1);
  let across = WIDTH - MARGIN.left - MARGIN.right, up = HEIGHT - MARGIN.top - MARGIN.bottom;
  let startX = MARGIN.left, startY = HEIGHT - MARGIN.bottom;
  if (data.axes.equal) { // a unit is as long across as up
    const unit = Math.min(across / (right - left), up / (high - low));
    startX += (across - unit * (right - left)) / 2;
    startY -= (up - unit * (high - low)) / 2;
    across = unit * (right - left);
    up = unit * (high - low);
  }
  const px = startX + across * (x - left) / (right - left);
  const py = startY - up * (y - low) / (high - low);
  return [WIDTH / 2 + view.scale * (px - WIDTH / 2) + view.x, HEIGHT / 2 + view.scale * (py - HEIGHT / 2) + view.y];
}

function axes() {
  frame.replaceChildren();
  if (!data.axes.numbered) return;
  const corner = [MARGIN.left, HEIGHT - MARGIN.bottom];
  for (const [along, [title, low, high]] of [[0, data.axes.x], [1, data.axes.y]]) {
    const step = [0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1e3, 1e4].find((size) => (high - low) / size <= 6 * view.scale) || (high - low) / 5;
    for (let number = Math.ceil(low / step - 1e-9); number * step <= high + 1e-9 * step; number++) {
      const at = place(along ? [data.axes.x[1], number * step] : [number * step, data.axes.y[1]]);
      if (at[along] < (along ? MARGIN.top : corner[0]) - 0.1 || at[along] > (along ? corner[1] : WIDTH - MARGIN.right) + 0.1) continue;
      drawn("line", along ? { class: "grid", x1: corner[0], x2: WIDTH - MARGIN.right, y1: at[1], y2: at[1] }
        : { class: "grid", x1: at[0], x2: at[0], y1: MARGIN.top, y2: corner[1] }, frame);
      drawn("text", along ? { x: corner[0] - 6, y: at[1] + 4, "text-anchor": "end" } : { x: at[0], y: corner[1] + 16, "text-anchor": "middle" }, frame)
        .textContent = String(Number((number * step).toPrecision(6)));
    }
    const middle = along ? { transform: `translate(15 ${HEIGHT / 2 - 15}) rotate(-90)` } : { x: (corner[0] + WIDTH) / 2, y: HEIGHT - 8 };
    drawn("text", { ...middle, "text-anchor": "middle" }, frame).textContent = title;
  }
}

function layout() {
  axes();
  data.clips.forEach((found, index) => {
    const [x, y] = place(found.at);
    marks[index].setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
  });
  if (diagonal) {
    const [[x1, y1], [x2, y2]] = [place([0, 0]), place([1, 1])];
    Object.entries({ x1, y1, x2, y2 }).forEach(([key, value]) => diagonal.setAttribute(key, value));
  }
  ring();
}

function ring() {
  around.setAttribute("visibility", state.chosen < 0 ? "hidden" : "visible");
  if (state.chosen < 0) return;
  const [x, y] = place(data.clips[state.chosen].at);
  around.setAttribute("cx", x);
  around.setAttribute("cy", y);
}

function zoom(factor, [x, y] = [WIDTH / 2, HEIGHT / 2]) {
  const scale = Math.max(1, Math.min(60, view.scale * factor)), change = scale / view.scale;
  view.x = x - WIDTH / 2 - change * (x - WIDTH / 2 - view.x);
  view.y = y - HEIGHT / 2 - change * (y - HEIGHT / 2 - view.y);
  view.scale = scale;
  if (scale === 1) view.x = view.y = 0;
  layout();
}

function pointer(event) {
  const box = plot.getBoundingClientRect();
  return [(event.clientX - box.left) * WIDTH / box.width, (event.clientY - box.top) * HEIGHT / box.height];
}

let drag = null;
plot.addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.25 : 0.8, pointer(event)); }, { passive: false });
plot.addEventListener("pointerdown", (event) => { drag = { from: pointer(event), x: view.x, y: view.y, moved: false }; });
plot.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const [x, y] = pointer(event), across = x - drag.from[0], down = y - drag.from[1];
  if (!drag.moved && Math.hypot(across, down) < 4) return;
  drag.moved = true;
  if (view.scale === 1) return;
  [view.x, view.y] = [drag.x + across, drag.y + down];
  layout();
});
addEventListener("pointerup", () => { setTimeout(() => { drag = null; }); });
plot.addEventListener("click", (event) => {
  if (drag && drag.moved) return;
  const mark = event.target.closest("[data-clip]");
  if (mark) choose(Number(mark.dataset.clip), true);
});
plot.addEventListener("keydown", (event) => {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (way) towards(way);
  else if (event.key === "Enter" || event.key === " ") sound() && (sound().paused ? sound().play() : sound().pause());
  else if (event.key === "+") zoom(1.5);
  else if (event.key === "-") zoom(1 / 1.5);
  else if (event.key === "0") zoom(0);
  else return;
  event.preventDefault();
});

// The nearest point in a direction; what lies off to the side counts as further away.
function towards([across, down]) {
  if (state.chosen < 0) { if (matching.length) choose(matching[0]); return; }
  const [x, y] = place(data.clips[state.chosen].at);
  let best = -1, least = Infinity;
  for (const index of matching) {
    const [px, py] = place(data.clips[index].at), ahead = (px - x) * across + (py - y) * down;
    if (index === state.chosen || ahead <= 0.01) continue;
    const aside = Math.abs((px - x) * down) + Math.abs((py - y) * across), distance = ahead + 2.5 * aside;
    if (distance < least) { best = index; least = distance; }
  }
  if (best >= 0) choose(best);
}

// ---- the clip that was chosen ----

function sound() { return $("chosen").querySelector("audio"); }

function scores(title, lines) {
  return [element("div", { className: "caption", textContent: title }), element("ul", {}, ...lines.map(([index, score, isRight]) =>
    element("li", { className: `score ${isRight ? "right" : "wrong"}` },
      element("span", { textContent: data.classes[index], title: data.classes[index] }), bar(score),
      element("span", { className: "value", textContent: score.toFixed(2) }))))];
}

function choose(index, isHeard = false) {
  const found = data.clips[index], held = $(`sound-${index}`);
  marks.forEach((mark, other) => mark.classList.toggle("chosen", other === index));
  points.append(marks[index]); // in front of the others
  state.chosen = index;
  const parts = [element("div", { className: "name", textContent: found.cells[0] })];
  if (held) {
    const audio = element("audio", { controls: true, src: `data:audio/mpeg;base64,${held.textContent}` });
    audio.setAttribute("aria-label", `sound of ${found.cells[0]}`);
    parts.push(audio);
  } else {
    parts.push(element("p", { textContent: data.silent }));
  }
  if (found.truth) parts.push(...scores("truth", found.truth), ...scores("prediction", found.best));
  else parts.push(element("div", { className: "caption", textContent: found.cells.slice(1).join(", ") }));
  if (found.near) {
    parts.push(element("div", { className: "caption", textContent: "nearest by their features (cosine)" }));
    parts.push(element("ul", {}, ...found.near.map(([other, similarity]) => {
      const button = element("button", { type: "button", className: "plain", textContent: data.clips[other].cells[0] });
      button.addEventListener("click", () => choose(other, true));
      return element("li", { className: "score" }, button, bar(similarity), element("span", { className: "value", textContent: similarity.toFixed(2) }));
    })));
  }
  $("chosen").replaceChildren(...parts);
  document.querySelectorAll("#clips tr[data-clip]").forEach((row) => row.setAttribute("aria-current", Number(row.dataset.clip) === index));
  ring();
  if (held && isHeard) sound().play().catch(() => {});
}

// ---- which clips, in which order ----

function matches(found) {
  return !state.hidden.has(found.group) && (state.pair < 0 || found.pair === state.pair)
    && (state.label === "" || (found.labels || []).includes(Number(state.label)))
    && (!state.words || found.cells.join(" ").toLowerCase().includes(state.words));
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
}

function refresh() {
  matching = [...data.clips.keys()].filter((index) => matches(data.clips[index]));
  const within = new Set(matching);
  marks.forEach((mark, index) => mark.classList.toggle("dim", !within.has(index)));
  const way = state.down ? -1 : 1;
  matching.sort((a, b) => way * compare(data.clips[a].cells[state.column], data.clips[b].cells[state.column]) || a - b);
  const rows = matching.slice(0, SHOWN).map((index) => {
    const [name, ...cells] = data.clips[index].cells;
    const button = element("button", { type: "button", className: "plain", textContent: name });
    button.addEventListener("click", () => choose(index, true));
    const row = element("tr", {}, element("td", {}, button), ...cells.map(cell));
    row.dataset.clip = index;
    row.setAttribute("aria-current", index === state.chosen);
    return row;
  });
  $("clips").tBodies[0].replaceChildren(...rows);
  $("count").textContent = `${matching.length.toLocaleString("en")} of ${data.clips.length.toLocaleString("en")} clips`
    + (matching.length > SHOWN ? `, the first ${SHOWN} in the table` : "");
  $("everything").disabled = !(state.hidden.size || state.pair >= 0 || state.label || state.words);
}

function marked(heads, chosen, isDown) {
  heads.forEach((head, column) => head.setAttribute("aria-sort", column !== chosen ? "none" : isDown ? "descending" : "ascending"));
}

// A table's heads become buttons; `order(column, isDown)` does the sorting.
function sortable(table, column, isDown, order) {
  const heads = [...table.tHead.rows[0].cells].filter((head) => head.textContent);
  heads.forEach((head, index) => {
    const button = element("button", { type: "button", className: "sort", textContent: head.textContent });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      isDown = index === column ? !isDown : head.classList.contains("value");
      column = index;
      marked(heads, column, isDown);
      order(head.cellIndex, isDown);
    });
  });
  marked(heads, column, isDown);
}

function sortRows(table, column, isDown) {
  const key = (row) => { const value = row.cells[column].dataset.value; return value === undefined ? row.cells[column].textContent : value === "" ? -Infinity : Number(value); };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => (isDown ? -1 : 1) * compare(key(a), key(b))));
}

function only(change) {
  Object.assign(state, { label: "", pair: -1, words: "" }, change);
  $("label").value = state.label;
  $("search").value = state.words;
  refresh();
  if (matching.length) choose(matching[0]);
  $("listen").scrollIntoView();
}

function filters() {
  data.groups.forEach(([name, colour, shape], group) => {
    const box = element("input", { type: "checkbox", checked: true });
    const picture = drawn("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" });
    drawn("path", { d: SHAPES[shape], fill: colour }, picture);
    box.addEventListener("change", () => { state.hidden[box.checked ? "delete" : "add"](group); refresh(); });
    $("legend").append(element("li", {}, element("label", {}, box, picture, name)));
  });
  const used = new Set(data.clips.flatMap((found) => found.labels || []));
  $("label").append(element("option", { value: "", textContent: "all" }),
    ...[...used].sort((a, b) => compare(data.classes[a], data.classes[b])).map((index) => element("option", { value: index, textContent: data.classes[index] })));
  $("label").closest("label").hidden = used.size < 2;
  $("label").addEventListener("change", () => { state.label = $("label").value; state.pair = -1; refresh(); });
  $("search").addEventListener("input", () => { state.words = $("search").value.trim().toLowerCase(); refresh(); });
  $("everything").addEventListener("click", () => {
    state.hidden.clear();
    document.querySelectorAll("#legend input").forEach((box) => { box.checked = true; });
    Object.assign(state, { label: "", pair: -1, words: "" });
    $("label").value = $("search").value = "";
    refresh();
  });
  $("closer").addEventListener("click", () => zoom(1.5));
  $("away").addEventListener("click", () => zoom(1 / 1.5));
}

// What stands in the report's tables without this script becomes a way to the clips.
function links() {
  for (const [selector, change] of [["tr[data-class]", (row) => ({ label: row.dataset.class })], ["tr[data-pair]", (row) => ({ pair: Number(row.dataset.pair) })]]) {
    document.querySelectorAll(selector).forEach((row) => {
      const button = element("button", { type: "button", className: "plain", textContent: row.cells[0].textContent });
      button.addEventListener("click", () => only(change(row)));
      row.cells[0].replaceChildren(button);
    });
  }
  document.querySelectorAll("table[data-sorted]").forEach((table) => {
    sortable(table, Number(table.dataset.sorted), true, (column, isDown) => sortRows(table, column, isDown));
  });
}

$("listen").hidden = false;
filters();
links();
const head = element("tr", {}, ...data.columns.map((name, column) => element("th", { textContent: name, className: typeof data.clips[0].cells[column] === "number" ? "value" : "" })));
$("clips").createTHead().append(head);
sortable($("clips"), state.column, state.down = typeof data.clips[0].cells[state.column] === "number", (column, isDown) => { Object.assign(state, { column, down: isDown }); refresh(); });
refresh();
layout();
