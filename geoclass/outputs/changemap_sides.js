/* What the change map draws: the tiles and their change, and one side of the comparison. */
const geoclassChange = (() => {
  "use strict";

  const { Cells, PatchLayer, canvasOf, decode, inflate } = geoclassGrid;

  /** The tiles' classes by date, their change, and, once unpacked, every probability. */
  class ChangeTiles extends Cells {
    constructor(values, dates, classCount) {
      super(values);
      Object.assign(this, { dates, classCount });
      this.classes = decode(values.classes, Uint8Array); // one date after the other
      const what = decode(values.what, Uint8Array);
      this.category = what.map((byte) => byte & 15);
      this.kind = what.map((byte) => byte >> 4);
      for (const name of ["change", "built", "valid"]) this[name] = decode(values[name], Uint8Array);
    }

    classAt(tile, date) {
      return this.classes[date * this.count + tile];
    }

    async unpack(base64) {
      const bytes = await inflate(base64);
      const alone = this.count * this.dates;
      this.alone = bytes.subarray(0, alone);
      this.posterior = bytes.subarray(alone);
    }

    /** (dates × classes) probabilities of a tile, or null before they are unpacked. */
    probabilities(tile) {
      if (!this.posterior) return null;
      return Array.from({ length: this.dates }, (_, date) => {
        const from = (tile * this.dates + date) * this.classCount;
        return Array.from(this.posterior.subarray(from, from + this.classCount), (value) => value / 255);
      });
    }
  }

  /** One side of the comparison, or the only view: imagery with tiles above it, clipped to its part of the map. */
  class Side {
    constructor(page, name) {
      const { columns, rows } = page.tiles;
      Object.assign(this, { page, panes: [`${name}-picture`, `${name}-tiles`], what: "change", date: 0, shown: false });
      this.raster = canvasOf(columns, rows);
      this.pixels = this.raster.getContext("2d").createImageData(columns, rows);
      this.tiles = new PatchLayer(page.lattice, this.raster, { pane: this.panes[1], crisp: true });
      this.picture = new PatchLayer(page.lattice, canvasOf(1, 1), { pane: this.panes[0] });
    }

    show(on) {
      this.shown = on;
      if (on) this.paint();
      else for (const layer of [this.tiles, this.picture]) layer.remove();
    }

    paint() {
      if (!this.shown) return;
      const { page } = this;
      this.paintPicture();
      if (this.what === "imagery") {
        this.tiles.remove();
        return;
      }
      page.tiles.paint(new Uint32Array(this.pixels.data.buffer), page.colouring(this.what, this.date, this.bare));
      this.raster.getContext("2d").putImageData(this.pixels, 0, 0);
      this.tiles.setOpacity(this.bare ? 1 : page.state.opacity);
      if (page.map.hasLayer(this.tiles)) this.tiles.redraw();
      else this.tiles.addTo(page.map);
    }

    /** Whether nothing lies beneath the tiles. */
    get bare() {
      return !this.page.data.pictures[this.date] || !this.page.state.imagery;
    }

    async paintPicture() {
      const { page, date } = this;
      const wanted = page.data.pictures[date] && (page.state.imagery || this.what === "imagery");
      const canvas = wanted ? await page.pictureOf(date) : null;
      if (this.date !== date || !this.shown) return; // another was asked for meanwhile
      if (!canvas || !(page.state.imagery || this.what === "imagery")) {
        this.picture.remove();
        return;
      }
      this.picture.picture = canvas;
      if (page.map.hasLayer(this.picture)) this.picture.redraw();
      else this.picture.addTo(page.map);
    }

    /** Keep to the screen between `from` and `to` pixels from the left; null lifts that. */
    clip(from, to) {
      const { map } = this.page;
      const [a, b] = [map.containerPointToLayerPoint([from, -50]), map.containerPointToLayerPoint([to, map.getSize().y + 50])];
      const shape = from === null ? "" : `polygon(${a.x}px ${a.y}px, ${b.x}px ${a.y}px, ${b.x}px ${b.y}px, ${a.x}px ${b.y}px)`;
      for (const pane of this.panes) map.getPane(pane).style.clipPath = shape;
    }
  }

  return { ChangeTiles, Side };
})();
