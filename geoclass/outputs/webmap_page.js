/* What the map pages share: a Leaflet map with its buttons, outlines of areas, a panel that folds, the tile cursor
   and the keyboard. A page of its own kind is a class that extends MapPage and joins `geoclassStart`. */
const geoclassStart = {};
const geoclassPage = (() => {
  "use strict";

  const { WORLD, Lattice, canvasOf, clamp, decode } = geoclassGrid;
  const NARROW = matchMedia("(max-width: 640px)");
  const CALM = matchMedia("(prefers-reduced-motion: reduce)").matches;
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
  /** The colour as canvas image data holds it, on little-endian machines (all that run browsers). */
  const packed = ([red, green, blue], alpha = 1) => ((Math.round(alpha * 255) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  const inkOn = (colour) => {
    const [red, green, blue] = rgb(colour);
    return red * 0.299 + green * 0.587 + blue * 0.114 > 140 ? "#1c2629" : "#ffffff";
  };

  /** A picture's data decoded onto a canvas, once, not at every redraw. */
  async function canvasFrom(source) {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = canvasOf(image.naturalWidth, image.naturalHeight);
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas;
  }

  /** One map page. A kind of page gives `panes`, `zoomSnap`, `tileIn`, `open`, `say`, and more of its own. */
  class MapPage {
    constructor(container, data, cells) {
      Object.assign(this, { data, tiles: cells });
      this.lattice = new Lattice(data.lattice.steps, decode(data.lattice.points, Float64Array), cells.columns, cells.rows);
      this.state = { selected: null, cursor: null };
      this.map = this.makeMap(container);
      this.marks = L.layerGroup().addTo(this.map);
    }

    makeMap(container) {
      const side = this.lattice.latLng(0, 0).distanceTo(this.lattice.latLng(1, 0));
      const latitude = this.lattice.latLng(0.5, 0.5).lat;
      // Deep enough that a tile is some 500 px wide; background maps have nothing beyond zoom 19.
      const deepest = Math.log2((500 * 40075017 * Math.cos((latitude * Math.PI) / 180)) / WORLD / side);
      const map = L.map(container, {
        keyboard: false, zoomControl: false, zoomSnap: this.zoomSnap, zoomDelta: 1, wheelPxPerZoomLevel: 100,
        minZoom: 2, maxZoom: clamp(Math.round(deepest), 4, 19), zoomAnimation: !CALM, fadeAnimation: !CALM, inertia: !CALM,
      });
      map.attributionControl.setPrefix('<a href="https://leafletjs.com">Leaflet</a>');
      map.attributionControl.addAttribution("geoclass");
      for (const [name, depth] of Object.entries({ ...this.panes, marks: 450 })) map.createPane(name).style.zIndex = depth;
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

    /** The outlines of areas; where the page has `pickArea(number)`, outlines and names answer to it. */
    makeAois() {
      const group = L.layerGroup();
      const permanent = this.data.aois.length <= MANY_AOIS;
      const answers = Boolean(this.pickArea);
      const style = { fill: false, pane: "marks" };
      this.outlines = this.data.aois.map(({ name, lines, at }, number) => {
        const casing = L.polyline(lines, { ...style, interactive: false, color: "#ffffff", weight: 5, opacity: 0.85 }).addTo(group);
        const line = L.polyline(lines, { ...style, interactive: answers || !permanent, color: "#14201f", weight: 2 }).addTo(group);
        const pick = (event) => {
          L.DomEvent.stop(event);
          this.pickArea(number);
        };
        if (answers) line.on("click", pick);
        if (!name) return [casing, line];
        const content = element("span", "", name);
        const look = { className: "gc-aoi", direction: "center" };
        if (permanent) {
          const label = L.tooltip(at, { ...look, content, permanent, interactive: answers }).addTo(group);
          if (answers) label.on("click", pick);
        } else line.bindTooltip(content, { ...look, sticky: true });
        return [casing, line];
      });
      return group;
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

    fold(folded) {
      $("panel").classList.toggle("gc-folded", folded);
      $("fold").setAttribute("aria-expanded", String(!folded));
      this.measure();
    }

    measure() {
      const sheet = NARROW.matches ? $("panel").querySelector(".gc-head").offsetHeight : 0;
      this.map.getContainer().parentElement.style.setProperty("--sheet", `${sheet}px`);
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

  /** How a kind of page starts: `geoclassStart.kind(id)` makes it and returns its Leaflet map. */
  function register(kind, Page) {
    geoclassStart[kind] = (id) => {
      const page = new Page(document.getElementById(id), JSON.parse(document.getElementById(id + "-data").textContent), id);
      L.Icon.Default.mergeOptions(page.data.icons); // for markers that a notebook adds
      // For tests and for the curious: what the page knows, by place.
      window.geoclass = {
        map: page.map, state: page.state, page, ready: performance.now(),
        tileAt: (lat, lng) => page.tileAt([lat, lng]), tileIn: (column, line) => page.tileIn(column, line),
      };
      return page.map;
    };
  }

  return { $, NARROW, CALM, DASH, MapPage, register, element, canvasFrom, percent, shareText, hectaresUnder, rgb, packed, inkOn };
})();
