// ---- the step that is read out -----------------------------------------------

const OUTCOMES = {
  accept: "accept", correct: "correct", block: "replan (plan used up)",
  mismatch: "replan (mismatch)",
};
const show = (value, digits = 3) =>
  Number.isNaN(value) ? "–" : value === Infinity ? "∞" : value.toFixed(digits);

function reason(t) {
  const distance = show(mismatch[t]), accept = show(tauAccept[t]), replan = show(tauReplan[t]);
  switch (kinds[t]) {
    case "accept":
      return mismatch[t] <= tauAccept[t]
        ? `Mismatch ${distance} ≤ ${accept}: the planned action was executed.`
        : `Mismatch ${distance} ≤ ${replan} and no corrector: the planned action was executed.`;
    case "correct":
      return `${accept} < mismatch ${distance} ≤ ${replan}: the planned action was corrected.`;
    case "mismatch":
      return `Mismatch ${distance} > ${replan}: the rest of the plan was dropped, a new one made.`;
    default:
      return facts.plans
        ? "No planned step was left: a new plan was made and its first action executed."
        : "The mean action of the policy prior was executed; nothing was planned.";
  }
}

// Fills a <dl> with terms and texts; texts are never read as HTML.
function fill(list, entries) {
  list.replaceChildren(...entries.map(([name, text]) => {
    const row = document.createElement("div");
    const term = document.createElement("dt"), value = document.createElement("dd");
    term.textContent = name;
    value.textContent = text;
    row.append(term, value);
    return row;
  }));
}

function readOut(t) {
  element("read-step").textContent = `step ${t}, offset ${columns.offset[t]}`;
  const badge = element("read-outcome");
  badge.textContent = facts.plans ? OUTCOMES[kinds[t]] : "policy prior";
  badge.style.borderColor = KINDS[kinds[t]].color;
  element("read-reason").textContent = reason(t);
  fill(element("read-numbers"), [
    ["mismatch", show(mismatch[t])], ["accept up to", show(tauAccept[t])],
    ["replan above", show(tauReplan[t])],
    ["reward", show(reward[t])], ["return so far", show(returns[t], 1)],
  ]);
  element("read-actions").replaceChildren(...planned.map((plan, i) => {
    const row = document.createElement("tr"), change = executed[i][t] - plan[t];
    const values = [plan[t], executed[i][t]].map((value) => show(value));
    for (const text of [i, ...values, change ? show(change) : "0", show(dropped[i][t])]) {
      row.insertCell().textContent = text;
    }
    return row;
  }));
  const scrubber = element("scrubber");
  scrubber.value = current;
  scrubber.setAttribute("aria-valuetext", `step ${t}, ${badge.textContent}, ${reason(t)}`);
}

let wanted = -1;

function drawPicture(t) {
  const index = Math.floor(t / pictures.stride);
  if (!pictures.jpeg.length || index === wanted) return;
  wanted = index;
  const image = new Image();
  image.onload = () => {
    if (index !== wanted) return;
    const canvas = element("frame");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
  };
  image.src = `data:image/jpeg;base64,${pictures.jpeg[index]}`;
}

function render() {
  drawPicture(shown());
  readOut(shown());
  drawPanels();
}

// ---- moving about --------------------------------------------------------------

function go(t) {
  current = clamp(t, 0, steps - 1);
  hovered = null;
  render();
}

function pause() {
  clearTimeout(timer);
  timer = null;
  element("play").textContent = "Play";
}

function tick() {
  if (current >= steps - 1) return pause();
  go(current + 1);
  timer = setTimeout(tick, 1000 / Number(element("speed").value));
}

function togglePlay() {
  if (timer) return pause();
  if (current >= steps - 1) go(0);
  element("play").textContent = "Pause";
  timer = setTimeout(tick, 0);
}

// The nearest replan by mismatch after (+1) or before (-1) the current step.
function goToMismatch(direction) {
  const found = direction > 0
    ? kinds.indexOf("mismatch", current + 1)
    : current ? kinds.lastIndexOf("mismatch", current - 1) : -1;
  if (found >= 0) go(found);
}

function zoom(size) {
  windowSize = clamp(size, 1, steps);
  element("window").value = windowSize;
  render();
}

function zoomBy(direction) {
  const options = Array.from(element("window").options, (option) => Number(option.value));
  const index = options.indexOf(windowSize) + direction;
  if (options[index]) zoom(options[index]);
}

const KEYS = {
  ArrowLeft: (event) => go(current - (event.shiftKey ? 10 : 1)),
  ArrowRight: (event) => go(current + (event.shiftKey ? 10 : 1)),
  PageUp: () => go(current - 50),
  PageDown: () => go(current + 50),
  Home: () => go(0),
  End: () => go(steps - 1),
  " ": togglePlay,
  m: () => goToMismatch(1),
  M: () => goToMismatch(-1),
  "+": () => zoomBy(1),
  "=": () => zoomBy(1),
  "-": () => zoomBy(-1),
};

