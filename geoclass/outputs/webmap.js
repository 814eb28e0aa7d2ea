/* The map page of one geoclass result: map, legend, tile card. `geoclassMap(id)` starts it, returns its Leaflet map. */
const geoclassMap = (() => {
  "use strict";

  const { WORLD, Lattice, Tiles, PatchLayer, canvasOf, clamp, decode } = geoclassGrid;
  const NARROW = matchMedia("(max-width: 640px)");
  const CALM = matchMedia("(prefers-reduced-motion: reduce)").matches;
  // Viridis (van der Walt & Smith 2015): even steps of lightness, readable without red-green vision and in grey.
  const RAMP = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
  const BINS = 25;
  const MANY_AOIS = 12; // more names than this show only under the pointer

  const $ = (name) => document.getElementById("gc-" + name);
  const DASH = "–";
  const percent = (share) => (share > 0 && share < 0.005 ? "<1%" : share < 1 && share >= 0.995 ? ">99%" : `${Math.round(share * 100)}%`);
  const shareText = (share) => (share === 0 ? DASH : share < 0.0005 ? "<0.1%" : `${(share * 100).toFixed(1)}%`);

  /** How to write hectares where they sum up to `total`: all of one table with the same decimals. */
  function hectaresUnder(total) {
    const digits = total < 1000 ? 1 : 0;
    const least = 10 ** -digits;
    const format = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return (value) => (value === 0 ? DASH : value < least / 2 ? `<${least}` : value.toLocaleString("en-GB", format));
  }

  /** A new element; text is set as text, so that names out of data stay names. */
  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  /** The colour as canvas image data holds it, opaque, on little-endian machines (all that run browsers). */
  const packed = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  const inkOn = (colour) => {
    const [red, green, blue] = rgb(colour);
    return red * 0.299 + green * 0.587 + blue * 0.114 > 140 ? "#1c2629" : "#ffffff";
  };

  function rampColour(share) {
    const at = clamp(share, 0, 1) * (RAMP.length - 1);
    const low = Math.min(Math.floor(at), RAMP.length - 2);
    const [from, to] = [rgb(RAMP[low]), rgb(RAMP[low + 1])];
    return from.map((value, i) => Math.round(value + (to[i] - value) * (at - low)));
  }

  /** One map page: holds the state, keeps map, legend and tile card in step with it. */
  class Page {
    constructor(container, data) {
      this.data = data;
      this.tiles = new Tiles(data.tiles, data.classes.length);
      const { columns, rows } = this.tiles;
      this.lattice = new Lattice(data.lattice.steps, decode(data.lattice.points, Float64Array), columns, rows);
      this.state = {
        view: "class", colours: "colour", spot: -1, opacity: data.opacity,
        shown: data.classes.map(() => true), selected: null, cursor: null,
      };
      this.map = this.makeMap(container);
      this.makeLayers();
      this.makeLegend();
      this.makeOptions();
      this.makeCard();
      this.listen(container);
      this.fold(NARROW.matches);
      this.paint();
      this.fit();
    }

    makeMap(container) {
      const side = this.lattice.latLng(0, 0).distanceTo(this.lattice.latLng(1, 0));
      const latitude = this.lattice.latLng(0.5, 0.5).lat;
      // Deep enough that a tile is some 500 px wide; background maps have nothing beyond zoom 19.
      const deepest = Math.log2((500 * 40075017 * Math.cos((latitude * Math.PI) / 180)) / WORLD / side);
      const map = L.map(container, {
        keyboard: false, zoomControl: false, zoomSnap: this.data.basemaps.length ? 1 : 0.25, zoomDelta: 1, wheelPxPerZoomLevel: 100,
        minZoom: 2, maxZoom: clamp(Math.round(deepest), 4, 19), zoomAnimation: !CALM, fadeAnimation: !CALM, inertia: !CALM,
      });
      map.attributionControl.setPrefix('<a href="https://leafletjs.com">Leaflet</a>');
      map.attributionControl.addAttribution("geoclass");
      for (const [name, depth] of [["preview", 250], ["classes", 300], ["marks", 450]]) map.createPane(name).style.zIndex = depth;
      L.control.zoom({ position: "topright" }).addTo(map);
      this.addButtons(map);
      L.control.scale({ position: "bottomright", imperial: false, maxWidth: 140 }).addTo(map);
      map.fitBounds(this.lattice.bounds, { animate: false });
      return map;
    }

    addButtons(map) {
      const control = L.control({ position: "topright" });
      control.onAdd = () => {
        const bar = element("div", "leaflet-bar");
        const add = (label, content, act) => {
          const link = bar.appendChild(element("a"));
          Object.assign(link, { href: "#", title: label });
          link.setAttribute("role", "button");
          link.setAttribute("aria-label", label);
          link.append(content);
          L.DomEvent.on(link, "click", L.DomEvent.stop).on(link, "click", act).disableClickPropagation(link);
        };
        const icon = new DOMParser().parseFromString(
          '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" aria-hidden="true"><path d="M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10"/></svg>',
          "image/svg+xml").documentElement;
        add("Whole map", document.importNode(icon, true), () => this.fit());
        add("Help", "?", () => $("help").showModal());
        return bar;
      };
      control.addTo(map);
    }

    makeLayers() {
      const { columns, rows } = this.tiles;
      this.raster = canvasOf(columns, rows);
      this.pixels = this.raster.getContext("2d").createImageData(columns, rows);
      this.classes = new PatchLayer(this.lattice, this.raster, { pane: "classes", crisp: true, opacity: this.state.opacity }).addTo(this.map);
      this.marks = L.layerGroup().addTo(this.map);
      if (this.data.preview) this.addPreview(this.data.preview);
      if (this.data.aois.length) this.aois = this.makeAois().addTo(this.map);
    }

    async addPreview(source) {
      const image = new Image();
      image.src = source;
      await image.decode();
      const canvas = canvasOf(image.naturalWidth, image.naturalHeight);
      canvas.getContext("2d").drawImage(image, 0, 0); // decoded once, not at every redraw
      this.preview = new PatchLayer(this.lattice, canvas, { pane: "preview" });
      if (this.previewWanted !== false) this.preview.addTo(this.map);
    }

    makeAois() {
      const group = L.layerGroup();
      const permanent = this.data.aois.length <= MANY_AOIS;
      const style = { fill: false, pane: "marks" };
      for (const { name, lines, at } of this.data.aois) {
        L.polyline(lines, { ...style, interactive: false, color: "#ffffff", weight: 5, opacity: 0.85 }).addTo(group);
        const line = L.polyline(lines, { ...style, interactive: !permanent, color: "#14201f", weight: 2 }).addTo(group);
        if (!name) continue;
        const content = element("span", "", name);
        const look = { className: "gc-aoi", direction: "center" };
        if (permanent) L.tooltip(at, { ...look, content, permanent, interactive: false }).addTo(group);
        else line.bindTooltip(content, { ...look, sticky: true });
      }
      return group;
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
      const { floor } = this.data;
      const ramp = Array.from({ length: 256 }, (_, byte) => packed(rampColour((byte / 255 - floor) / (1 - floor))));
      const colour = view === "class" ? (tile) => flat[kind[tile]] : (tile) => (visible[kind[tile]] ? ramp[confidence[tile]] : 0);
      this.tiles.paint(new Uint32Array(this.pixels.data.buffer), colour);
      this.raster.getContext("2d").putImageData(this.pixels, 0, 0);
      this.classes.redraw();
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
      this.makeRamp();
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
      const sorted = this.tiles.confidence.slice().sort();
      for (const byte of sorted) bins[clamp(Math.floor(((byte / 255 - floor) / (1 - floor)) * BINS), 0, BINS - 1)]++;
      const most = Math.max(...bins);
      for (const count of bins) $("bins").appendChild(element("i")).style.height = `${(100 * count) / most}%`;
      $("gradient").style.background = `linear-gradient(to right, ${RAMP.join(", ")})`;
      for (let k = 0; k <= 2; k++) $("ticks").append(element("span", "", percent(floor + ((1 - floor) * k) / 2)));
      const median = sorted[Math.floor(sorted.length / 2)] / 255;
      $("median").textContent = `Probability of the class shown. Half of the tiles reach ${percent(median)}.`;
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

    addSwitch(type, text, checked, change, note) {
      const label = $("layers").appendChild(element("label"));
      const input = label.appendChild(element("input"));
      Object.assign(input, { type, checked, name: type === "radio" ? "gc-basemap" : "" });
      const caption = label.appendChild(element("span", "", text));
      if (note) caption.append(" ", element("small", "", note));
      input.addEventListener("change", () => change(input.checked));
      return input;
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

    fold(folded) {
      $("panel").classList.toggle("gc-folded", folded);
      $("fold").setAttribute("aria-expanded", String(!folded));
      this.measure();
    }

    measure() {
      const sheet = NARROW.matches ? $("panel").querySelector(".gc-head").offsetHeight : 0;
      this.map.getContainer().style.setProperty("--sheet", `${sheet}px`);
    }

    // The tile card, the cursor and the keyboard

    makeCard() {
      $("close").addEventListener("click", () => {
        this.close();
        this.map.getContainer().focus({ preventScroll: true });
      });
    }

    /** The tile at a place: id, class, probabilities in the scheme's order, and so on; null where there is none. */
    tileAt(latLng) {
      const cell = this.lattice.locate(L.latLng(latLng));
      return cell && this.tileIn(Math.floor(cell[0]), Math.floor(cell[1]));
    }

    tileIn(column, line) {
      const tile = this.tiles.at(column, line);
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
    }

    fillCard(tile) {
      $("card-swatch").style.setProperty("--swatch", this.colourOf(tile.kind));
      $("card-class").textContent = tile.class;
      $("card-confidence").textContent = `Confidence ${percent(tile.confidence)}`;
      const order = tile.probabilities.map((_, kind) => kind);
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
      const facts = [["Tile", tile.id], ["Centre", `${tile.lat.toFixed(5)}, ${lng.toFixed(5)}`], ["With data", `${percent(tile.valid)} of the tile`]];
      $("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", "", name), element("dd", name === "Tile" ? "gc-id" : "", value)]));
    }

    close() {
      $("card").hidden = true;
      this.state.selected = null;
      this.state.cursor = null;
      this.marks.clearLayers();
    }

    outline(column, line) {
      const corners = [[0, 0], [1, 0], [1, 1], [0, 1]].map(([c, l]) => this.lattice.latLng(column + c, line + l));
      const style = { interactive: false, fill: false, pane: "marks", lineJoin: "miter" };
      this.marks.clearLayers();
      const [from, to] = [corners[0], corners[2]].map((corner) => this.map.latLngToLayerPoint(corner));
      const middle = this.lattice.latLng(column + 0.5, line + 0.5);
      // A tile of a few pixels is marked by a ring around it.
      const shape = (look) => (from.distanceTo(to) < 16 ? L.circleMarker(middle, { ...look, radius: 10 }) : L.polygon(corners, look));
      shape({ ...style, color: "#ffffff", weight: 5 }).addTo(this.marks);
      shape({ ...style, color: "#101818", weight: 2 }).addTo(this.marks);
    }

    /** What panels cover of the map, as [left, top, right, bottom] in pixels. */
    insets() {
      const [panel, card] = [$("panel"), $("card")];
      if (NARROW.matches) return [12, 12, 12, Math.max(panel.querySelector(".gc-head").offsetHeight, card.hidden ? 0 : card.offsetHeight) + 12];
      const wide = this.map.getSize().x > 720 && !panel.classList.contains("gc-folded");
      return [wide ? panel.offsetWidth + 28 : 16, 16, card.hidden ? 16 : card.offsetWidth + 76, 36];
    }

    reveal(column, line) {
      const [left, top, right, bottom] = this.insets();
      this.map.panInside(this.lattice.latLng(column + 0.5, line + 0.5), { paddingTopLeft: [left + 30, top + 30], paddingBottomRight: [right + 30, bottom + 30] });
    }

    fit() {
      const [left, top, right, bottom] = this.insets();
      this.map.fitBounds(this.lattice.bounds, { paddingTopLeft: [left, top], paddingBottomRight: [right, bottom], animate: false });
    }

    say(tile) {
      $("live").textContent = tile ? `${tile.class}, confidence ${percent(tile.confidence)}, tile ${tile.id}` : "No tile here";
    }

    moveCursor(right, down) {
      const from = this.state.cursor || (this.lattice.locate(this.map.getCenter()) || [0, 0]).map(Math.floor);
      const step = this.state.cursor ? [right, down] : [0, 0];
      const cell = [clamp(from[0] + step[0], 0, this.tiles.columns - 1), clamp(from[1] + step[1], 0, this.tiles.rows - 1)];
      const tile = this.tileIn(...cell);
      if (this.state.selected && tile) return this.open(tile);
      this.close();
      this.state.cursor = cell;
      this.outline(...cell);
      this.reveal(...cell);
      this.say(tile);
    }

    onKey(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const far = event.shiftKey ? 10 : 1;
      const moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
      const { cursor } = this.state;
      if (moves[event.key]) this.moveCursor(...moves[event.key]);
      else if (event.key === "Enter" || event.key === " ") {
        const tile = cursor && this.tileIn(...cursor);
        if (tile) this.open(tile);
        else this.moveCursor(0, 0);
      } else if (event.key === "+" || event.key === "=") this.map.zoomIn();
      else if (event.key === "-") this.map.zoomOut();
      else if (event.key === "0") this.fit();
      else return;
      event.preventDefault();
    }

    onEscape() {
      const { cursor, selected } = this.state;
      const inside = $("card").contains(document.activeElement);
      this.close();
      if (inside) this.map.getContainer().focus({ preventScroll: true });
      if (!selected) return;
      this.state.cursor = cursor; // the first Escape leaves the cursor where it is
      this.outline(...cursor);
    }

    listen(container) {
      this.map.on("click", ({ latlng }) => {
        container.focus({ preventScroll: true });
        const tile = this.tileAt(latlng);
        if (tile) this.open(tile);
        else this.close();
      });
      this.map.on("zoomend", () => this.state.cursor && this.outline(...this.state.cursor));
      container.addEventListener("keydown", (event) => event.target === container && this.onKey(event));
      document.addEventListener("keydown", (event) => event.key === "Escape" && !$("help").open && this.onEscape());
      const toggle = () => this.fold(!$("panel").classList.contains("gc-folded"));
      $("panel").querySelector(".gc-head").addEventListener("click", (event) => {
        if (NARROW.matches || event.target.closest("#gc-fold")) toggle();
      });
      NARROW.addEventListener("change", () => this.fold(NARROW.matches));
      // A notebook may show its frame only later: fit once there is something to fit to.
      let seen = container.clientWidth > 0;
      new ResizeObserver(() => {
        this.map.invalidateSize();
        this.measure();
        if (!seen && container.clientWidth > 0) {
          seen = true;
          this.fit();
        }
      }).observe(container);
    }
  }

  return (id) => {
    const page = new Page(document.getElementById(id), JSON.parse(document.getElementById(id + "-data").textContent));
    L.Icon.Default.mergeOptions(page.data.icons); // for markers that a notebook adds
    // For tests and for the curious: what the page knows, by place.
    window.geoclass = {
      map: page.map, state: page.state, page, ready: performance.now(),
      tileAt: (lat, lng) => page.tileAt([lat, lng]), tileIn: (column, line) => page.tileIn(column, line),
    };
    return page.map;
  };
})();
