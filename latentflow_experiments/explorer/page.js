"use strict";
// The explorer of a run: everything it shows was computed ahead, and its sliders stop at what was.

const values = JSON.parse(document.getElementById("values").textContent);
const sheets = [...document.querySelectorAll("script.sheet")].map((block) => ({ block, picture: null }));
const { names, steps, turn, solved } = values;
const [, height, width] = values.shape;
const side = Math.sqrt(atob(values.images[0].maps[0].data).length / 2 / (solved ? 1 : steps + 1));
const element = (id) => document.getElementById(id);

const state = { image: 0, time: steps, mode: "strengths", strengths: names.map((_, k) => (k ? 0 : 1)), first: 0, second: Math.min(1, names.length - 1), clock: "continue", back: 0 };
let recent = names.map((_, k) => k); // flows, the last moved first
let timer = null;

// The grid

function settle(strengths, moved) {
  recent = [moved, ...recent.filter((k) => k !== moved)];
  const acting = recent.filter((k) => strengths[k] > 0).slice(0, values.most);
  const parts = acting.length > 1 ? values.together : values.alone;
  return strengths.map((strength, k) => {
    if (!acting.includes(k)) return 0;
    return Math.min(parts, Math.max(acting.length > 1 ? 1 : 0, Math.round(strength * parts))) / parts;
  });
}

function key() {
  if (state.mode === "switch") return `switch ${state.first},${state.second} ${state.clock}`;
  return state.mode === "back" ? `back ${state.back}` : state.strengths.join(",");
}

// The potential that acts at a time: the weight of each flow, and the time at which it is asked.
function acting(n) {
  const one = (flow) => names.map((_, k) => (k === flow ? 1 : 0));
  if (state.mode === "back") return { weights: one(state.back), clock: steps - n };
  if (state.mode !== "switch") return { weights: state.strengths, clock: n };
  if (n < turn) return { weights: one(state.first), clock: n };
  return { weights: one(state.second), clock: state.clock === "restart" ? n - turn : n };
}

function describe() {
  if (state.mode === "back") return `${names[state.back]} backwards`;
  if (state.mode === "switch") return `${names[state.first]}, then ${names[state.second]}`;
  const parts = state.strengths.map((strength, k) => (strength ? `${names[k]} at strength ${strength}` : "")).filter(Boolean);
  return parts.join(" + ") || "no flow";
}

// Pictures

async function load(image) {
  const sheet = sheets[image];
  if (!sheet.picture) {
    const picture = new Image();
    picture.src = `data:image/webp;base64,${sheet.block.textContent}`;
    sheet.picture = picture.decode().then(() => picture);
  }
  return sheet.picture;
}

function drawCell(canvas, picture, columns, cell) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").drawImage(picture, (cell % columns) * width, Math.floor(cell / columns) * height, width, height, 0, 0, width, height);
}

async function drawPicture() {
  const wanted = `${key()} @ ${state.image} @ ${state.time}`;
  const [image, time, path] = [values.images[state.image], state.time, key()];
  const fault = image.faults[path];
  element("fault").textContent = fault ? `No picture: ${fault}.` : "";
  element("picture").setAttribute("aria-label", `Picture of the model: start image ${state.image + 1}, ${describe()}, ${timeText()}`);
  const picture = await load(state.image);
  if (wanted !== `${key()} @ ${state.image} @ ${state.time}`) return; // something newer is on its way
  drawCell(element("start"), picture, image.columns, image.start);
  if (!fault) drawCell(element("picture"), picture, image.columns, image.paths[path].cells[time]);
  document.documentElement.dataset.drawn = wanted; // for those who wait for the picture
}

// The plane

function shape(name, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  parent.append(made);
  return made;
}

const unpacked = new Map();

function potential(image, flow, clock) {
  const name = `${image} ${flow}`;
  if (!unpacked.has(name)) {
    const { low, high, data } = values.images[image].maps[flow];
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    unpacked.set(name, Array.from(bytes.filter((_, n) => n % 2 === 0), (byte, n) => low + ((high - low) * (byte + 256 * bytes[2 * n + 1])) / 65535));
  }
  const start = (solved ? 0 : clock) * side * side;
  return unpacked.get(name).slice(start, start + side * side);
}

