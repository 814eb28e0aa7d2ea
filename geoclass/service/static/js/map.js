/* The map of a job that is done, or of two side by side under a divider. */

import { areaPanel } from "./areas.js";
import { ask } from "./api.js";
import { downloads } from "./downloads.js";
import { field, fill, make, terms, toast } from "./dom.js";
import { Inspector } from "./inspect.js";
import { classTable } from "./legend.js";
import { Side } from "./side.js";
import { swipe } from "./swipe.js";
import { area, percent, tiles } from "./words.js";

const L = window.L;
const UNDER = [210, 220]; // z-indices of the panes: above Leaflet's own tiles, below its lines
const CALM = matchMedia("(prefers-reduced-motion: reduce)").matches;

const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
const named = (facts) => (facts.date && !facts.name.includes(facts.date) ? `${facts.name} (${facts.date})` : facts.name);
/** Titles that tell two maps apart. */
const titles = (all) => (all.length > 1 && all.every((facts) => facts.date) && all[0].date !== all[1].date ? all.map((facts) => facts.date) : all.map(named));

function leaflet(container, bounds) {
  const map = L.map(container, {
    attributionControl: false, keyboard: false, zoomControl: true, zoomSnap: 0.25, fadeAnimation: !CALM, zoomAnimation: !CALM,
    maxZoom: 22, minZoom: 1, maxBoundsViscosity: 0.8,
  });
  L.control.scale({ imperial: true }).addTo(map);
  map.fitBounds(bounds, { padding: [12, 12], animate: false });
  container.setAttribute("role", "application");
  container.setAttribute("aria-label", "Map. Arrow keys go from tile to tile, plus and minus zoom, 0 shows everything.");
  container.tabIndex = 0;
  return map;
}

function keys(map, inspector, fit) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1], Enter: [0, 0] };
  map.getContainer().addEventListener("keydown", (event) => {
    if (event.target !== map.getContainer() || event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 10 : 1;
    if (steps[event.key]) inspector.step(...steps[event.key].map((step) => step * far));
    else if (event.key === "+" || event.key === "=") map.zoomIn();
    else if (event.key === "-") map.zoomOut();
    else if (event.key === "0") fit();
    else if (event.key === "Escape") inspector.close();
    else return;
    event.preventDefault();
  });
}

function layerPanel(sides) {
  const check = (layer, text) => {
    const input = make("input", { type: "checkbox", checked: true });
    input.addEventListener("change", () => sides.forEach((side) => side.show(layer, input.checked)));
    return make("label", { class: "check" }, input, text);
  };
  const slider = make("input", { type: "range", min: "0", max: "100", value: "60" });
  const told = make("output", {}, "60 %");
  const fade = () => {
    told.textContent = `${slider.value} %`;
    slider.setAttribute("aria-valuetext", told.textContent);
    sides.forEach((side) => side.fade(slider.value / 100));
  };
  slider.addEventListener("input", fade);
  fade();
  return make("section", { class: "panel", "aria-label": "Layers" }, make("h2", {}, "Layers"),
    make("div", { class: "row" }, check("classes", "Classes"), check("imagery", "Imagery")),
    make("div", { class: "opacity" }, field("Opacity of the classes", slider), told));
}

function comparePanel(facts, other, jobs) {
  const others = jobs.filter((job) => job.id !== facts.id);
  const select = make("select", {}, make("option", { value: "" }, others.length ? "No other map" : "There is no other map yet"),
    others.map((job) => make("option", { value: job.id }, `${job.name} · ${job.id.slice(0, 4)}`)));
  select.value = other?.id || "";
  select.disabled = !others.length;
  select.addEventListener("change", () => (location.hash = `#/map/${facts.id}${select.value ? `/${select.value}` : ""}`));
  return make("section", { class: "panel", "aria-label": "Compare" }, make("h2", {}, "Compare"),
    field("Swipe against", select), other && make("p", { class: "muted" }, "Move the divider on the map with a pointer, or with the arrow keys when it has the focus."));
}

function gisPanel(facts) {
  const address = make("input", { readonly: true, value: `${location.origin}${facts.wmts}` });
  const copy = make("button", { type: "button", class: "quiet" }, "Copy");
  copy.addEventListener("click", async () => {
    address.select();
    const done = await navigator.clipboard?.writeText(address.value).then(() => true, () => false);
    toast(done ? "Copied." : "Press Ctrl+C to copy it.");
  });
  return make("details", {}, make("summary", {}, "Open in QGIS (WMTS)"),
    field("Address of the layers", address, "Layer > Add Layer > Add WMS/WMTS Layer. From another machine add the token as a header: Authorization, Bearer TOKEN."), copy);
}

