"use strict";

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const { facts, action_dim: actionDim, columns } = read("trace-data");
const pictures = read("trace-frames");
const element = (id) => document.getElementById(id);

// JSON has no NaN and no infinity: they come as null and as "inf".
const number = (v) => (v === null ? NaN : v === "inf" ? Infinity : v === "-inf" ? -Infinity : v);
const numbers = (name) => Float64Array.from(columns[name], number);
const perDimension = (name) =>
  Array.from({ length: actionDim }, (_, i) => numbers(`${name}_${i}`));
const mismatch = numbers("mismatch"), tauAccept = numbers("tau_accept");
const tauReplan = numbers("tau_replan"), reward = numbers("reward"), returns = numbers("return");
const planned = perDimension("planned"), executed = perDimension("executed");
const dropped = perDimension("dropped");
const steps = columns.step.length;

const KINDS = {
  accept: { color: "rgb(0,158,115)", height: 0.62, label: "accept: the planned action" },
  correct: { color: "rgb(0,114,178)", height: 0.62, label: "correct: the mended action" },
  block: { color: "rgb(230,159,0)", height: 0.3, label: "replan: the plan was used up" },
  mismatch: { color: "rgb(230,159,0)", height: 1, label: "replan: the mismatch was too large" },
};
const kinds = columns.outcome.map((outcome, t) =>
  outcome !== "replan" ? outcome : columns.block_end[t] ? "block" : "mismatch");
if (!facts.plans) KINDS.block.label = "the policy prior acts, nothing is planned";

const INK = "#1c1f23", SOFT = "#5b636e", GRID = "#e3e6ea";
const ACCEPT_LINE = "#00523c", REPLAN_LINE = "#8a4b00", PLAN = "#cc79a7", RETURN = "#4b5563";
const LEFT = 46, RIGHT = 8;

let current = 0, hovered = null, windowSize = steps, frozenView = null, timer = null;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const shown = () => hovered ?? current;

function view() {
  if (frozenView) return frozenView;
  const low = clamp(current - Math.floor(windowSize / 2), 0, steps - windowSize);
  return { low, high: low + windowSize };
}

// ---- charts ----------------------------------------------------------------

// Where steps and values lie on a canvas that shows the steps low..high-1.
function makeArea(context, width, height, range, bottom, top) {
  const cell = (width - LEFT - RIGHT) / (range.high - range.low);
  return {
    context, width, height, range, cell,
    x: (t) => LEFT + (t - range.low) * cell,
    y: (value) => 4 + (height - 8) * (top - value) / (top - bottom),
    step: (x) => clamp(Math.floor(range.low + (x - LEFT) / cell), range.low, range.high - 1),
  };
}

function grid(area, values) {
  const { context } = area;
  context.font = '11px system-ui, "Liberation Sans", sans-serif';
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const value of values) {
    const y = Math.round(area.y(value)) + 0.5;
    context.fillStyle = GRID;
    context.fillRect(LEFT, y - 0.5, area.width - LEFT - RIGHT, 1);
    context.fillStyle = SOFT;
    context.fillText(value, LEFT - 6, clamp(y, 6, area.height - 6));
  }
}

// At most about four round values between bottom and top.
function ticks(bottom, top) {
  const raw = (top - bottom) / 3 || 1, power = 10 ** Math.floor(Math.log10(raw));
  const size = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= raw);
  const count = Math.floor((top - bottom) / size + 1e-9);
  const first = Math.ceil(bottom / size - 1e-9);
  return Array.from({ length: count + 1 }, (_, i) => Number(((first + i) * size).toPrecision(6)))
    .filter((value) => value <= top);
}

function steppedLine(area, values, color, width, breaks = () => false) {
  const { context, range } = area;
  context.strokeStyle = color;
  context.lineWidth = width;
  context.lineJoin = "round";
  context.beginPath();
  let drawing = false;
  for (let t = range.low; t < range.high; t++) {
    if (!Number.isFinite(values[t])) { drawing = false; continue; }
    const y = area.y(values[t]);
    if (drawing && !breaks(t)) context.lineTo(area.x(t), y);
    else context.moveTo(area.x(t), y);
    context.lineTo(area.x(t + 1), y);
    drawing = true;
  }
  context.stroke();
}

