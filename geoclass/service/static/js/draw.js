/* Drawing one polygon on a Leaflet map with a pointer. */

const L = window.L;
const LOOK = { color: "#7a1fa2", weight: 3, fillColor: "#7a1fa2", fillOpacity: 0.06, interactive: false };

export class Pen {
  /** `changed(corners, drawing)` is called with each corner and at the end. */
  constructor(map, changed) {
    Object.assign(this, { map, changed, corners: [], drawing: false, shapes: L.layerGroup().addTo(map) });
    map.on("click", ({ latlng }) => this.drawing && this.add(latlng)); // across 180° it goes on to 181°
    map.on("dblclick", () => this.drawing && this.finish());
    document.addEventListener("keydown", (this.key = (event) => this.onKey(event)));
  }

  start() {
    this.clear();
    this.drawing = true;
    this.map.doubleClickZoom.disable();
    this.map.getContainer().classList.add("drawing");
    this.changed(this.corners, true);
  }

  add(corner) {
    const last = this.corners.at(-1);
    if (last && last.equals(corner, 1e-9)) return; // the second click of a double click
    this.corners.push(corner);
    this.paint();
    this.changed(this.corners, true);
  }

  undo() {
    this.corners.pop();
    this.paint();
    this.changed(this.corners, true);
  }

  finish() {
    this.drawing = false;
    this.map.doubleClickZoom.enable();
    this.map.getContainer().classList.remove("drawing");
    this.paint();
    this.changed(this.corners, false);
  }

  clear() {
    this.corners = [];
    this.shapes.clearLayers();
  }

  paint() {
    this.shapes.clearLayers();
    const shape = this.drawing ? L.polyline(this.corners, LOOK) : L.polygon(this.corners, LOOK);
    shape.addTo(this.shapes);
    if (this.drawing) for (const corner of this.corners) L.circleMarker(corner, { ...LOOK, radius: 5, fillOpacity: 1, fillColor: "#fff" }).addTo(this.shapes);
  }

  /** Show areas that were not drawn here. */
  showAreas(geojson) {
    this.clear();
    const layer = L.geoJSON(geojson, { style: LOOK, interactive: false }).addTo(this.shapes);
    if (layer.getBounds().isValid()) this.map.fitBounds(layer.getBounds(), { padding: [40, 40], maxZoom: 16 });
  }

  onKey(event) {
    if (!this.drawing || event.target.closest("input, textarea, select, dialog")) return;
    if (event.key === "Escape") {
      this.clear();
      this.finish();
    } else if (event.key === "Backspace") this.undo();
    else if (event.key === "Enter" && !event.target.closest("button")) this.finish();
    else return;
    event.preventDefault();
  }

  /** The polygon as GeoJSON, or null where it has fewer than three corners. */
  get polygon() {
    if (this.corners.length < 3) return null;
    const turn = 360 * Math.round(this.corners[0].lng / 360); // of the copy of the world it was drawn on
    const ring = this.corners.map(({ lat, lng }) => [lng - turn, lat]);
    return { type: "Polygon", coordinates: [[...ring, ring[0]]] };
  }

  end() {
    document.removeEventListener("keydown", this.key);
  }
}
