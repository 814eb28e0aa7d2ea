/* Areas of interest: drawn, as GeoJSON, or by four coordinates; and what the service finds in them. */

import { ask } from "./api.js";
import { field, fill, make } from "./dom.js";
import { Pen } from "./draw.js";
import { classTable } from "./legend.js";
import { area, percent, tiles } from "./words.js";

const SIDES = ["West", "South", "East", "North"];

function measured(found, other, titles) {
  const mapped = found.area_m2 ? found.mapped_m2 / found.area_m2 : 0;
  const whole = `${found.name}: ${area(found.area_ha)} ha`;
  return make("div", { class: "measured" },
    classTable(whole, found, other, titles),
    make("p", { class: "muted" }, `${tiles(found.tiles)}; ${percent(mapped)} of the area is mapped${found.unmapped_ha >= 0.005 ? `, ${area(found.unmapped_ha)} ha are not` : ""}.`));
}

/** Four numbers and a button that makes a rectangle of them. */
function corners(use) {
  const inputs = SIDES.map((side) => make("input", { type: "number", step: "any", "aria-label": `${side}, degrees`, min: side.length === 4 ? "-360" : "-90", max: side.length === 4 ? "360" : "90" }));
  const button = make("button", { type: "button" }, "Measure this rectangle");
  button.addEventListener("click", () => {
    const [west, south, east, north] = inputs.map((input) => (input.value === "" ? NaN : Number(input.value)));
    if (!(west < east && south < north)) return use(null, "Give four numbers in degrees: west less than east, south less than north.");
    use({ type: "Polygon", coordinates: [[[west, south], [east, south], [east, north], [west, north], [west, south]]] });
  });
  const preset = ([west, south, east, north]) => [west, south, east, north].forEach((value, k) => (inputs[k].value = value.toFixed(5)));
  const fields = SIDES.map((side, k) => make("label", {}, side, inputs[k]));
  return { element: make("div", {}, make("div", { class: "four" }, fields), button), preset };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("This is no GeoJSON; save the area as GeoJSON in EPSG:4326.");
  }
}

/** The panel. `shown()` gives [title, facts] of the maps shown; `drawing(on)` tells the page not to inspect tiles. */
export function areaPanel(map, shown, drawing, signal) {
  const state = { last: null, asked: null };
  const draw = make("button", { type: "button" }, "Draw an area");
  const finish = make("button", { type: "button", class: "primary", hidden: true }, "Finish");
  const clear = make("button", { type: "button", class: "quiet", hidden: true }, "Clear");
  const said = make("p", { class: "muted", role: "status" });
  const result = make("div", { class: "results" });
  const text = make("textarea", { rows: "3", spellcheck: "false", placeholder: '{"type": "Polygon", "coordinates": …}' });
  const file = make("input", { type: "file", accept: ".geojson,.json,application/geo+json" });
  const measureText = make("button", { type: "button" }, "Measure this GeoJSON");
  const box = corners(use);
  box.preset(shown()[0][1].bounds);

  const pen = new Pen(map, (points, going) => {
    drawing(going);
    finish.hidden = !going;
    clear.hidden = !going && !points.length;
    draw.hidden = going;
    if (going) fill(said, points.length < 3 ? "Click the corners on the map. Backspace takes one back, Escape ends." : "Click further corners, or double-click or press Enter to finish.");
    else if (pen.polygon) measure(pen.polygon);
    else fill(said, points.length ? "An area needs three corners." : "");
  });

  function use(geojson, problem = "") {
    if (!geojson) return fill(said, problem);
    try {
      pen.showAreas(geojson);
    } catch {
      return fill(said, "This GeoJSON cannot be drawn; it needs polygons in longitude and latitude.");
    }
    clear.hidden = false;
    measure(geojson);
  }

  async function measure(geojson) {
    state.last = geojson;
    const own = (state.asked = Symbol("asked"));
    fill(said, "Measuring…");
    try {
      const sides = shown();
      const found = await Promise.all(sides.map(([, facts]) => ask(`/v1/jobs/${facts.id}/statistics`, { method: "POST", json: geojson, signal })));
      if (own !== state.asked) return;
      const titles = sides.map(([title]) => title);
      fill(result, found[0].areas.map((each, k) => measured(each, found[1]?.areas[k], titles)));
      fill(said, "Counts of tiles, cut at the outline; not an estimate with an error.");
      result.scrollIntoView({ block: "nearest" });
    } catch (error) {
      if (error.name === "AbortError" || own !== state.asked) return;
      fill(result);
      fill(said, error.message);
    }
  }

  draw.addEventListener("click", () => {
    fill(result);
    pen.start();
    finish.focus();
  });
  finish.addEventListener("click", () => {
    pen.finish();
    draw.focus();
  });
  clear.addEventListener("click", () => {
    state.last = state.asked = null;
    pen.clear();
    fill(result);
    pen.finish();
    draw.focus();
  });
  measureText.addEventListener("click", () => {
    try {
      use(parsed(text.value));
    } catch (error) {
      fill(said, error.message);
    }
  });
  file.addEventListener("change", async () => {
    if (!file.files[0]) return;
    text.value = await file.files[0].text();
    measureText.click();
  });
  signal.addEventListener("abort", () => pen.end());

  const element = make("section", { class: "panel", "aria-label": "Area of interest" },
    make("h2", {}, "Area of interest"),
    make("div", { class: "row" }, draw, finish, clear),
    said, result,
    make("details", {}, make("summary", {}, "By coordinates or GeoJSON"),
      box.element, field("GeoJSON file", file), field("or its text", text), measureText));
  return { element, again: () => state.last && measure(state.last) };
}
