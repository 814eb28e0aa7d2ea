/* The map page of one geoclass result: legend, layers, tile card. */
(() => {
  "use strict";

  const { PatchLayer, canvasOf, clamp } = geoclassGrid;
  const { Tiles, NONE } = geoclassTiles;
  const { $, NARROW, MapPage, register, element, canvasFrom, percent, shareText, hectaresUnder, rgb, packed, inkOn } = geoclassPage;
  // Viridis (van der Walt & Smith 2015): even steps of lightness, readable without red-green vision and in grey.
  const RAMP = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
  const BINS = 25;

  function rampColour(share) {
    const at = clamp(share, 0, 1) * (RAMP.length - 1);
    const low = Math.min(Math.floor(at), RAMP.length - 2);
    const [from, to] = [rgb(RAMP[low]), rgb(RAMP[low + 1])];
    return from.map((value, i) => Math.round(value + (to[i] - value) * (at - low)));
  }

  /** The page of one result: keeps map, legend and tile card in step with the state. */
  class Page extends MapPage {
    constructor(container, data, id) {
      super(container, data, new Tiles(data.tiles, data.classes.length, document.getElementById(`${id}-later`)?.textContent));
      Object.assign(this.state, { view: "class", colours: "colour", spot: -1, opacity: data.opacity, shown: data.classes.map(() => true) });
      this.makeLayers();
      this.makeLegend();
      this.makeOptions();
      this.makeCard();
      this.listen(container);
      this.fold(NARROW.matches);
      if (!this.tiles.coarse) this.makeRamp();
      this.paint();
      this.fit();
      this.whole = this.tiles.coarse ? this.unpack() : Promise.resolve(true);
    }

    /** After the first, coarse drawing: all tiles. */
    async unpack() {
      await new Promise((settle) => setTimeout(settle, 30));
      try {
        await this.tiles.unpack();
      } catch {
        $("foot").append(element("p", "", "This browser is too old to unpack all tiles; it shows the commonest class of some at a time."));
        return false;
      }
      this.makeRamp();
      this.paint();
      return true;
    }

    get panes() {
      return { preview: 250, classes: 300 };
    }

    get zoomSnap() {
      return this.data.basemaps.length ? 1 : 0.25;
    }

    makeLayers() {
      const { columns, rows } = this.tiles;
      this.raster = canvasOf(columns, rows);
      this.pixels = this.raster.getContext("2d").createImageData(columns, rows);
      this.classes = new PatchLayer(this.lattice, this.raster, { pane: "classes", crisp: true, opacity: this.state.opacity });
      this.classes.coarser = (side) => this.coarser(side);
      this.classes.addTo(this.map);
      if (this.data.preview) this.addPreview(this.data.preview);
      if (this.data.aois.length) this.aois = this.makeAois().addTo(this.map);
    }

    async addPreview(source) {
      this.preview = new PatchLayer(this.lattice, await canvasFrom(source), { pane: "preview" });
      if (this.previewWanted !== false) this.preview.addTo(this.map);
    }

    // Painting

    colourOf(kind) {
      return this.data.classes[kind][this.state.colours];
    }

    paint() {
      const { spot, shown, view } = this.state;
      const visible = this.data.classes.map((_, kind) => (spot < 0 ? shown[kind] : kind === spot));
      const { kind, confidence } = this.tiles;
      const flat = this.data.classes.map((_, k) => (visible[k] ? packed(rgb(this.colourOf(k))) : 0));
      // The commonest class would hide what is rare just where only that is to be seen.
      Object.assign(this, { flat, squares: new Map(), commonest: !kind || (view === "class" && visible.every(Boolean)) });
      if (!kind) return this.classes.redraw();
      const { floor } = this.data;
      const ramp = Array.from({ length: 256 }, (_, byte) => packed(rampColour((byte / 255 - floor) / (1 - floor))));
      const colour = view === "class" ? (tile) => flat[kind[tile]] : (tile) => (visible[kind[tile]] ? ramp[confidence[tile]] : 0);
      this.tiles.paint(new Uint32Array(this.pixels.data.buffer), colour);
      this.raster.getContext("2d").putImageData(this.pixels, 0, 0);
      this.classes.redraw();
    }

    /** Where tiles are smaller than half a pixel: a picture of the commonest class of those that share one. Until the tiles
        are unpacked: the picture that the page came with. */
    coarser(side) {
      if (!this.commonest) return null;
      const per = this.tiles.kind ? 2 ** Math.floor(Math.log2(1 / side)) : this.tiles.coarse.per;
      if (per < 2) return null;
      if (!this.squares.has(per)) this.squares.set(per, this.pictureOf(this.tiles.kind ? this.tiles.commonest(per) : this.tiles.coarse));
      return this.squares.get(per);
    }

    pictureOf({ per, columns, kinds }) {
      const picture = canvasOf(columns, kinds.length / columns);
      const ctx = picture.getContext("2d");
      const pixels = ctx.createImageData(picture.width, picture.height);
      new Uint32Array(pixels.data.buffer).set(Uint32Array.from(kinds, (kind) => (kind === NONE ? 0 : this.flat[kind])));
      ctx.putImageData(pixels, 0, 0);
      return { picture, per };
    }

    spotlight(kind) {
      clearTimeout(this.waiting);
      // A pointer on its way across the legend should not make the map flicker.
      this.waiting = setTimeout(() => {
        if (this.state.spot === kind) return;
        this.state.spot = kind;
        this.paint();
      }, 90);
    }

    // Legend

    makeLegend() {
      const { data } = this;
      const total = data.classes.reduce((sum, item) => sum + item.hectares, 0);
      const most = Math.max(...data.classes.map((item) => item.hectares));
      this.hectares = hectaresUnder(total);
      $("title").textContent = data.title;
      $("badge").hidden = !data.synthetic;
      $("sub").textContent = data.facts.join(" · ");
      this.rows = data.classes.map((item, kind) => this.makeRow(item, kind, total, most));
      $("classes").append(...this.rows);
      $("classes").classList.toggle("gc-many", this.rows.length > 9);
      $("total").textContent = `${this.hectares(total)} ha`;
      for (const text of data.notes) $("foot").append(element("p", "", text));
      for (const [name, value] of [["all", true], ["none", false]]) {
        $(name).addEventListener("click", () => {
          this.state.shown.fill(value);
          for (const row of this.rows) row.querySelector("input").checked = value;
          this.paint();
        });
      }
      this.colourLegend();
    }

    makeRow(item, kind, total, most) {
      const row = element("li");
      const label = row.appendChild(element("label"));
      const box = label.appendChild(element("input"));
      Object.assign(box, { type: "checkbox", checked: true });
      const share = total ? item.hectares / total : 0;
      const [area, part] = [element("span", "gc-number", this.hectares(item.hectares)), element("span", "gc-share", shareText(share))];
      label.append(element("span", "gc-name", item.name), area, part);
      area.append(element("span", "gc-hidden", " hectares"));
      const bar = label.appendChild(element("span", "gc-bar"));
      bar.appendChild(element("i")).style.width = `${most ? (100 * item.hectares) / most : 0}%`;
      box.addEventListener("change", () => {
        this.state.shown[kind] = box.checked;
        this.paint();
      });
      row.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && this.spotlight(kind));
      row.addEventListener("pointerleave", () => this.spotlight(-1));
      row.addEventListener("focusin", () => box.matches(":focus-visible") && this.spotlight(kind));
      row.addEventListener("focusout", () => this.spotlight(-1));
      return row;
    }

    colourLegend() {
      this.rows.forEach((row, kind) => {
        row.style.setProperty("--swatch", this.colourOf(kind));
        row.style.setProperty("--tick", inkOn(this.colourOf(kind)));
      });
      const parts = this.data.classes.map((item, kind) => {
        const part = element("i");
        Object.assign(part.style, { flex: `${item.hectares} 0 0`, background: this.colourOf(kind), display: item.hectares ? "" : "none" });
        return part;
      });
      $("strip").replaceChildren(...parts);
    }

    makeRamp() {
      const { floor } = this.data;
      const bins = new Array(BINS).fill(0);
      const counts = new Uint32Array(256);
      for (const byte of this.tiles.confidence) counts[byte]++;
      let [below, middle] = [0, -1];
      counts.forEach((count, byte) => {
        bins[clamp(Math.floor(((byte / 255 - floor) / (1 - floor)) * BINS), 0, BINS - 1)] += count;
        if (middle < 0 && (below += count) > Math.floor(this.tiles.count / 2)) middle = byte;
      });
      const most = Math.max(...bins);
      for (const count of bins) $("bins").appendChild(element("i")).style.height = `${(100 * count) / most}%`;
      $("gradient").style.background = `linear-gradient(to right, ${RAMP.join(", ")})`;
      for (let k = 0; k <= 2; k++) $("ticks").append(element("span", "", percent(floor + ((1 - floor) * k) / 2)));
      $("median").textContent = `Probability of the class shown. Half of the tiles reach ${percent(middle / 255)}.`;
    }

    makeOptions() {
      const { data, state } = this;
      $("palette").hidden = !data.classes.some((item) => item.safe !== item.colour);
      for (const [name, key] of [["gc-view", "view"], ["gc-colours", "colours"]]) {
        for (const input of document.getElementsByName(name)) {
          input.checked = input.defaultChecked; // browsers restore ticks on reload, but not our state
          input.addEventListener("change", () => this.choose(key, input.value));
        }
      }
      const slider = $("opacity");
      const show = () => {
        state.opacity = slider.value / 100;
        this.classes.setOpacity(state.opacity);
        $("opacity-text").textContent = `${slider.value}%`;
      };
      slider.value = Math.round(state.opacity * 100);
      slider.addEventListener("input", show);
      show();
      if (data.preview) this.addSwitch("checkbox", "Imagery", true, (on) => this.showPreview(on));
      if (this.aois) this.addSwitch("checkbox", "Areas of interest", true, (on) => (on ? this.aois.addTo(this.map) : this.aois.remove()));
      if (data.basemaps.length) this.addBasemaps();
      $("layers").hidden = $("layers").querySelectorAll("label").length === 0;
    }

    choose(key, value) {
      this.state[key] = value;
      $("ramp").hidden = this.state.view !== "confidence";
      this.colourLegend();
      this.paint();
      if (this.state.selected) this.fillCard(this.state.selected);
    }

    showPreview(on) {
      this.previewWanted = on;
      if (this.preview) on ? this.preview.addTo(this.map) : this.preview.remove();
    }

    addBasemaps() {
      let current = null;
      const use = (layer) => {
        if (current) current.remove();
        current = layer;
        if (layer) layer.addTo(this.map);
      };
      this.data.basemaps.forEach(({ name, url, attribution, served }, number) => {
        const layer = L.tileLayer(url, { attribution, maxZoom: 19, referrerPolicy: "strict-origin-when-cross-origin" });
        const refused = served && location.protocol === "file:";
        const input = this.addSwitch("radio", name, number === 0, () => use(layer), refused ? "(only on a web server)" : "(online)");
        input.disabled = refused;
        if (number === 0) use(layer);
      });
      this.addSwitch("radio", "No background map", false, () => use(null));
    }

    // The tile card, the cursor and the keyboard

    tileIn(column, line) {
      const tile = this.tiles.kind ? this.tiles.at(column, line) : -1;
      if (tile < 0) return null;
      const record = this.tiles.record(tile, column, line);
      const { lat, lng } = this.lattice.latLng(column + 0.5, line + 0.5);
      return { ...record, class: this.data.classes[record.kind].name, lat, lng };
    }

    open(tile) {
      this.state.selected = tile;
      this.state.cursor = tile.cell;
      this.outline(...tile.cell);
      this.fillCard(tile);
      $("card").hidden = false;
      $("card").scrollTop = 0;
      if (NARROW.matches) this.fold(true);
      this.reveal(...tile.cell);
      this.say(tile);
      this.tiles.load(tile.tile).then((fresh) => fresh && this.state.selected?.tile === tile.tile && this.open(this.tileIn(...tile.cell)));
    }

    fillCard(tile) {
      $("card-swatch").style.setProperty("--swatch", this.colourOf(tile.kind));
      $("card-class").textContent = tile.class;
      $("card-confidence").textContent = `Confidence ${percent(tile.confidence)}`;
      const order = (tile.probabilities || []).map((_, kind) => kind);
      // The tile's class leads even where rounding made a tie.
      order.sort((a, b) => tile.probabilities[b] - tile.probabilities[a] || (b === tile.kind) - (a === tile.kind) || a - b);
      const bars = order.map((kind) => {
        const row = element("li");
        row.style.setProperty("--swatch", this.colourOf(kind));
        const bar = element("span", "gc-bar");
        bar.appendChild(element("i")).style.width = `${tile.probabilities[kind] * 100}%`;
        row.append(element("span", "gc-name", this.data.classes[kind].name), bar, element("span", "", percent(tile.probabilities[kind])));
        return row;
      });
      $("bars").replaceChildren(...bars);
      const lng = ((((tile.lng + 180) % 360) + 360) % 360) - 180;
      const facts = [["Tile", tile.id], ["Centre", `${tile.lat.toFixed(5)}, ${lng.toFixed(5)}`]];
      if (tile.valid !== null) facts.push(["With data", `${percent(tile.valid)} of the tile`]);
      $("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", "", name), element("dd", name === "Tile" ? "gc-id" : "", value)]));
    }

    say(tile) {
      $("live").textContent = tile ? `${tile.class}, confidence ${percent(tile.confidence)}, tile ${tile.id}` : "No tile here";
    }
  }

  register("webmap", Page);
})();
