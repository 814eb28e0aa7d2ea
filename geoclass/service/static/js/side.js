/* One map on the page: its imagery and its classes, each in a pane of its own, which a swipe can cut. */

import { TokenTiles } from "./tiles.js";

const L = window.L;

export class Side {
  /** facts: what /v1/jobs/ID/map says; under: the z-index of the panes. */
  constructor(map, facts, name, under) {
    const [west, south, east, north] = facts.bounds;
    this.map = map;
    this.facts = facts;
    this.bounds = L.latLngBounds([south, west], [north, east]);
    this.panes = {};
    this.layers = {};
    for (const [step, layer] of ["imagery", "classes"].entries()) {
      const pane = map.getPane(`${name}-${layer}`) || map.createPane(`${name}-${layer}`);
      pane.style.zIndex = under + step;
      pane.classList.add(`pane-${layer}`);
      this.panes[layer] = pane;
      const options = { pane: `${name}-${layer}`, bounds: this.bounds, minZoom: 0, maxZoom: 24, maxNativeZoom: facts.max_zoom };
      this.layers[layer] = new TokenTiles(facts.layers[layer], options).addTo(map);
    }
  }

  show(layer, visible) {
    this.panes[layer].hidden = !visible;
  }

  fade(opacity) {
    this.panes.classes.style.opacity = opacity;
  }

  /** Keep what lies between two shares of the map's width. */
  cut(from, to) {
    const size = this.map.getSize();
    const [start, end] = [this.map.containerPointToLayerPoint([from * size.x, 0]), this.map.containerPointToLayerPoint([to * size.x, size.y])];
    const whole = from <= 0 && to >= 1;
    const corners = [[start.x, start.y], [end.x, start.y], [end.x, end.y], [start.x, end.y]];
    const path = whole ? "" : `polygon(${corners.map(([x, y]) => `${x}px ${y}px`).join(",")})`;
    for (const pane of Object.values(this.panes)) pane.style.clipPath = path;
  }

  remove() {
    for (const layer of Object.values(this.layers)) layer.remove();
    for (const pane of Object.values(this.panes)) pane.style.clipPath = "";
  }
}
