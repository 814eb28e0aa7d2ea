/* The change map: dates, comparison, legend, filters, areas, and a tile's history. */
(() => {
  "use strict";

  const { canvasOf, clamp, decode } = geoclassGrid;
  const { ChangeTiles, Side } = geoclassChange;
  const { $, NARROW, DASH, MapPage, register, element, canvasFrom, percent, shareText, hectaresUnder, rgb, packed, inkOn } = geoclassPage;
  const STEP_MS = 1300; // how long each date is shown while they play
  const FAINT = 0.25;
  const AROUND = 1; // tiles shown around the one in a card's pictures
  const WORDS = { change: "Change", classes: "Classes", imagery: "Imagery" };

  class Page extends MapPage {
    constructor(container, data, id) {
      super(container, data, new ChangeTiles(data.tiles, data.dates.length, data.classes.length));
      const last = data.dates.length - 1;
      Object.assign(this.state, {
        mode: "one", opacity: data.opacity, imagery: true, at: null, playing: false, area: -1, least: 0,
        shown: data.categories.map(() => true), kinds: data.kinds.map(() => true),
      });
      this.pictures = [];
      this.least = (tile) => (this.newBuilt[this.tiles.category[tile]] ? this.tiles.built[tile] : this.tiles.change[tile]);
      this.newBuilt = data.categories.map(({ key }) => key === "new_built" || key === "maybe_built");
      this.still = data.categories.map(({ key }) => key === "stable");
      this.colours = data.categories.map(({ colour, key }) => packed(rgb(colour), key === "flicker" ? FAINT : 1));
      this.sides = [new Side(this, "left"), new Side(this, "right")];
      const pictured = data.pictures.some(Boolean);
      Object.assign(this.sides[0], { what: pictured ? "imagery" : "classes", date: 0 });
      Object.assign(this.sides[1], { what: pictured ? "imagery" : "classes", date: last });
      this.one = { what: "change", date: last };
      this.pair = this.sides.map(({ what, date }) => ({ what, date }));
      if (data.aois.length) this.makeAreas();
      this.makeHead();
      this.makeViews();
      this.makeLegends();
      this.makeFilters();
      this.makeOptions();
      this.makeDivider();
      this.makeCard();
      this.listen(container);
      this.hover(container);
      this.fold(NARROW.matches);
      this.count();
      this.arrange();
      this.fit();
      // The probabilities are the bulk of the page and only cards need them: unpacked after the first drawing.
      this.details = new Promise((settle) => setTimeout(settle, 30))
        .then(() => this.tiles.unpack(document.getElementById(`${id}-later`).textContent))
        .catch(() => { this.failed = true; })
        .then(() => this.state.selected && this.fillCard(this.state.selected));
      this.follow();
      window.addEventListener("hashchange", () => this.follow());
    }

    get panes() {
      return { "left-picture": 240, "left-tiles": 300, "right-picture": 241, "right-tiles": 301 };
    }

    get zoomSnap() {
      return 0.25;
    }

    pictureOf(date) {
      this.pictures[date] ||= canvasFrom(this.data.pictures[date]);
      return this.pictures[date];
    }

    // What is drawn

    /** Whether the filters let a tile through; the boxes of the legend and the kinds can be left aside. */
    passes(tile) {
      return this.least(tile) >= this.state.least * 255;
    }

    colouring(what, date, bare) {
      const { tiles, state, data } = this;
      if (what === "classes") {
        const flat = data.classes.map(({ colour }) => packed(rgb(colour)));
        const from = date * tiles.count;
        return (tile) => flat[tiles.classes[from + tile]];
      }
      const ground = bare ? packed(rgb(matchMedia("(prefers-color-scheme: dark)").matches ? "#2f383b" : "#dde1dd")) : 0;
      const { category, kind } = tiles;
      return (tile) => {
        const at = category[tile];
        return this.still[at] || !state.shown[at] || !state.kinds[kind[tile]] || !this.passes(tile) ? ground : this.colours[at];
      };
    }

    paint() {
      for (const side of this.sides) side.paint();
    }

    /** Bring both sides, panel and divider in step with the chosen views. */
    arrange() {
      const { mode } = this.state;
      const swipe = mode === "swipe";
      const [left, right] = this.sides;
      Object.assign(left, swipe ? this.pair[0] : this.one);
      Object.assign(right, this.pair[1]);
      left.show(true);
      right.show(swipe);
      $("one").hidden = swipe;
      $("sides").hidden = !swipe;
      $("divider").hidden = !swipe;
      $("stamp").hidden = swipe;
      const seen = swipe ? this.pair : [this.one];
      $("change").hidden = !seen.some(({ what }) => what === "change");
      const dates = [...new Set(seen.filter(({ what }) => what === "classes").map(({ date }) => date))];
      this.showClasses(dates);
      this.sayViews();
      this.split();
    }

    viewText({ what, date }) {
      const { dates } = this.data;
      return what === "change" ? ["Change", `${dates[0]} to ${dates.at(-1)}`] : [dates[date], WORDS[what].toLowerCase()];
    }

    sayViews() {
      const put = (target, view) => {
        const [main, more] = this.viewText(view);
        $(target).replaceChildren(main, " ", element("small", "", more));
      };
      put("left-tag", this.pair[0]);
      put("right-tag", this.pair[1]);
      put("stamp", this.one);
      const { what, date } = this.one;
      const day = this.data.dates[date];
      const beneath = this.data.pictures[date] ? `Change over the imagery of ${day}` : `No imagery of ${day}: change on plain ground`;
      // Without imagery the change looks the same whichever date lies beneath.
      $("time").hidden = what === "change" && !this.data.pictures.some(Boolean);
      $("time-note").textContent = what === "change" ? beneath : `${WORDS[what]} of ${day}`;
      $("date").value = date;
      $("date").setAttribute("aria-valuetext", day);
      [...$("marks").children].forEach((mark) => mark.classList.toggle("gc-now", mark.textContent === day));
    }

    // Head and views

    makeHead() {
      const { data } = this;
      $("title").textContent = data.title;
      $("badge").hidden = !data.synthetic;
      $("sub").textContent = data.facts.join(" · ");
      if (data.warnings.length) {
        $("warnings").hidden = false;
        $("warnings-title").textContent = data.warnings.length === 1 ? "Read this with care" : `Read this with care: ${data.warnings.length} reasons`;
        $("warnings-list").append(...data.warnings.map((text) => element("li", "", `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`)));
      }
      $("words").append(...data.kinds.flatMap(({ name, words }) => [element("dt", "", name), element("dd", "", words)]));
      for (const text of data.notes) $("foot").prepend(element("p", "", text));
    }

    /** A badge for the folded panel, where the warnings themselves are out of sight. */
    caution() {
      const { length } = this.data.warnings;
      return length ? [" ", element("span", "gc-badge", `${length} ${length === 1 ? "caution" : "cautions"}: open to read`)] : [];
    }

    makeViews() {
      const { data } = this;
      for (const input of document.getElementsByName("gc-mode")) {
        input.checked = input.defaultChecked; // browsers restore ticks on reload, but not our state
        input.addEventListener("change", () => this.setMode(input.value));
      }
      for (const input of document.getElementsByName("gc-view")) {
        input.checked = input.defaultChecked;
        input.disabled = input.value === "imagery" && !data.pictures.some(Boolean);
        if (input.disabled) input.parentElement.hidden = true;
        input.addEventListener("change", () => {
          this.one.what = input.value;
          this.arrange();
        });
      }
      const slider = $("date");
      slider.max = data.dates.length - 1;
      slider.addEventListener("input", () => {
        this.play(false);
        this.setDate(Number(slider.value));
      });
      const few = data.dates.join("").length <= 34 ? data.dates : [data.dates[0], data.dates.at(-1)];
      $("marks").append(...few.map((date) => element("span", "", date)));
      $("play").addEventListener("click", () => this.play(!this.state.playing));
      this.makeSelects();
    }

    makeSelects() {
      const { data } = this;
      ["left", "right"].forEach((name, k) => {
        const [what, date] = [$(`${name}-what`), $(`${name}-date`)];
        for (const [value, text] of Object.entries(WORDS)) {
          if (value !== "imagery" || data.pictures.some(Boolean)) what.append(new Option(text, value));
        }
        data.dates.forEach((day, at) => date.append(new Option(day, at)));
        const change = () => {
          this.pair[k] = { what: what.value, date: Number(date.value) };
          date.disabled = what.value === "change" && !data.pictures.some(Boolean);
          this.arrange();
        };
        [what.value, date.value] = [this.pair[k].what, this.pair[k].date];
        for (const select of [what, date]) select.addEventListener("change", change);
      });
    }

    setMode(mode) {
      this.play(false);
      this.state.mode = mode;
      for (const input of document.getElementsByName("gc-mode")) input.checked = input.value === mode;
      this.arrange();
    }

    setDate(date) {
      this.one.date = clamp(date, 0, this.data.dates.length - 1);
      this.arrange();
      $("live").textContent = this.viewText(this.one).join(" ");
    }

    play(on) {
      this.state.playing = on;
      clearInterval(this.playing);
      $("play").setAttribute("aria-pressed", String(on));
      $("play").setAttribute("aria-label", on ? "Stop" : "Play the dates");
      if (!on) return;
      const step = () => this.setDate((this.one.date + 1) % this.data.dates.length);
      step();
      this.playing = setInterval(step, STEP_MS);
    }

    // The comparison

    makeDivider() {
      const divider = $("divider");
      const stage = this.map.getContainer();
      const move = (event) => this.split((event.clientX - stage.getBoundingClientRect().left) / stage.clientWidth);
      divider.addEventListener("pointerdown", (event) => {
        divider.setPointerCapture(event.pointerId);
        divider.focus({ preventScroll: true });
        event.preventDefault();
      });
      divider.addEventListener("pointermove", (event) => divider.hasPointerCapture(event.pointerId) && move(event));
      divider.addEventListener("keydown", (event) => {
        const step = event.shiftKey ? 0.1 : 0.02;
        const to = { ArrowLeft: this.state.at - step, ArrowDown: this.state.at - step, ArrowRight: this.state.at + step, ArrowUp: this.state.at + step, Home: 0, End: 1 }[event.key];
        if (to === undefined) return;
        this.split(to);
        event.preventDefault();
      });
      divider.addEventListener("wheel", (event) => stage.dispatchEvent(new WheelEvent("wheel", event)), { passive: true });
      this.map.on("move zoom viewreset resize", () => this.split());
    }

    /** Put the divider at a share of the map's width, or leave it, and clip both sides to it. */
    split(share) {
      const { state, map } = this;
      const width = map.getSize().x;
      if (share !== undefined) state.at = clamp(share, 0, 1);
      if (state.at === null) {
        const [left, , right] = this.insets();
        state.at = width ? (left + (width - left - right) / 2) / width : 0.5;
      }
      if (state.mode !== "swipe") {
        for (const side of this.sides) side.clip(null);
        return;
      }
      const x = Math.round(state.at * width);
      this.sides[0].clip(-50, x);
      this.sides[1].clip(x, width + 50);
      const divider = $("divider");
      divider.style.left = `${x}px`;
      divider.setAttribute("aria-valuenow", Math.round(state.at * 100));
    }

    // Legends

    makeLegends() {
      const { data, state, tiles } = this;
      const total = tiles.valid.reduce((sum, byte) => sum + byte, 0) * (data.hectares / 255);
      this.hectares = hectaresUnder(total);
      this.rows = data.categories.map((item, at) => {
        if (this.still[at]) return null;
        const row = element("li", item.key === "flicker" ? "gc-faint" : "");
        row.title = item.words;
        row.style.setProperty("--swatch", item.colour);
        row.style.setProperty("--tick", inkOn(item.colour));
        const label = row.appendChild(element("label"));
        const box = label.appendChild(element("input"));
        Object.assign(box, { type: "checkbox", checked: true });
        label.append(element("span", "gc-name", item.name), element("span", "gc-number"), element("span", "gc-number"));
        box.addEventListener("change", () => {
          state.shown[at] = box.checked;
          this.refilter();
        });
        return row;
      });
      $("categories").append(...this.rows.filter(Boolean));
    }

    /** Hectares of each class on the dates shown. */
    showClasses(dates) {
      const { data, tiles } = this;
      $("legend").hidden = !dates.length;
      if (!dates.length) return;
      const sums = dates.map((date) => {
        const found = new Float64Array(data.classes.length);
        for (let tile = 0; tile < tiles.count; tile++) found[tiles.classAt(tile, date)] += tiles.valid[tile];
        return found.map((value) => value * (data.hectares / 255));
      });
      const all = sums[0].reduce((sum, value) => sum + value, 0);
      const single = dates.length === 1;
      const heads = single ? ["Hectares", "Share"] : dates.map((date) => `${data.dates[date]}, ha`);
      for (const name of ["legend-caption", "classes"]) {
        $(name).classList.toggle("gc-single", single);
        $(name).classList.toggle("gc-two", !single);
      }
      $("legend-caption").replaceChildren(...[`Class${single ? ` in ${data.dates[dates[0]]}` : ""}`, ...heads].map((text) => element("span", "", text)));
      $("classes").replaceChildren(...data.classes.map(({ name, colour }, k) => {
        const row = element("li");
        row.style.setProperty("--swatch", colour);
        const more = single ? element("span", "gc-share", shareText(all ? sums[0][k] / all : 0)) : element("span", "gc-number", this.hectares(sums[1][k]));
        row.append(element("span", "gc-swatch"), element("span", "gc-name", name), element("span", "gc-number", this.hectares(sums[0][k])), more);
        return row;
      }));
    }

    // Filters

    makeFilters() {
      const { data, state } = this;
      const slider = $("least");
      slider.value = 0;
      slider.addEventListener("input", () => {
        state.least = slider.value / 100;
        this.refilter();
      });
      this.chips = data.kinds.map(({ name, words }, kind) => {
        const chip = element("label");
        chip.title = words;
        const box = chip.appendChild(element("input"));
        Object.assign(box, { type: "checkbox", checked: true });
        chip.appendChild(element("span", "", name)).append(element("small"));
        box.addEventListener("change", () => this.setKinds(state.kinds.map((on, k) => (k === kind ? box.checked : on))));
        return chip;
      });
      // What changed comes first, what stayed last.
      $("kinds").append(...[...this.chips.slice(1), this.chips[0]]);
      $("only").addEventListener("click", () => {
        const only = $("only").getAttribute("aria-pressed") !== "true";
        this.setKinds(data.kinds.map(({ name }) => !only || name === "sustained"));
      });
      if (data.dates.length < 3) {
        $("only").disabled = true;
        $("hint").hidden = false;
        $("hint").textContent = "With two dates no change is confirmed by a later one: a third date tells sustained from endpoint.";
      }
    }

    setKinds(kinds) {
      this.state.kinds = kinds;
      kinds.forEach((on, kind) => { this.chips[kind].querySelector("input").checked = on; });
      const only = kinds.every((on, kind) => on === (this.data.kinds[kind].name === "sustained"));
      $("only").setAttribute("aria-pressed", String(only));
      this.refilter();
    }

    refilter() {
      this.count();
      this.paint();
    }

    /** Tiles and hectares of every category, by kind, that reach the probability asked for; legend, chips and areas say them. */
    count() {
      const { data, tiles, state } = this;
      const kinds = data.kinds.length;
      const tally = data.categories.map(() => Array.from({ length: kinds }, () => [0, 0]));
      for (let tile = 0; tile < tiles.count; tile++) {
        if (!this.passes(tile)) continue;
        const cell = tally[tiles.category[tile]][tiles.kind[tile]];
        cell[0]++;
        cell[1] += tiles.valid[tile];
      }
      const perByte = data.hectares / 255;
      this.rows.forEach((row, at) => {
        if (!row) return;
        const [count, bytes] = [0, 1].map((k) => tally[at].reduce((sum, cell, kind) => sum + (state.kinds[kind] ? cell[k] : 0), 0));
        const [tilesText, areaText] = row.querySelectorAll(".gc-number");
        tilesText.textContent = count ? count.toLocaleString("en-GB") : DASH;
        areaText.textContent = this.hectares(bytes * perByte);
        if (data.categories[at].key === "new_built") {
          $("brief").replaceChildren("New built-up: ", element("b", "", `${this.hectares(bytes * perByte)} ha`), ` mapped in ${count.toLocaleString("en-GB")} tiles`, ...this.caution());
        }
      });
      this.chips.forEach((chip, kind) => {
        const count = tally.reduce((sum, row, at) => sum + (this.still[at] || !state.shown[at] ? 0 : row[kind][0]), 0);
        chip.querySelector("small").textContent = count.toLocaleString("en-GB");
        chip.hidden = data.kinds[kind].name === "stable" && count === 0 && state.kinds[kind];
      });
      $("least-text").textContent = state.least ? percent(state.least) : "any";
      $("least").setAttribute("aria-valuetext", state.least ? percent(state.least) : "any");
      if (this.areas) this.countAreas();
    }

    // Areas of interest

    makeAreas() {
      const { data } = this;
      this.pickArea = (number) => this.setArea(number === this.state.area ? -1 : number, true);
      this.aois = this.makeAois().addTo(this.map);
      this.areas = data.aois.map((area, number) => {
        const row = element("tr");
        const button = row.appendChild(element("td")).appendChild(element("button", "", area.name || `Area ${number + 1}`));
        button.type = "button";
        button.addEventListener("click", () => this.setArea(number === this.state.area ? -1 : number, true));
        row.append(element("td"), element("td"));
        row.addEventListener("pointerenter", () => this.stress(number, true));
        row.addEventListener("pointerleave", () => this.stress(number, number === this.state.area));
        return { row, runs: decode(area.runs, Uint32Array), shares: decode(area.shares, Uint8Array), box: area.box };
      });
      $("rows").append(...this.areas.map(({ row }) => row));
      $("areas").hidden = false;
    }

    countAreas() {
      const { data, tiles, state } = this;
      const perByte = data.hectares / 255 / 255;
      const fresh = data.categories.findIndex(({ key }) => key === "new_built");
      for (const { row, runs, shares } of this.areas) {
        let [built, all, at] = [0, 0, 0];
        for (let k = 0; k < runs.length; k += 2) {
          for (let tile = runs[k]; tile < runs[k] + runs[k + 1]; tile++) {
            const weight = tiles.valid[tile] * shares[at++];
            all += weight;
            if (tiles.category[tile] === fresh && state.kinds[tiles.kind[tile]] && this.passes(tile)) built += weight;
          }
        }
        const [, area, share] = row.children;
        area.textContent = this.hectares(built * perByte);
        share.textContent = shareText(all ? built / all : 0);
      }
    }

    stress(number, on) {
      const [casing, line] = this.outlines[number];
      casing.setStyle({ weight: on ? 10 : 5, opacity: on ? 1 : 0.85 });
      line.setStyle({ weight: on ? 5 : 2, color: on ? "#0a7a94" : "#14201f" });
      if (on) for (const part of [casing, line]) part.bringToFront();
    }

    setArea(number, zoom) {
      if (this.state.area >= 0) this.stress(this.state.area, false);
      this.state.area = number;
      this.areas.forEach(({ row }, k) => row.setAttribute("aria-current", String(k === number)));
      if (number < 0) return;
      this.stress(number, true);
      const { row, box } = this.areas[number];
      if (NARROW.matches) this.fold(true);
      else row.scrollIntoView({ block: "nearest" });
      if (!zoom) return;
      const [left, top, right, bottom] = this.insets();
      this.map.fitBounds(box, { paddingTopLeft: [left + 20, top + 20], paddingBottomRight: [right + 20, bottom + 20] });
    }

    /** The first area that holds a tile by more than a half, or -1. */
    areaOf(tile) {
      return this.areas.findIndex(({ runs, shares }) => {
        for (let k = 0, at = 0; k < runs.length; at += runs[k + 1], k += 2) {
          if (tile >= runs[k] && tile < runs[k] + runs[k + 1]) return shares[at + tile - runs[k]] > 127;
        }
        return false;
      });
    }

    // Layers

    makeOptions() {
      const { data, state } = this;
      const slider = $("opacity");
      const show = () => {
        state.opacity = slider.value / 100;
        for (const side of this.sides) side.tiles.setOpacity(side.bare ? 1 : state.opacity);
        $("opacity-text").textContent = `${slider.value}%`;
      };
      slider.value = Math.round(state.opacity * 100);
      slider.addEventListener("input", show);
      show();
      const pictured = data.pictures.some(Boolean);
      slider.parentElement.hidden = !pictured;
      if (pictured) {
        this.addSwitch("checkbox", "Imagery beneath tiles", true, (on) => {
          state.imagery = on;
          this.paint();
        });
      }
      if (this.aois) this.addSwitch("checkbox", "Areas of interest", true, (on) => (on ? this.aois.addTo(this.map) : this.aois.remove()));
      $("layers").hidden = $("layers").querySelectorAll("label").length === 0;
    }

    // Tiles

    tileIn(column, line) {
      const { tiles, data } = this;
      const tile = tiles.at(column, line);
      if (tile < 0) return null;
      const { lat, lng } = this.lattice.latLng(column + 0.5, line + 0.5);
      const classes = data.dates.map((_, date) => tiles.classAt(tile, date));
      const [first, last] = [data.classes[classes[0]].name, data.classes[classes.at(-1)].name];
      return {
        ...tiles.place(column, line), tile, lat, lng, classes, transition: first === last ? first : first + data.arrow + last,
        category: tiles.category[tile], kind: data.kinds[tiles.kind[tile]].name, pChange: tiles.change[tile] / 255,
        pNewBuilt: tiles.built[tile] / 255, valid: tiles.valid[tile] / 255, probabilities: tiles.probabilities(tile),
        alone: tiles.alone ? data.dates.map((_, date) => tiles.alone[tile * data.dates.length + date]) : null,
      };
    }

    /** What happened to a tile and how sure that is, in words. */
    verdict({ category, kind, pChange, pNewBuilt }) {
      const { key, name } = this.data.categories[category];
      if (key === "stable") return `Stable · ${percent(1 - pChange)} sure that it did not change`;
      if (key === "flicker") return `Flicker · ${percent(pChange)} that it changed`;
      return `${name} · ${percent(this.newBuilt[category] ? pNewBuilt : pChange)} · ${kind}`;
    }

    open(tile) {
      this.state.selected = tile;
      this.state.cursor = tile.cell;
      this.outline(...tile.cell);
      this.fillCard(tile);
      $("card").hidden = false;
      $("card").scrollTop = 0;
      $("hover").hidden = true;
      if (NARROW.matches) this.fold(true);
      this.reveal(...tile.cell);
      this.say(tile);
      if (this.areas) this.setArea(this.areaOf(tile.tile), false);
      this.link(tile.id);
    }

    close() {
      super.close();
      this.link(null);
    }

    /** The address of the page with this tile open. A notebook's frame has no address of its own. */
    link(id) {
      if (!/^(file|https?):$/.test(location.protocol)) return;
      const wanted = id ? `#tile=${encodeURIComponent(id)}` : "";
      if (location.hash !== wanted) history.replaceState(null, "", wanted || location.pathname + location.search);
    }

    /** Open the tile that the page's address names. */
    follow() {
      const found = /^#tile=(.+)_(-?\d+)_(-?\d+)$/.exec(decodeURIComponent(location.hash));
      if (!found || found[1] !== this.tiles.prefix) return;
      const [column, line] = [found[2] - this.tiles.left, this.tiles.top - 1 - found[3]];
      const tile = this.tileIn(column, line);
      if (!tile) return;
      this.open(tile);
      const [left, top, right, bottom] = this.insets();
      const corners = [this.lattice.latLng(column - 4, line - 4), this.lattice.latLng(column + 5, line + 5)];
      this.map.fitBounds(L.latLngBounds(corners), { paddingTopLeft: [left, top], paddingBottomRight: [right, bottom], animate: false });
    }

    fillCard(tile) {
      const { data } = this;
      const now = this.tileIn(...tile.cell); // the probabilities may have come meanwhile
      this.state.selected = now;
      const category = data.categories[now.category];
      $("card-swatch").style.setProperty("--swatch", category.key === "stable" ? data.classes[now.classes.at(-1)].colour : category.colour);
      $("card-class").textContent = now.transition;
      $("card-kind").textContent = this.verdict(now);
      $("history").replaceChildren(...this.historyOf(now));
      $("history").style.minWidth = `${92 + 72 * data.dates.length}px`;
      $("history-hint").hidden = Boolean(now.probabilities);
      $("history-hint").textContent = this.failed ? "This browser is too old to unpack the probabilities." : "Unpacking the probabilities …";
      const lng = ((((now.lng + 180) % 360) + 360) % 360) - 180;
      const at = `${now.lat.toFixed(5)}, ${lng.toFixed(5)}`;
      const facts = [
        ["Changed", percent(now.pChange)], ["New built-up", percent(now.pNewBuilt)], ["Kind", now.kind], ["Tile", now.id], ["Centre", at],
        ["With data", `${percent(now.valid)} of the tile`],
      ];
      $("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", "", name), element("dd", name === "Tile" ? "gc-id" : "", value)]));
      const links = [
        ["OpenStreetMap", `https://www.openstreetmap.org/?mlat=${now.lat.toFixed(6)}&mlon=${lng.toFixed(6)}#map=17/${now.lat.toFixed(6)}/${lng.toFixed(6)}`],
        ["Google Maps", `https://www.google.com/maps/search/?api=1&query=${now.lat.toFixed(6)}%2C${lng.toFixed(6)}`],
      ];
      $("links").replaceChildren(...links.map(([text, href]) => Object.assign(element("a", "", text), { href, target: "_blank", rel: "noopener noreferrer" })));
    }

    /** Rows of the card's table: pictures, class, class of the date alone, and the probabilities, a column a date. */
    historyOf(tile) {
      const { data } = this;
      const line = (className, head, cells) => {
        const row = element("tr", className);
        const first = element("th", "", head);
        first.scope = "row";
        row.append(first, ...cells);
        return row;
      };
      const head = element("tr");
      head.append(element("td"), ...data.dates.map((date, k) => {
        const cell = element("th");
        cell.scope = "col";
        if (data.pictures[k]) cell.append(this.chip(tile.cell, k));
        cell.append(date);
        return cell;
      }));
      const top = element("thead");
      top.append(head);
      const named = element("tbody");
      named.append(line("gc-of", "All dates together", tile.classes.map((k) => element("td", "", data.classes[k].name))));
      if (!tile.probabilities) return [top, named];
      named.append(line("gc-alone", "Date by date", tile.alone.map((k, date) => element("td", k === tile.classes[date] ? "" : "gc-odd", data.classes[k].name))));
      const likely = data.classes.map((_, k) => Math.max(...tile.probabilities.map((date) => date[k])));
      const order = likely.map((_, k) => k).filter((k) => likely[k] >= 0.005 || tile.classes.includes(k)).sort((a, b) => likely[b] - likely[a] || a - b);
      const body = element("tbody");
      body.append(...order.map((k) => line("gc-p", data.classes[k].name, tile.probabilities.map((date, t) => {
        const cell = element("td", tile.classes[t] === k ? "gc-top" : "");
        const bar = element("div", "gc-bar");
        bar.style.setProperty("--swatch", data.classes[k].colour);
        bar.appendChild(element("i")).style.width = `${date[k] * 100}%`;
        cell.append(element("span", "", percent(date[k])), bar);
        return cell;
      }))));
      return [top, named, body];
    }

    /** A date's picture of a tile and its surroundings. */
    chip([column, line], date) {
      const canvas = canvasOf(208, 208);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Imagery of ${this.data.dates[date]}`);
      this.pictureOf(date).then((picture) => {
        const [wide, high] = [picture.width / this.tiles.columns, picture.height / this.tiles.rows];
        const ctx = canvas.getContext("2d");
        const span = 1 + 2 * AROUND;
        ctx.drawImage(picture, (column - AROUND) * wide, (line - AROUND) * high, span * wide, span * high, 0, 0, 208, 208);
        const [at, side] = [(208 * AROUND) / span, 208 / span];
        for (const [style, width] of [["#ffffff", 6], ["#101818", 2.5]]) {
          [ctx.strokeStyle, ctx.lineWidth] = [style, width];
          ctx.strokeRect(at, at, side, side);
        }
      });
      return canvas;
    }

    say(tile) {
      $("live").textContent = tile ? `${tile.transition}. ${this.verdict(tile)}. Tile ${tile.id}` : "No tile here";
    }

    /** A line of text at the pointer: what the tile beneath it was and is. */
    hover(container) {
      const note = $("hover");
      let waiting = 0;
      container.addEventListener("pointerleave", () => { note.hidden = true; });
      container.addEventListener("pointermove", (event) => {
        if (event.pointerType !== "mouse" || waiting) return;
        waiting = requestAnimationFrame(() => {
          waiting = 0;
          const tile = event.buttons || !event.target.closest(".leaflet-pane, .leaflet-container") ? null : this.tileAt(this.map.mouseEventToLatLng(event));
          note.hidden = !tile || event.target.closest(".leaflet-control") !== null;
          if (note.hidden) return;
          note.replaceChildren(element("b", "", tile.transition), element("br"), this.verdict(tile));
          const box = container.getBoundingClientRect();
          const [x, y] = [event.clientX - box.left, event.clientY - box.top];
          const left = x + 16 + note.offsetWidth > box.width ? x - 16 - note.offsetWidth : x + 16;
          note.style.transform = `translate(${left}px, ${clamp(y + 16, 0, box.height - note.offsetHeight - 4)}px)`;
        });
      });
    }

    onKey(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const one = this.state.mode === "one";
      if (one && (event.key === "[" || event.key === "]")) {
        this.play(false);
        this.setDate(this.one.date + (event.key === "]" ? 1 : -1));
      } else if (one && event.key.toLowerCase() === "p") this.play(!this.state.playing);
      else if (event.key.toLowerCase() === "s") this.setMode(one ? "swipe" : "one");
      else {
        super.onKey(event);
        return;
      }
      event.preventDefault();
    }
  }

  register("changemap", Page);
})();