function head(all) {
  const [facts] = all;
  const words = [tiles(facts.tiles), `${facts.tile_side_m} m a side`, `${area(facts.area_ha)} ha`, facts.mean_confidence !== null && `mean confidence ${percent(facts.mean_confidence)}`];
  return make("div", { class: "map-head" },
    make("p", {}, make("a", { href: "#/" }, "← Scenes"), make("a", { href: `#/jobs/${facts.id}` }, "Run and log")),
    make("h1", {}, all.map(named).join(" and ")),
    facts.synthetic && make("span", { class: "badge" }, "synthetic imagery"),
    make("p", { class: "muted" }, all.length > 1 ? "Left of the divider the first, right of it the second." : words.filter(Boolean).join(", ")));
}

export async function mapPage(place, signal, id, otherId) {
  const maps = [id, otherId].filter(Boolean).map((each) => ask(`/v1/jobs/${each}/map`, { signal }));
  const [{ jobs }, ...all] = await Promise.all([ask("/v1/jobs?state=done&limit=500", { signal }), ...maps]);
  const [facts, other] = all;
  if (other && !overlap(facts.bounds, other.bounds)) throw new Error(`${named(facts)} and ${named(other)} share no ground; choose two maps of one place.`);
  const job = jobs.find((each) => each.id === id) || (await ask(`/v1/jobs/${id}`, { signal }));

  const container = make("div", { class: "map" });
  const body = make("div", { class: "card-body", "aria-live": "polite" });
  const close = make("button", { type: "button", class: "close", "aria-label": "Close the tile" }, "×");
  const card = make("section", { class: "tile-card", "aria-label": "Tile", hidden: true }, close, body);
  const frame = make("div", { class: "map-frame" }, container);
  const side = make("div", { class: "side" });
  fill(place, frame, card, side);

  const [west, south, east, north] = facts.bounds;
  const bounds = L.latLngBounds([south, west], [north, east]);
  const map = leaflet(container, bounds);
  const fit = () => map.fitBounds(bounds, { padding: [12, 12], animate: !CALM });
  const sides = all.map((each, k) => new Side(map, each, k ? "second" : "first", UNDER[k]));
  const words = titles(all);
  const inspector = new Inspector(map, card, () => all.map((each, k) => [words[k], each]), signal);
  const state = { drawing: false };
  close.addEventListener("click", () => {
    inspector.close();
    container.focus();
  });
  map.on("click", ({ latlng }) => {
    const { lat, lng } = latlng.wrap();
    if (!state.drawing) inspector.look({ lon: lng, lat });
  });
  keys(map, inspector, fit);

  let divider = null;
  if (other) {
    divider = swipe(frame, (share) => {
      sides[0].cut(0, share);
      sides[1].cut(share, 1);
    });
    map.on("move zoom viewreset resize", divider.again);
    frame.append(make("p", { class: "date date-first" }, words[0]), make("p", { class: "date date-second" }, words[1]));
  }
  const areas = areaPanel(map, () => all.map((each, k) => [words[k], each]), (on) => (state.drawing = on), signal);
  fill(side, head(all), layerPanel(sides),
    make("section", { class: "panel", "aria-label": "Legend" }, make("h2", {}, "Classes"),
      classTable(other ? "Both maps, whole" : `Scheme ${facts.scheme}`, facts, other, words),
      facts.left_out ? make("p", { class: "muted" }, `${tiles(facts.left_out)} with too little data left out.`) : null,
      facts.smoothing && make("p", { class: "muted" }, `Smoothed: ${facts.smoothing}.`)),
    areas.element, comparePanel(facts, other, jobs),
    make("section", { class: "panel", "aria-label": "Downloads" }, make("h2", {}, "Downloads"), downloads(job), gisPanel(facts)));

  const watch = new ResizeObserver(() => map.invalidateSize());
  watch.observe(container);
  signal.addEventListener("abort", () => {
    watch.disconnect();
    map.remove();
  });
  window.geoclass = { map, sides, inspector }; // for tests and for the curious
}