// Height tells kinds apart where colour does not.
function strip(area, top, height) {
  const { context, range, cell } = area;
  const gap = cell > 5 ? 1 : 0;
  for (let t = range.low; t < range.high; t++) {
    const { color, height: share } = KINDS[kinds[t]];
    context.fillStyle = color;
    context.fillRect(area.x(t), top + height * (1 - share), Math.max(cell - gap, 1), height * share);
  }
}

function cursor(area, t, color, from = 0) {
  if (t < area.range.low || t >= area.range.high) return;
  const width = Math.max(area.cell, 2), x = area.x(t) + (area.cell - width) / 2;
  area.context.fillStyle = color;
  area.context.globalAlpha = 0.16;
  area.context.fillRect(x, from, width, area.height - from);
  area.context.globalAlpha = 1;
  area.context.fillRect(Math.round(x + width / 2) - 0.5, from, 1, area.height - from);
}

const finite = (values) => Array.from(values).filter(Number.isFinite).sort((a, b) => a - b);
// A few extreme values must not flatten all others; they are clipped and marked.
const known = finite(mismatch), usual = known[Math.floor(0.98 * (known.length - 1))] ?? 0;
const mismatchTop = known.length
  ? 1.15 * Math.max(usual, finite(tauAccept).at(-1) ?? 0, finite(tauReplan).at(-1) ?? 0, 1e-6)
  : 1;

function drawMismatch(context, width, height) {
  const stripHeight = 20, plot = height - stripHeight - 4;
  const area = makeArea(context, width, plot, view(), 0, mismatchTop);
  if (known.length) grid(area, ticks(0, mismatchTop));
  const gap = area.cell > 5 ? 1 : 0, base = area.y(0);
  for (let t = area.range.low; t < area.range.high; t++) {
    if (Number.isNaN(mismatch[t])) continue;
    const y = area.y(Math.min(mismatch[t], mismatchTop)), x = area.x(t);
    const bar = Math.max(area.cell - gap, 1);
    context.fillStyle = KINDS[kinds[t]].color;
    context.fillRect(x, y, bar, Math.max(base - y, 1));
    if (mismatch[t] > mismatchTop) mark(context, x + bar / 2, y + 1, "up", INK);
  }
  steppedLine(area, tauAccept, ACCEPT_LINE, 2);
  steppedLine(area, tauReplan, REPLAN_LINE, 2);
  strip({ ...area, height }, plot + 4, stripHeight);
  return { ...area, height };
}

function mark(context, x, y, shape, color) {
  context.strokeStyle = context.fillStyle = color;
  context.lineWidth = 1.5;
  context.beginPath();
  if (shape === "up") {
    context.moveTo(x, y); context.lineTo(x - 3, y + 5); context.lineTo(x + 3, y + 5);
    context.fill();
    return;
  }
  context.moveTo(x - 3, y - 3); context.lineTo(x + 3, y + 3);
  context.moveTo(x - 3, y + 3); context.lineTo(x + 3, y - 3);
  context.stroke();
}

function drawValues(values, color) {
  const sorted = finite(values);
  const bottom = Math.min(sorted[0] ?? 0, 0), top = Math.max(sorted.at(-1) ?? 0, bottom + 1e-6);
  return (context, width, height) => {
    const area = makeArea(context, width, height, view(), bottom, top);
    grid(area, [bottom, top].map((value) => Number(value.toPrecision(3))));
    steppedLine(area, values, color, 1.6);
    return area;
  };
}

