/* One tile: where it is, its class, and the probability of every class. */

import { ask } from "./api.js";
import { fill, make, swatch } from "./dom.js";
import { percent } from "./words.js";

const L = window.L;

function bars(label) {
  const sorted = [...label.probabilities].sort((a, b) => b.probability - a.probability);
  return make("ul", { class: "bars" }, sorted.map((item) => {
    const inner = make("i", {});
    inner.style.width = `${100 * item.probability}%`;
    inner.style.background = item.colour;
    const text = make("span", { class: "value", "data-value": item.probability }, percent(item.probability));
    return make("li", { "data-class": item.name }, make("span", {}, item.name), make("span", { class: "bar", "aria-hidden": "true" }, inner), text);
  }));
}

function answer(title, place) {
  const { label } = place;
  if (!label) return make("div", { class: "answer" }, title && make("h3", {}, title), make("p", { class: "muted" }, "No label here: no imagery, or too little of it."));
  const best = label.probabilities.find((item) => item.name === label.class_name);
  return make("div", { class: "answer" }, title && make("h3", {}, title),
    make("p", { class: "best" }, swatch(best.colour), make("strong", {}, label.class_name), ` ${percent(label.confidence)}`),
    bars(label),
    label.model_class && label.model_class !== label.class_name && make("p", { class: "muted" }, `Smoothed; the model itself said ${label.model_class}.`),
    label.valid_fraction < 0.999 && make("p", { class: "muted" }, `${percent(label.valid_fraction)} of the tile has data.`));
}

/** The card of a tile on a Leaflet map. `sides()` gives the maps that are shown, with their titles. */
export class Inspector {
  constructor(map, card, sides, signal) {
    Object.assign(this, { map, card, sides, signal, at: null, outline: L.layerGroup().addTo(map) });
  }

  close() {
    this.at = null;
    this.card.hidden = true;
    this.outline.clearLayers();
  }

  async look(query) {
    const asked = (this.asked = Symbol("asked"));
    const places = [];
    try {
      for (const [title, facts] of this.sides()) {
        const where = places.length ? new URLSearchParams(this.middle(places[0])) : new URLSearchParams(query);
        places.push({ title, ...(await ask(`/v1/jobs/${facts.id}/tile?${where}`, { signal: this.signal })) });
      }
    } catch (error) {
      if (error.name !== "AbortError") this.show([make("p", { class: "problem" }, error.message)]);
      return;
    }
    if (asked === this.asked) this.tell(places); // the answer to an older click comes too late
  }

  /** Of the other date the tile at the middle of this one is asked for: grids may differ. */
  middle({ outline }) {
    const [[west, south], , [east, north]] = outline;
    return { lon: (west + east) / 2, lat: (south + north) / 2 };
  }

  tell(places) {
    const [first] = places;
    this.at = first;
    this.draw(first.outline);
    const known = places.map((place) => place.label?.class_name);
    this.show([
      ...places.map((place) => answer(places.length > 1 ? place.title : "", place)),
      places.length > 1 && known.every(Boolean) && make("p", { class: "verdict" }, known[0] === known[1] ? "The same class on both." : `${known[0]} became ${known[1]}.`),
      make("p", { class: "muted" }, "Tile ", make("code", { class: "tile-id" }, first.tile_id)),
    ]);
  }

  show(content) {
    this.card.hidden = false;
    fill(this.card.querySelector(".card-body"), content);
  }

  draw(outline) {
    const ring = outline.map(([lon, lat]) => [lat, lon]);
    this.outline.clearLayers();
    const look = { fill: false, interactive: false };
    L.polygon(ring, { ...look, color: "#ffffff", weight: 5 }).addTo(this.outline);
    L.polygon(ring, { ...look, color: "#101818", weight: 2 }).addTo(this.outline);
    this.map.panInside(L.latLngBounds(ring).getCenter(), { padding: [60, 60] });
  }

  /** Go to the neighbour of the tile; from none to the tile in the middle of the map. */
  step(right, up) {
    if (this.at) return this.look({ column: this.at.column + right, row: this.at.row + up });
    const { lat, lng } = this.map.getCenter().wrap();
    return this.look({ lon: lng, lat });
  }
}
