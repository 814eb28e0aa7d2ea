/* Where tiles are, what they hold, and how a picture of them is laid on a Leaflet map. Nothing of the page around it.

   Positions come in three kinds: a cell (c, l) counts tiles eastwards and southwards, with fractions, from the
   north-west corner of the result's range; a world point is Web Mercator scaled to 0–1; everything else is Leaflet's. */
const geoclassGrid = (() => {
  "use strict";

  const PROJECTION = L.CRS.EPSG3857;
  const WORLD = 256; // Leaflet's world is this many pixels wide at zoom 0
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  function decode(base64, Type) {
    const raw = atob(base64);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Type(bytes.buffer);
  }

  /** The bytes in base64 text of a zlib stream. Fails in browsers of before 2023. */
  async function inflate(base64) {
    const stream = new Blob([decode(base64, Uint8Array)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** Cells to world points and back, through a lattice of (steps + 1)² points computed with PROJ. */
  class Lattice {
    constructor(steps, points, columns, rows) {
      Object.assign(this, { steps, points, columns, rows });
    }

    corner(i, j) {
      const at = 2 * (j * (this.steps + 1) + i);
      return [this.points[at], this.points[at + 1]];
    }

    /** World point of a cell position, and how it changes per column and per line (bilinear in each patch). */
    at(c, l) {
      const { steps, columns, rows } = this;
      const i = clamp(Math.floor((c / columns) * steps), 0, steps - 1);
      const j = clamp(Math.floor((l / rows) * steps), 0, steps - 1);
      const u = (c / columns) * steps - i;
      const v = (l / rows) * steps - j;
      const [p, q, r, s] = [this.corner(i, j), this.corner(i + 1, j), this.corner(i, j + 1), this.corner(i + 1, j + 1)];
      const mix = (k) => (1 - v) * ((1 - u) * p[k] + u * q[k]) + v * ((1 - u) * r[k] + u * s[k]);
      const perColumn = (k) => (((1 - v) * (q[k] - p[k]) + v * (s[k] - r[k])) * steps) / columns;
      const perLine = (k) => (((1 - u) * (r[k] - p[k]) + u * (s[k] - q[k])) * steps) / rows;
      return { x: mix(0), y: mix(1), xc: perColumn(0), yc: perColumn(1), xl: perLine(0), yl: perLine(1) };
    }

    /** The cell position of a world point by Newton's method, or null where it does not settle (far outside). */
    cell(x, y) {
      let c = this.columns / 2;
      let l = this.rows / 2;
      for (let round = 0; round < 20; round++) {
        const here = this.at(c, l);
        const [dx, dy] = [x - here.x, y - here.y];
        const scale = here.xc * here.yl - here.xl * here.yc;
        const [dc, dl] = [(dx * here.yl - dy * here.xl) / scale, (dy * here.xc - dx * here.yc) / scale];
        c += dc;
        l += dl;
        if (Math.abs(dc) + Math.abs(dl) < 1e-9) return [c, l];
      }
      return null;
    }

    latLng(c, l) {
      const { x, y } = this.at(c, l);
      return PROJECTION.pointToLatLng(L.point(x * WORLD, y * WORLD), 0);
    }

    /** The cell position of a place on any copy of the world. */
    locate(latLng) {
      const middle = this.latLng(this.columns / 2, this.rows / 2).lng;
      const lng = latLng.lng - 360 * Math.round((latLng.lng - middle) / 360);
      const point = PROJECTION.latLngToPoint(L.latLng(latLng.lat, lng), 0);
      return this.cell(point.x / WORLD, point.y / WORLD);
    }

    get bounds() {
      const corners = L.latLngBounds([]);
      for (let k = 0; k <= this.steps; k++) {
        for (const [i, j] of [[k, 0], [k, this.steps], [0, k], [this.steps, k]])
          corners.extend(this.latLng((i * this.columns) / this.steps, (j * this.rows) / this.steps));
      }
      return corners;
    }
  }

  /** Which cells hold tiles: runs of consecutive cells, numbered from the north-west, line by line. */
  class Cells {
    constructor(values) {
      const { prefix, left, top, columns, rows } = values;
      this.runs = decode(values.runs, Uint32Array); // first cell, length; first cell, length; …
      Object.assign(this, { prefix, left, top, columns, rows });
      this.first = new Uint32Array(this.runs.length / 2); // number of each run's first tile
      for (let k = 1; k < this.first.length; k++) this.first[k] = this.first[k - 1] + this.runs[2 * k - 1];
      const last = this.first.length - 1;
      this.count = last < 0 ? 0 : this.first[last] + this.runs[2 * last + 1];
    }

    /** Number of the tile in a cell, or -1. */
    at(column, line) {
      if (column < 0 || line < 0 || column >= this.columns || line >= this.rows) return -1;
      const cell = line * this.columns + column;
      let [low, high] = [0, this.first.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.runs[2 * middle] <= cell) low = middle + 1;
        else high = middle;
      }
      const run = low - 1;
      const step = run < 0 ? -1 : cell - this.runs[2 * run];
      return step >= 0 && step < this.runs[2 * run + 1] ? this.first[run] + step : -1;
    }

    /** A cell's permanent place: tile id, column and row from the CRS origin. */
    place(column, line) {
      const [gridColumn, gridRow] = [this.left + column, this.top - 1 - line];
      return { id: `${this.prefix}_${gridColumn}_${gridRow}`, column: gridColumn, row: gridRow, cell: [column, line] };
    }

    /** Paint each cell's colour, `colour(tile)` packed, into image data of one pixel a cell; 0 is transparent. */
    paint(pixels, colour) {
      pixels.fill(0);
      for (let k = 0, tile = 0; k < this.first.length; k++) {
        const end = this.runs[2 * k] + this.runs[2 * k + 1];
        for (let cell = this.runs[2 * k]; cell < end; cell++) pixels[cell] = colour(tile++);
      }
    }
  }

  /** A picture that covers the range, drawn patch by patch: the grid is not parallel to the screen's Mercator.

      `coarser`, where it is given, is asked at each drawing with the side of a tile in pixels of the canvas, and returns
      null or a picture to draw in place of the whole one, of `per` × `per` tiles a pixel. */
  const PatchLayer = L.Renderer.extend({
    options: { padding: 0.2, opacity: 1, crisp: false },
    coarser: null,

    initialize(lattice, picture, options) {
      L.Renderer.prototype.initialize.call(this, options);
      Object.assign(this, { lattice, picture });
    },

    _initContainer() {
      this._container = document.createElement("canvas");
      this._container.className = "gc-layer";
      this._container.style.opacity = this.options.opacity;
    },
    _destroyContainer() {
      this._container.remove();
      delete this._container;
    },
    _updatePaths() {},

    getEvents() {
      return { ...L.Renderer.prototype.getEvents.call(this), move: this._follow };
    },

    /** While a long drag goes on, draw again as soon as the margin around the view is used up. */
    _follow() {
      if (this._map._animatingZoom || this._map.getZoom() !== this._zoom) return;
      const corner = this._map.containerPointToLayerPoint([0, 0]);
      if (!this._bounds.contains(L.bounds(corner, corner.add(this._map.getSize())))) this._update();
    },

    _update() {
      if (this._map._animatingZoom && this._bounds) return;
      L.Renderer.prototype._update.call(this);
      const size = this._bounds.getSize();
      const canvas = this._container;
      this._ratio = window.devicePixelRatio || 1;
      L.DomUtil.setPosition(canvas, this._bounds.min);
      [canvas.width, canvas.height] = [Math.round(size.x * this._ratio), Math.round(size.y * this._ratio)];
      [canvas.style.width, canvas.style.height] = [`${size.x}px`, `${size.y}px`];
      this.redraw();
    },

    setOpacity(opacity) {
      this.options.opacity = opacity;
      if (this._container) this._container.style.opacity = opacity;
    },

    redraw() {
      if (!this._container) return;
      const ctx = this._container.getContext("2d");
      ctx.setTransform(1, 0, 0, 1, 0, 0);
      ctx.clearRect(0, 0, this._container.width, this._container.height);
      const { steps } = this.lattice;
      const drawn = this._chosen();
      for (let j = 0; j < steps; j++) for (let i = 0; i < steps; i++) this._drawPatch(ctx, drawn, i, j);
    },

    /** The picture to draw, and its pixels over the whole range: a coarse one may reach beyond by part of a pixel. */
    _chosen() {
      const { steps, columns, rows } = this.lattice;
      const [p, q] = [this._corner(0, 0), this._corner(steps, 0)];
      const coarse = this.coarser && this.coarser(Math.hypot(q[0] - p[0], q[1] - p[1]) / columns);
      if (coarse) return { ...coarse, width: columns / coarse.per, height: rows / coarse.per };
      return { picture: this.picture, width: this.picture.width, height: this.picture.height };
    },

    /** Canvas pixels of a corner of the lattice. */
    _corner(i, j) {
      const scale = WORLD * 2 ** this._zoom;
      const origin = this._map.getPixelOrigin().add(this._bounds.min);
      const [x, y] = this.lattice.corner(i, j);
      return [(x * scale - origin.x) * this._ratio, (y * scale - origin.y) * this._ratio];
    },

    _drawPatch(ctx, { picture, width, height }, i, j) {
      const { steps } = this.lattice;
      const [p, q, r, s] = [this._corner(i, j), this._corner(i + 1, j), this._corner(i, j + 1), this._corner(i + 1, j + 1)];
      const [xs, ys] = [0, 1].map((k) => [p[k], q[k], r[k], s[k]]);
      if (Math.max(...xs) < -2 || Math.max(...ys) < -2) return;
      if (Math.min(...xs) > ctx.canvas.width + 2 || Math.min(...ys) > ctx.canvas.height + 2) return;
      // The affine map nearest to the patch: its mean sides, through its centre. Lengths per picture pixel.
      const [wide, high] = [width / steps, height / steps];
      const across = [0, 1].map((k) => (q[k] - p[k] + s[k] - r[k]) / 2 / wide);
      const down = [0, 1].map((k) => (r[k] - p[k] + s[k] - q[k]) / 2 / high);
      const middle = [0, 1].map((k) => (p[k] + q[k] + r[k] + s[k]) / 4);
      const shift = [0, 1].map((k) => middle[k] - across[k] * (i + 0.5) * wide - down[k] * (j + 0.5) * high);
      ctx.setTransform(across[0], across[1], down[0], down[1], shift[0], shift[1]);
      const pixelSide = Math.hypot(across[0], across[1]);
      ctx.imageSmoothingEnabled = !this.options.crisp || pixelSide < 0.8;
      ctx.imageSmoothingQuality = pixelSide < 0.5 ? "medium" : "low";
      // Patches overlap by most of a screen pixel, or their smoothed edges would show as pale lines.
      const lap = 0.8 / pixelSide;
      const [x0, x1] = [Math.max(0, i * wide - lap), Math.min(width, (i + 1) * wide + lap)];
      const [y0, y1] = [Math.max(0, j * high - lap), Math.min(height, (j + 1) * high + lap)];
      ctx.drawImage(picture, x0, y0, x1 - x0, y1 - y0, x0, y0, x1 - x0, y1 - y0);
    },
  });

  function canvasOf(width, height) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    return canvas;
  }

  return { WORLD, Lattice, Cells, PatchLayer, canvasOf, clamp, decode, inflate };
})();