document.addEventListener("keydown", (event) => {
  const inside = event.target.tagName;
  const taken = inside === "SELECT" || (event.key === " " && /BUTTON|SUMMARY/.test(inside));
  if (taken || event.ctrlKey || event.altKey || event.metaKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key](event);
});

// ---- the page's fixed parts ------------------------------------------------------

function legendEntry(draw, text) {
  const item = document.createElement("li"), swatch = document.createElement("canvas");
  [swatch.width, swatch.height] = [32, 32];
  swatch.style.width = swatch.style.height = "16px";
  const context = swatch.getContext("2d");
  context.scale(2, 2);
  draw(context);
  item.append(swatch, text);
  return item;
}

function line(color, width) {
  return (context) => {
    context.fillStyle = color;
    context.fillRect(0, 8 - width / 2, 16, width);
  };
}

function legend() {
  const used = Object.keys(KINDS).filter((kind) => kinds.includes(kind));
  const entries = used.map((kind) => legendEntry((context) => {
    const { color, height } = KINDS[kind];
    context.fillStyle = color;
    context.fillRect(2, 16 * (1 - height), 12, 16 * height);
  }, KINDS[kind].label));
  if (finite(tauAccept).length) {
    entries.push(legendEntry(line(ACCEPT_LINE, 2), "accept threshold"));
  }
  if (finite(tauReplan).length) {
    entries.push(legendEntry(line(REPLAN_LINE, 2), "replan threshold"));
  }
  entries.push(legendEntry(line(PLAN, 4), "planned action"));
  entries.push(legendEntry(line(INK, 1.5), "executed action"));
  if (kinds.includes("mismatch")) {
    entries.push(
      legendEntry((context) => mark(context, 8, 8, "cross", REPLAN_LINE), "dropped action"));
  }
  element("legend").replaceChildren(...entries);
}

function head() {
  const rate = (count) => `${(count / steps).toFixed(3)} (${count})`;
  const { versions = {}, git_revision: revision, command = "" } = facts.provenance ?? {};
  element("title").textContent = `${facts.task} · ${facts.variant}`;
  fill(element("facts"), [
    ["return", show(facts.return, 1)],
    ["steps", facts.episode_length > steps ? `${steps} of ${facts.episode_length}` : steps],
    ["planner calls / step", rate(facts.planner_calls)],
    ["corrected / step", rate(facts.corrected)],
    ["mismatch replans / step", rate(facts.mismatch_replans)],
    ["exec horizon", facts.exec_horizon],
    ["corrector", facts.corrector],
    ["env seed", facts.env_seed],
    ["teacher", (facts.teacher ?? "").slice(0, 12) || "unnamed"],
    ["versions", ["jax", "mujoco"].filter((n) => versions[n]).map((n) => `${n} ${versions[n]}`)
      .join(", ")],
  ]);
  const { provenance, ...settings } = facts;
  fill(element("provenance"), [
    ["command", command],
    ["revision", revision ?? "unknown"],
    ["versions", Object.entries(versions).map(([n, v]) => `${n} ${v}`).join(", ")],
    ["device", `${provenance?.device ?? ""} ${provenance?.cpu ?? ""}`],
    ...Object.entries(settings).map(([name, value]) =>
      [name, typeof value === "object" ? JSON.stringify(value) : value]),
  ]);
}

function start() {
  head();
  legend();
  element("scrubber").max = steps - 1;
  const sizes = [steps, ...[200, 100, 50, 20].filter((size) => size < steps)];
  element("window").replaceChildren(...sizes.map((size) =>
    new Option(size === steps ? "all steps" : `${size} steps`, size)));
  element("frame").hidden = !pictures.jpeg.length;
  if (!pictures.jpeg.length) element("caption").textContent = `No pictures: ${pictures.missing}`;
  element("next-replan").hidden = !kinds.includes("mismatch");
  element("scrubber").addEventListener("input", (event) => go(Number(event.target.value)));
  element("play").addEventListener("click", togglePlay);
  element("back").addEventListener("click", () => go(current - 1));
  element("forward").addEventListener("click", () => go(current + 1));
  element("next-replan").addEventListener("click", () => goToMismatch(1));
  element("window").addEventListener("change", (event) => zoom(Number(event.target.value)));
  new ResizeObserver(render).observe(element("panels"));
  // page.html#step=120&window=100 opens there.
  const place = new URLSearchParams(location.hash.slice(1));
  zoom(Number(place.get("window")) || (sizes.includes(100) ? 100 : steps));
  go(Number(place.get("step")) || 0);
}

start();