function activeMap() {
  const { weights, clock } = acting(state.time);
  const sum = new Array(side * side).fill(0);
  weights.forEach((weight, k) => {
    if (weight) potential(state.image, k, clock).forEach((value, n) => (sum[n] += weight * value));
  });
  return sum;
}

// The segments of one level in the cells of the map, as an SVG path.
function trace(map, level, scale) {
  let path = "";
  for (let j = 0; j + 1 < side; j++) {
    for (let i = 0; i + 1 < side; i++) {
      const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
      const cuts = [];
      corners.forEach(([x, y], n) => {
        const [X, Y] = corners[(n + 1) % 4];
        const [a, b] = [map[y * side + x] - level, map[Y * side + X] - level];
        if (a < 0 !== b < 0) cuts.push([x + ((X - x) * a) / (a - b), y + ((Y - y) * a) / (a - b)]);
      });
      for (let n = 0; n + 1 < cuts.length; n += 2) {
        path += `M${(cuts[n][0] * scale).toFixed(1)} ${(300 - cuts[n][1] * scale).toFixed(1)}L${(cuts[n + 1][0] * scale).toFixed(1)} ${(300 - cuts[n + 1][1] * scale).toFixed(1)}`;
      }
    }
  }
  return path;
}

function drawPlane(path) {
  const svg = element("plane");
  svg.replaceChildren();
  const image = values.images[state.image];
  const map = activeMap();
  const [low, high, levels] = [Math.min(...map), Math.max(...map), 10];
  for (let n = 1; n < levels && high > low; n++) {
    const level = low + ((high - low) * n) / levels;
    shape("path", { class: "level", "stroke-opacity": (0.15 + (0.7 * n) / levels).toFixed(2), d: trace(map, level, 300 / (side - 1)) }, svg);
  }
  const places = ({ xy }) => Array.from({ length: xy.length / 2 }, (_, n) => [150 + (150 * xy[2 * n]) / image.half, 150 - (150 * xy[2 * n + 1]) / image.half]);
  const line = (points, name) => shape("polyline", { class: name, points: points.map((xy) => xy.map((x) => x.toFixed(1)).join(",")).join(" ") }, svg);
  const labels = [];
  names.forEach((name, k) => {
    const alone = image.paths[names.map((_, j) => (j === k ? 1 : 0)).join(",")];
    if (!alone) return;
    const points = places(alone);
    line(points, "other");
    const [x, y] = points[steps];
    const away = y < points[0][1] ? -1 : 1; // from the start, so that labels do not lie on the paths
    let height = y + (away < 0 ? -5 : 13);
    while (labels.some(([left, top]) => Math.abs(left - x) < 60 && Math.abs(top - height) < 12)) height += 12 * away;
    labels.push([x, height]);
    shape("text", { class: "name", x: Math.min(Math.max(x, 8), 292).toFixed(1), y: Math.min(Math.max(height, 12), 294).toFixed(1), "text-anchor": x < 100 ? "start" : x > 200 ? "end" : "middle" }, svg).textContent = name;
  });
  if (path) {
    const points = places(path);
    line(points, "path");
    points.forEach(([x, y]) => shape("circle", { class: "stop", cx: x.toFixed(1), cy: y.toFixed(1), r: 2.5 }, svg));
    const [x, y] = points[state.time];
    shape("circle", { class: "now", id: "now", cx: x.toFixed(1), cy: y.toFixed(1), r: 6.5 }, svg);
  }
  svg.setAttribute("aria-label", `The path of ${describe()} over contours of its potential, in a plane through the start`);
  const when = solved ? "at its own time 0, from where the flow solves the Hamilton-Jacobi equation" : `at time ${acting(state.time).clock}`;
  element("plane-text").textContent = `The plane through the latent of the start image that its paths leave least: it holds ${Math.round(100 * image.share)} % of their squared distances. Lines: levels of the active potential ${when}, the stronger the higher; flows climb. Dots: the times. Dashed: each flow alone at strength 1.`;
}

// The numbers

const shown = (number, none) => (number === null || number === undefined ? none : String(Number(number.toPrecision(3))));