function drawAction(i) {
  const newPlan = (t) => columns.outcome[t] === "replan";
  return (context, width, height) => {
    const area = makeArea(context, width, height, view(), -1.05, 1.05);
    grid(area, [-1, 0, 1]);
    context.fillStyle = "rgba(0,114,178,0.25)";
    for (let t = area.range.low; t < area.range.high; t++) {
      const from = area.y(planned[i][t]), to = area.y(executed[i][t]);
      context.fillRect(area.x(t), Math.min(from, to), area.cell, Math.abs(to - from));
    }
    steppedLine(area, planned[i], PLAN, 3, newPlan);
    steppedLine(area, executed[i], INK, 1.2);
    for (let t = area.range.low; t < area.range.high; t++) {
      if (!Number.isNaN(dropped[i][t])) {
        mark(context, area.x(t + 0.5), area.y(dropped[i][t]), "cross", REPLAN_LINE);
      }
    }
    return area;
  };
}

function drawOverview(context, width, height) {
  const area = makeArea(context, width, height, { low: 0, high: steps }, 0, 1);
  strip(area, 0, height);
  const { low, high } = view();
  context.strokeStyle = INK;
  context.lineWidth = 1.5;
  context.strokeRect(area.x(low), 1, area.x(high) - area.x(low), height - 2);
  return area;
}

function drawAxis(context, width, height) {
  const area = makeArea(context, width, height, view(), 0, 1);
  context.font = '11px system-ui, "Liberation Sans", sans-serif';
  context.fillStyle = SOFT;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const spacing = ticks(0, (area.range.high - area.range.low) / 2.5)[1] ?? 1;
  const every = Math.max(1, Math.round(spacing));
  for (let t = Math.ceil(area.range.low / every) * every; t < area.range.high; t += every) {
    context.fillRect(area.x(t + 0.5), 0, 1, 3);
    context.fillText(t, area.x(t + 0.5), 10);
  }
  return area;
}

const scale = facts.mismatch === "relative"
  ? "relative: 1 is as far as the latent has moved since planning" : facts.mismatch;
const panels = [
  ["Whole episode", 26, drawOverview],
  known.length
    ? [`Mismatch (${scale}) against its thresholds, and the outcome of each step`, 190, drawMismatch]
    : ["Outcome of each step; none was compared with an older plan", 60, drawMismatch],
  ["Reward of the step", 56, drawValues(reward, INK)],
  ["Return so far", 56, drawValues(returns, RETURN)],
  ...planned.map((_, i) => [`Action ${i}`, 58, drawAction(i)]),
  ["Step", 18, drawAxis],
].map(([title, height, draw]) => {
  const box = document.createElement("div"), heading = document.createElement("h2");
  const canvas = document.createElement("canvas");
  box.className = "panel";
  heading.textContent = title;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${title}, over the steps of the episode`);
  canvas.style.height = `${height}px`;
  box.append(heading, canvas);
  element("panels").append(box);
  const panel = { box, canvas, height, draw, area: null };
  listen(panel);
  return panel;
});

function drawPanels() {
  panels[0].box.hidden = windowSize === steps;
  const ratio = window.devicePixelRatio || 1;
  const width = element("panels").clientWidth;
  for (const panel of panels) {
    if (panel.box.hidden) continue;
    panel.canvas.width = Math.round(width * ratio);
    panel.canvas.height = Math.round(panel.height * ratio);
    const context = panel.canvas.getContext("2d");
    context.scale(ratio, ratio);
    panel.area = panel.draw(context, width, panel.height);
    if (panel.draw === drawAxis) continue;
    cursor(panel.area, current, INK);
    if (hovered !== null && hovered !== current) cursor(panel.area, hovered, "#d55e00");
  }
}

function listen(panel) {
  const stepAt = (event) => panel.area.step(event.offsetX);
  panel.canvas.addEventListener("pointerdown", (event) => {
    // A view that followed the cursor would run away under a drag.
    if (panel.draw !== drawOverview) frozenView = view();
    panel.canvas.setPointerCapture(event.pointerId);
    go(stepAt(event));
  });
  panel.canvas.addEventListener("pointermove", (event) => {
    if (event.buttons & 1) go(stepAt(event));
    else if (!timer && event.pointerType === "mouse") { hovered = stepAt(event); render(); }
  });
  panel.canvas.addEventListener("pointerleave", () => { hovered = null; render(); });
  for (const end of ["pointerup", "pointercancel"]) {
    panel.canvas.addEventListener(end, () => { frozenView = null; render(); });
  }
}
