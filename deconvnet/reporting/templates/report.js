"use strict";

// The gallery of a report. Its data is the JSON in #data: deconvnet/reporting/gallery.py says what it holds.
// Names from files reach the page as text alone (textContent, attributes), never as HTML.

const gallery = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const state = { class: null, layer: gallery.first, order: "", boxes: 0 };
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// ---- what is said of an image

const percent = (value) => (value === null || value === undefined ? "–" : value.toFixed(1));

function iouOf(entry, layer) {
  const value = state.class === null ? entry.iou[layer] : (entry.class_iou[layer] ?? {})[state.class];
  return value ?? null;
}

function shownBy(entry) {
  const found = Object.entries(entry.shows).filter(([label]) => label !== "0").sort((a, b) => b[1] - a[1]);
  return found.map(([label, share]) => {
    const text = share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`;
    return `${gallery.classes[label]} ${text}`;
  }).join(", ") || `nothing but ${gallery.classes[0]}`;
}

// ---- pictures: photograph, labels over it, proposals over both

function frameOf(entry) {
  const [width, height] = entry.size;
  const frame = make("span", { class: "picture" });
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.append(make("img", { class: "photograph", alt: "" }), make("img", { class: "labels", alt: "", hidden: "" }));
  return frame;
}

function fill(frame, entry, layer) {
  const [photograph, labels] = frame.querySelectorAll("img");
  if (!photograph.src) photograph.src = entry.photograph;
  const map = layer === null ? null : entry.maps[layer];
  labels.hidden = !map;
  if (map) labels.src = map;
  draw(frame, entry);
}

function draw(frame, entry) {
  frame.querySelector("svg")?.remove();
  if (!state.boxes || !entry.boxes.length) return;
  const [width, height] = entry.size;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-hidden", "true");
  for (const [x1, y1, x2, y2] of entry.boxes.slice(0, state.boxes).reverse()) {  // the best lies on top
    for (const kind of ["under", "over"]) {
      const box = document.createElementNS(SVG, "rect");
      const place = { class: kind, x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
      for (const [name, value] of Object.entries(place)) box.setAttribute(name, value);
      svg.append(box);
    }
  }
  frame.append(svg);
}

// ---- cards: one for each image, drawn when it comes near the visible part of the page

const cards = gallery.entries.map((entry) => {
  const frame = frameOf(entry);
  const score = make("span", { class: "score" });
  const shows = gallery.scored.length ? make("span", { class: "unseen" }, `(${gallery.shown}: ${shownBy(entry)})`)
    : make("span", { class: "shows" }, shownBy(entry));
  const button = make("button", { type: "button", class: "card", title: shownBy(entry) }, frame,
    make("span", { class: "caption" }, make("span", { class: "name" }, entry.name), " ", score), shows);
  const item = make("li", {}, button);
  item.style.setProperty("--ratio", (entry.size[0] / entry.size[1]).toFixed(4));
  return { entry, item, button, frame, score, near: false };
});
const cardOf = new Map(cards.map((card) => [card.item, card]));
let listed = cards;

const watcher = new IntersectionObserver((changes) => {
  for (const change of changes) {
    const card = cardOf.get(change.target);
    card.near = change.isIntersecting;
    if (card.near) fill(card.frame, card.entry, state.layer);
  }
}, { rootMargin: "400px" });
cards.forEach((card) => watcher.observe(card.item));

function redraw() {
  for (const card of cards) {
    const scored = state.layer !== null && gallery.scored.includes(state.layer);
    card.score.textContent = scored ? percent(iouOf(card.entry, state.layer)) : "";
    if (scored) card.score.prepend(make("span", { class: "unseen" }, "IoU "));
    if (card.near) fill(card.frame, card.entry, state.layer);
  }
  for (const frame of byId("pictures").querySelectorAll(".picture")) draw(frame, viewed.entry);
}

function arrange() {
  const [layer, way] = state.order.split(" ");
  listed = cards.filter(({ entry }) => state.class === null || state.class in entry.shows);
  if (state.order === "area") {
    const area = ({ entry }) => (state.class === null ? 1 - (entry.shows[0] ?? 0) : entry.shows[state.class]);
    listed.sort((a, b) => area(b) - area(a));
  } else if (state.order) {
    const sign = way === "up" ? 1 : -1;
    const key = ({ entry }) => iouOf(entry, layer) ?? sign * Infinity;  // what has none comes last
    listed.sort((a, b) => (key(a) === key(b) ? 0 : sign * (key(a) - key(b))));
  }
  byId("cards").replaceChildren(...listed.map((card) => card.item));
  redraw();
  const measured = state.class === null ? "the image's mean IoU" : `the IoU of ${gallery.classes[state.class]}`;
  const scored = gallery.scored.includes(state.layer) ? ` The numbers are ${measured} in percent, of ` +
    `${gallery.layers[state.layer]}.` : "";
  byId("status").textContent = `${listed.length} of ${cards.length} images.${scored}`;
}

// ---- the viewer: one image, all of its label maps side by side

let viewed = null;  // its card

function view(card) {
  viewed = card;
  const { entry } = card;
  byId("viewer-title").textContent = entry.name;
  byId("viewer-about").textContent = [`${gallery.shown}: ${shownBy(entry)}`, ...entry.notes].join("; ");
  const titled = [["photograph", null], ...gallery.layers.map((title, layer) => [title, layer])];
  byId("pictures").replaceChildren(...titled.map(([title, layer]) => {
    const frame = frameOf(entry);
    fill(frame, entry, layer);
    const missing = layer !== null && !entry.maps[layer] ? " (no label map)" : "";
    const iou = layer !== null && gallery.scored.includes(layer) ? ` IoU ${percent(entry.iou[layer])}` : "";
    return make("figure", {}, frame, make("figcaption", {}, title + missing, make("b", {}, iou)));
  }));
  byId("scores").replaceChildren(...scores(entry));
  const place = listed.indexOf(card);
  byId("previous").disabled = place <= 0;
  byId("next").disabled = place === listed.length - 1;
  if (!byId("viewer").open) byId("viewer").showModal();
}

function scores(entry) {
  if (!gallery.scored.length) return [];
  const found = Object.keys(entry.shows).map(Number);
  const head = make("tr", {}, make("th", { scope: "col" }, "IoU, percent"),
    ...gallery.scored.map((layer) => make("th", { scope: "col" }, gallery.layers[layer])));
  const rows = found.map((label) => make("tr", {},
    make("th", { scope: "row" }, make("span", { class: `swatch label-${label}` }), gallery.classes[label]),
    ...gallery.scored.map((layer) => make("td", {}, percent((entry.class_iou[layer] ?? {})[label])))));
  const wrong = gallery.scored.map((layer) => [layer, Object.keys(entry.class_iou[layer] ?? {}).filter(
    (label) => !(label in entry.shows))]).filter(([, labels]) => labels.length);
  const told = wrong.map(([layer, labels]) => make("p", {},
    `${gallery.layers[layer]} also sees, wrongly: ${labels.map((label) => gallery.classes[label]).join(", ")}`));
  return [make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)), ...told];
}

function step(by) {
  const card = listed[listed.indexOf(viewed) + by];
  if (!card) return;
  view(card);
  byId("viewer-title").focus();  // which is read out
}

// ---- controls

function setOpacity(value) {
  document.documentElement.style.setProperty("--opacity", value / 100);
  document.querySelectorAll("input.opacity").forEach((input) => { input.value = value; });
  document.querySelectorAll(".opacity-value").forEach((output) => { output.textContent = `${value} %`; });
}

function setBoxes(value) {
  state.boxes = Number(value);
  const text = state.boxes ? `best ${state.boxes}` : "none";
  document.querySelectorAll("input.boxes").forEach((input) => { input.value = value; });
  document.querySelectorAll(".boxes-value").forEach((output) => { output.textContent = text; });
  redraw();
}

const number = (text) => (text === "" ? null : Number(text));
byId("class").addEventListener("change", (event) => { state.class = number(event.target.value); arrange(); });
byId("layer").addEventListener("change", (event) => { state.layer = number(event.target.value); arrange(); });
byId("order").addEventListener("change", (event) => { state.order = event.target.value; arrange(); });
byId("photograph").addEventListener("change", (event) => {
  byId("gallery").classList.toggle("bare", !event.target.checked);
});
document.querySelectorAll("input.opacity").forEach((input) => {
  input.addEventListener("input", () => setOpacity(input.value));
});
document.querySelectorAll("input.boxes").forEach((input) => {
  input.addEventListener("input", () => setBoxes(input.value));
});
byId("controls").addEventListener("submit", (event) => event.preventDefault());

byId("cards").addEventListener("click", (event) => {
  const item = event.target.closest("li");
  if (item) view(cardOf.get(item));
});

function nextRow(card, way) {
  const { offsetTop, offsetLeft } = card.item;
  const beyond = listed.filter(({ item }) => way * (item.offsetTop - offsetTop) > 0);
  const distance = ({ item }) => 1e6 * Math.abs(item.offsetTop - offsetTop) + Math.abs(item.offsetLeft - offsetLeft);
  return beyond.sort((a, b) => distance(a) - distance(b))[0];
}

byId("cards").addEventListener("keydown", (event) => {
  const card = cardOf.get(event.target.closest("li"));
  const place = listed.indexOf(card);
  const to = { ArrowRight: listed[place + 1], ArrowLeft: listed[place - 1], ArrowDown: nextRow(card, 1),
    ArrowUp: nextRow(card, -1), Home: listed[0], End: listed.at(-1) }[event.key];
  if (!to) return;
  event.preventDefault();
  to.button.focus();
});

byId("viewer").addEventListener("keydown", (event) => {
  if (event.target.matches("input")) return;  // where arrows move a slider
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) step(by);
});
byId("viewer").addEventListener("close", () => viewed.button.focus());
byId("viewer").addEventListener("click", (event) => { if (event.target === byId("viewer")) byId("viewer").close(); });
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => byId("viewer").close());

byId("controls").reset();  // as in the file, whatever the browser remembers of an earlier visit
byId("layer").value = state.layer ?? "";
setOpacity(60);
arrange();