function drawChart(id, label, numbers, zero, none) {
  const svg = element(id);
  svg.replaceChildren();
  const now = numbers ? numbers[state.time] : null;
  const text = numbers && state.time >= numbers.length ? "no step from here" : shown(now, none);
  element(`${id}-text`).textContent = text;
  svg.setAttribute("aria-label", `${label} over time, now ${text}`);
  const known = (numbers || []).filter((number) => number !== null);
  if (!known.length) return;
  let [low, high] = [Math.min(...known), Math.max(...known)];
  if (zero) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
  const pad = (high - low || Math.abs(high) || 1) * 0.1;
  const place = (number, n) => [6 + (228 * n) / steps, 58 - (52 * (number - low + pad)) / (high - low + 2 * pad)];
  const at = (y) => place(y, 0)[1].toFixed(1);
  shape("line", { class: "axis", x1: 0, x2: 240, y1: 63, y2: 63 }, svg);
  if (zero) shape("line", { class: "zero", x1: 0, x2: 240, y1: at(0), y2: at(0) }, svg);
  let line = "";
  numbers.forEach((number, n) => {
    if (number === null) return;
    const [x, y] = place(number, n).map((x) => x.toFixed(1));
    line += `${n && numbers[n - 1] !== null ? "L" : "M"}${x} ${y}`;
    shape("circle", { class: n === state.time ? "now" : "stop", cx: x, cy: y, r: n === state.time ? 5 : 2 }, svg);
  });
  svg.prepend(shape("path", { class: "path", d: line }, svg));
}

function drawNumbers(path) {
  drawChart("speed", "Speed", path && path.speed, true, "none");
  drawChart("log", "Log-density", path && path.log, false, path ? "none after a fold" : "none");
  drawChart("fold", "Fold margin", path && path.fold, true, "none");
  const margin = solved ? "the smallest eigenvalue of I + t ∇²u₀, of the map from time 0" : "the smallest eigenvalue of I + h ∇²u, of the step from each time";
  element("numbers-note").textContent = `Fold margin: ${margin}; where it is not positive, paths may meet and there is no density. Log-density: log q(z) of the posterior of the start image, carried along the flow.`;
}

function drawCertificates() {
  const flows = names.map((_, k) => k).filter((k) => {
    if (state.mode === "back") return k === state.back;
    return state.mode === "switch" ? k === state.first || k === state.second : state.strengths[k] > 0;
  });
  const lines = flows.map((k) => {
    const line = document.createElement("p");
    const name = document.createElement("strong");
    name.textContent = `${names[k]}: `;
    line.append(name, values.certificates[k]);
    return line;
  });
  if (flows.length > 1) {
    const line = document.createElement("p");
    line.textContent = "These are the certificates of each flow alone; what they do together was not certified.";
    lines.push(line);
  }
  element("certificates").replaceChildren(...lines);
}

// The controls

const timeText = () => (state.mode === "back" ? `${steps - state.time} of ${steps}, after ${state.time} steps back` : `${state.time} of ${steps}`);

function show() {
  if (state.first === state.second) state.second = (state.first + 1) % names.length;
  element("time").value = state.time;
  element("time").setAttribute("aria-valuetext", timeText());
  element("time-text").textContent = timeText();
  const together = state.strengths.filter(Boolean).length > 1;
  names.forEach((_, k) => {
    const slider = element(`strength-${k}`);
    const others = state.strengths.some((strength, other) => other !== k && strength > 0);
    slider.step = 1 / (others && values.most > 1 ? values.together : values.alone);
    slider.value = state.strengths[k];
    element(`strength-${k}-text`).textContent = state.strengths[k];
  });
  const levels = values.together === 1 ? "0 and 1" : `in steps of 1/${values.together}`;
  element("snapped").textContent = together ? `Flows at once: strengths ${levels}, at most ${values.most} flows.` : "";
  document.querySelectorAll("fieldset.mode").forEach((part) => (part.hidden = part.id !== state.mode));
  document.querySelector(`input[name="mode"][value="${state.mode}"]`).checked = true;
  document.querySelector(`input[name="image"][value="${state.image}"]`).checked = true;
  for (const name of ["first", "second", "clock"]) element(name).value = state[name];
  element("backwards").value = state.back;
  const path = values.images[state.image].paths[key()];
  drawPlane(path);
  drawNumbers(path);
  drawCertificates();
  drawPicture();
}

