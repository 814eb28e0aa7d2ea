/* Drawing for the accuracy report: elements, number formats, and charts as SVG. Text is always set as text. */
const geoclassCharts = (() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const DASH = "–";

  function fill(made, props, children) {
    for (const [name, value] of Object.entries(props || {})) {
      if (name === "style") for (const [key, part] of Object.entries(value)) made.style.setProperty(key, part);
      else if (name === "on") for (const [event, call] of Object.entries(value)) made.addEventListener(event, call);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== undefined && value !== null) made.setAttribute(name, value);
    }
    made.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
    return made;
  }
  const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
  const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

  const known = (value) => value !== null && value !== undefined;
  const percent = (value) => (known(value) ? (100 * value).toFixed(1) : DASH);
  const number = (value, digits = 3) => (known(value) ? value.toFixed(digits).replace("-", "−") : DASH);
  const count = (value) => value.toLocaleString("en-GB");
  const range = (estimate, write = percent) => (known(estimate.low) ? `${write(estimate.low)} to ${write(estimate.high)}` : "");
  const pvalue = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(3));

  /** A line for the interval of an estimate and a dot for its value, from `least` to 1. */
  function whisker(estimate, least = 0, width = 96) {
    if (!known(estimate.value)) return s("svg", { class: "whisker", viewBox: `0 0 ${width} 14`, width, height: 14, "aria-hidden": "true" });
    const at = (value) => 4 + (width - 8) * Math.min(1, Math.max(0, (value - least) / (1 - least)));
    return s("svg", { class: "whisker", viewBox: `0 0 ${width} 14`, width, height: 14, "aria-hidden": "true" },
      s("line", { x1: 4, x2: width - 4, y1: 7, y2: 7, class: "rail" }),
      known(estimate.low) && s("line", { x1: at(estimate.low), x2: at(estimate.high), y1: 7, y2: 7, class: "span" }),
      s("circle", { cx: at(estimate.value), cy: 7, r: 3.5, class: "dot" }));
  }

  const BOX = { left: 46, top: 10, right: 10, bottom: 44, width: 420, height: 370 };
  const TICKS = [0, 0.25, 0.5, 0.75, 1];

  /** Axes from 0 to 1 with words; returns the SVG and functions from shares to places. */
  function frame(label, across, up, box = BOX) {
    const x = (value) => box.left + value * (box.width - box.left - box.right);
    const y = (value) => box.height - box.bottom - value * (box.height - box.top - box.bottom);
    const svg = s("svg", { class: "chart", viewBox: `0 0 ${box.width} ${box.height}`, role: "img", "aria-label": label },
      TICKS.map((tick) => [
        s("line", { x1: x(tick), x2: x(tick), y1: y(0), y2: y(1), class: tick ? "grid" : "axis" }),
        s("line", { x1: x(0), x2: x(1), y1: y(tick), y2: y(tick), class: tick ? "grid" : "axis" }),
        s("text", { x: x(tick), y: y(0) + 17, "text-anchor": "middle" }, `${tick * 100}`),
        s("text", { x: x(0) - 7, y: y(tick) + 4, "text-anchor": "end" }, `${tick * 100}`),
      ]),
      s("text", { x: (x(0) + x(1)) / 2, y: box.height - 6, "text-anchor": "middle", class: "label" }, across),
      s("text", { x: 0, y: 0, transform: `translate(12 ${(y(0) + y(1)) / 2}) rotate(-90)`, "text-anchor": "middle", class: "label" }, up));
    return { svg, x, y };
  }

  const places = (points, x, y) => points[0].map((value, k) => [x(value), y(points[1][k])]);
  const path = (dots) => "M" + dots.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L");
  /** Between two points a precision–recall curve steps, for no threshold lies between them. */
  const steps = (dots) => dots.flatMap((dot, k) => (k ? [[dots[k - 1][0], dot[1]], dot] : [dot]));

  /** Curves of classes: lines = [{points: [x[], y[]], colour, name, area}]. `pick(k)` brings one out, −1 none. */
  function curves({ label, across, up, lines, stepped, chance }) {
    const { svg, x, y } = frame(label, across, up);
    if (chance) svg.append(s("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), class: "chance" }));
    const drawn = lines.map((line) => {
      if (!line.points[0].length) return null;
      const dots = places(line.points, x, y);
      const d = path(stepped ? steps(dots) : dots);
      return s("g", { class: "line" }, s("path", { d, class: "casing" }), s("path", { d, class: "ink", style: { stroke: line.colour } }), s("title", {}, line.name));
    });
    svg.append(...drawn.filter(Boolean));
    const pick = (chosen) => {
      drawn.forEach((line, k) => line && line.classList.toggle("dim", chosen >= 0 && k !== chosen));
      if (drawn[chosen]) svg.append(drawn[chosen]); // the last is drawn on top
    };
    return { svg, pick };
  }

  /** Accuracy in bins of confidence over a histogram of confidence; `before` are hollow dots. */
  function reliability(after, before) {
    const bins = after.tiles.length;
    const { svg, x, y } = frame("Accuracy against confidence", "Confidence, %", "Accuracy, %");
    svg.append(s("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), class: "chance" }));
    after.tiles.forEach((tiles, k) => {
      if (!tiles) return;
      const [left, right] = [x(k / bins) + 1, x((k + 1) / bins) - 1];
      const [low, high] = [after.accuracy[k], after.confidence[k]].sort((a, b) => a - b);
      const words = `${count(tiles)} tiles: confidence ${percent(after.confidence[k])} %, right ${percent(after.accuracy[k])} %`;
      svg.append(
        s("rect", { x: left, width: right - left, y: y(after.accuracy[k]), height: y(0) - y(after.accuracy[k]), class: "accuracy" }, s("title", {}, words)),
        s("rect", { x: left, width: right - left, y: y(high), height: Math.max(0, y(low) - y(high)), class: "gap" }, s("title", {}, words)));
    });
    if (before) {
      const kept = [...before.tiles.keys()].filter((k) => before.tiles[k]);
      const dots = kept.map((k) => [x(before.confidence[k]), y(before.accuracy[k])]);
      svg.append(s("path", { d: path(dots), class: "before" }), ...dots.map(([cx, cy]) => s("circle", { cx, cy, r: 3.5, class: "before" })));
    }
    return h("div", { class: "stack" }, svg, histogram(after.tiles, x));
  }

  function histogram(tiles, x) {
    const [height, base] = [92, 70];
    const most = Math.max(...tiles, 1);
    const svg = s("svg", { class: "chart", viewBox: `0 0 ${BOX.width} ${height}`, role: "img", "aria-label": "How many tiles have which confidence" },
      s("line", { x1: x(0), x2: x(1), y1: base, y2: base, class: "axis" }),
      s("text", { x: (x(0) + x(1)) / 2, y: height - 4, "text-anchor": "middle", class: "label" }, "Tiles in each bin of confidence"));
    tiles.forEach((value, k) => {
      if (!value) return;
      const size = Math.max(1, (value / most) * (base - 6));
      const left = x(k / tiles.length) + 1;
      svg.append(s("rect", { x: left, width: x((k + 1) / tiles.length) - 1 - left, y: base - size, height: size, class: "bin" }, s("title", {}, `${count(value)} tiles`)));
    });
    return svg;
  }

  /** Dark or white text, whichever is easier to read on `colour` laid over white with `depth` (WCAG's luminance). */
  function inkOn(colour, depth) {
    const part = (value) => { const share = (255 + (value - 255) * depth) / 255; return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4; };
    const light = 0.2126 * part(colour[0]) + 0.7152 * part(colour[1]) + 0.0722 * part(colour[2]);
    return 1.05 / (light + 0.05) > (light + 0.05) / 0.068 ? "#ffffff" : "#1c2629";
  }

  /** The map of tile centres on a canvas, fitted to its width; north is up. */
  class Dots {
    constructor(canvas, tiles) {
      this.canvas = canvas;
      this.tiles = tiles;
      const ends = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
      const train = tiles.train || [];
      [this.west, this.east] = ends([...tiles.x, ...train.map((at) => at[0])].map(Number));
      [this.south, this.north] = ends([...tiles.y, ...train.map((at) => at[1])].map(Number));
      this.state = { wrong: [], only: false, chosen: -1 };
      const [wide, high] = [Math.max(0, 1000 - (this.east - this.west)) / 2, Math.max(0, 500 - (this.north - this.south)) / 2];
      Object.assign(this, { west: this.west - wide, east: this.east + wide, south: this.south - high, north: this.north + high });
    }

    draw(state) {
      Object.assign(this.state, state);
      const { canvas, tiles } = this;
      const [wide, high] = [this.east - this.west, this.north - this.south];
      const room = canvas.parentElement.clientWidth;
      const width = Math.max(160, matchMedia("(max-width: 700px)").matches ? room : room - 276); // beside the tile's facts
      const margin = 22;
      const height = Math.min(620, Math.max(200, (high / wide) * (width - 2 * margin) + 2 * margin + 22));
      this.scale = Math.min((width - 2 * margin) / wide, (height - 22 - 2 * margin) / high);
      this.left = (width - wide * this.scale) / 2;
      this.top = (height - 22 - high * this.scale) / 2;
      const ratio = window.devicePixelRatio || 1;
      this.base = document.createElement("canvas");
      for (const sheet of [canvas, this.base]) Object.assign(sheet, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      const pen = this.base.getContext("2d");
      pen.scale(ratio, ratio);
      const radius = this.radius = Math.min(5, Math.max(1.1, 0.36 * Math.sqrt((wide * high * this.scale ** 2) / tiles.keys.length)));
      if (tiles.train) {
        pen.fillStyle = "#dfe3df";
        for (const at of tiles.train) pen.fillRect(...this.place(at[0], at[1]).map((value) => value - radius / 2), radius, radius);
      }
      if (!this.state.only) {
        pen.fillStyle = "#6fa8b6";
        this.each(false, (x, y) => { pen.beginPath(); pen.arc(x, y, radius * 0.8, 0, 7); pen.fill(); });
      }
      this.crosses(pen, radius);
      this.ruler(pen, width, height);
      this.ring(this.state.chosen);
    }

    get dense() {
      return this.radius < 1.9;
    }

    /** Shows the drawn map with a ring around one tile (−1: none). */
    ring(chosen) {
      this.state.chosen = chosen;
      const ratio = window.devicePixelRatio || 1;
      const pen = this.canvas.getContext("2d");
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.clearRect(0, 0, this.base.width, this.base.height);
      pen.drawImage(this.base, 0, 0);
      if (chosen < 0) return;
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      Object.assign(pen, { strokeStyle: "#1c2629", lineWidth: 2.5 });
      pen.beginPath();
      pen.arc(...this.place(this.tiles.x[chosen], this.tiles.y[chosen]), this.radius + 5, 0, 7);
      pen.stroke();
    }

    /** Mistakes differ from hits by shape and darkness, not by colour alone. */
    crosses(pen, radius) {
      if (this.dense) { // crosses would hide their neighbours
        pen.fillStyle = "#b3330a";
        this.each(true, (x, y) => pen.fillRect(x - radius, y - radius, 2 * radius, 2 * radius));
        return;
      }
      const arm = Math.max(2, radius * 1.05);
      for (const [colour, width] of [["#ffffff", arm > 3 ? 3.6 : 0], ["#b3330a", Math.max(1.2, arm * 0.45)]]) {
        if (!width) continue;
        pen.strokeStyle = colour;
        pen.lineWidth = width;
        pen.beginPath();
        this.each(true, (x, y) => { pen.moveTo(x - arm, y - arm); pen.lineTo(x + arm, y + arm); pen.moveTo(x - arm, y + arm); pen.lineTo(x + arm, y - arm); });
        pen.stroke();
      }
    }

    each(wrong, call) {
      this.tiles.keys.forEach((_, k) => { if (this.state.wrong[k] === wrong) call(...this.place(this.tiles.x[k], this.tiles.y[k])); });
    }

    place(x, y) {
      return [this.left + (x - this.west) * this.scale, this.top + (this.north - y) * this.scale];
    }

    /** A bar of a round length in metres or kilometres. */
    ruler(pen, width, height) {
      const most = (width * 0.3) / this.scale;
      const power = 10 ** Math.floor(Math.log10(most));
      const length = [5, 2, 1].map((times) => times * power).find((value) => value <= most);
      const [left, line] = [14, height - 10];
      pen.strokeStyle = pen.fillStyle = "#1c2629";
      pen.lineWidth = 2;
      pen.beginPath();
      pen.moveTo(left, line - 6); pen.lineTo(left, line); pen.lineTo(left + length * this.scale, line); pen.lineTo(left + length * this.scale, line - 6);
      pen.stroke();
      pen.font = "12px system-ui, sans-serif";
      pen.fillText(length >= 1000 ? `${length / 1000} km` : `${length} m`, left + length * this.scale + 8, line + 2);
    }

    /** The tile nearest to a place on the canvas, at most 24 px away, else −1. */
    near(x, y) {
      let [best, least] = [-1, 24 ** 2];
      this.tiles.keys.forEach((_, k) => {
        if (this.state.only && !this.state.wrong[k]) return;
        const [a, b] = this.place(this.tiles.x[k], this.tiles.y[k]);
        const far = (a - x) ** 2 + (b - y) ** 2;
        if (far < least) [best, least] = [k, far];
      });
      return best;
    }
  }

  return { h, s, known, percent, number, count, range, pvalue, whisker, curves, reliability, inkOn, Dots, DASH };
})();