function write() {
  const parts = [`image=${state.image}`, `time=${state.time}`];
  if (state.mode === "switch") parts.push(`switch=${state.first},${state.second}`, `clock=${state.clock}`);
  else parts.push(state.mode === "back" ? `back=${state.back}` : `strength=${state.strengths.join(",")}`);
  try {
    history.replaceState(null, "", `#${parts.join("&")}`);
  } catch {
    // a page inside another one may not change its address
  }
}

function change(changes) {
  Object.assign(state, changes);
  show();
  write();
}

function stop() {
  clearInterval(timer);
  timer = null;
  element("play").textContent = "Play";
  element("play").setAttribute("aria-pressed", "false");
}

function play() {
  if (timer) return stop();
  let next = state.time === steps ? 0 : state.time + 1;
  timer = setInterval(() => {
    change({ time: next });
    next += 1;
    if (next > steps) stop();
  }, 250);
  element("play").textContent = "Stop";
  element("play").setAttribute("aria-pressed", "true");
}

// Read a state from the address, such as #image=1&time=4&strength=0,1,0; what does not fit is left as it is.
function read() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const within = (text, most) => (/^\d+$/.test(text ?? "") && Number(text) <= most ? Number(text) : null);
  const last = names.length - 1;
  state.image = within(asked.get("image"), values.images.length - 1) ?? state.image;
  state.time = within(asked.get("time"), steps) ?? state.time;
  const strengths = (asked.get("strength") ?? "").split(",").map(Number);
  if (asked.has("strength") && strengths.length === names.length && strengths.every((x) => x >= 0 && x <= 1)) {
    state.mode = "strengths";
    state.strengths = settle(strengths, recent[0]);
  }
  const pair = (asked.get("switch") ?? "").split(",").map((text) => within(text, last));
  if (values.switches && pair.length === 2 && !pair.includes(null) && pair[0] !== pair[1]) {
    Object.assign(state, { mode: "switch", first: pair[0], second: pair[1] });
    state.clock = asked.get("clock") === "restart" ? "restart" : "continue";
  }
  const back = within(asked.get("back"), last);
  if (back !== null) Object.assign(state, { mode: "back", back });
  show();
}

function build() {
  element("time").max = steps;
  for (const canvas of [element("picture"), element("start")]) Object.assign(canvas, { width, height });
  names.forEach((name, k) => {
    const row = document.createElement("div");
    row.className = "row";
    const label = document.createElement("label");
    label.htmlFor = `strength-${k}`;
    label.textContent = name;
    const output = document.createElement("output");
    output.id = `strength-${k}-text`;
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", id: `strength-${k}`, min: 0, max: 1, step: 1 / values.alone });
    slider.addEventListener("input", () => {
      const strengths = state.strengths.slice();
      strengths[k] = Number(slider.value);
      change({ strengths: settle(strengths, k) });
    });
    row.append(label, output);
    element("sliders").append(row, slider);
    for (const choice of ["first", "second", "backwards"]) element(choice).append(new Option(name, k));
  });
  values.images.forEach((image, n) => {
    const label = document.createElement("label");
    const radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "image", value: n });
    radio.setAttribute("aria-label", `Start image ${n + 1}`);
    radio.addEventListener("change", () => change({ image: n }));
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    load(n).then((picture) => drawCell(canvas, picture, image.columns, image.start));
    label.append(radio, canvas);
    element("images").append(label);
  });
  element("mode-switch").hidden = !values.switches;
  const back = solved ? "its solution is followed back in time; where paths have met, it may lead to another start" : "Euler's steps go back in time";
  element("back-note").textContent = `The flow runs to its end first; then ${back}.`;
  element("time").addEventListener("input", () => {
    stop();
    change({ time: Number(element("time").value) });
  });
  element("play").addEventListener("click", play);
  document.querySelectorAll('input[name="mode"]').forEach((radio) => radio.addEventListener("change", () => change({ mode: radio.value })));
  element("first").addEventListener("change", () => change({ first: Number(element("first").value) }));
  element("second").addEventListener("change", () => {
    const second = Number(element("second").value);
    change({ second, first: second === state.first ? (second + 1) % names.length : state.first });
  });
  element("clock").addEventListener("change", () => change({ clock: element("clock").value }));
  element("backwards").addEventListener("change", () => change({ back: Number(element("backwards").value) }));
  addEventListener("hashchange", read);
}

build();
read();
