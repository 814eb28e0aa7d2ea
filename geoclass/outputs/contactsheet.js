/* The contact sheet of one dataset: counts, purity, map of splits, suspects, pictures, and corrections made by hand. */
(() => {
  "use strict";

  const data = JSON.parse(document.getElementById("data").textContent);
  const { classes, splits, tiles } = data;
  const REMOVE = "remove";
  const SPLIT_COLOURS = ["var(--train)", "var(--validation)", "var(--test)"];
  const $ = (name) => document.getElementById(name);
  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  const number = (value) => value.toLocaleString("en-GB");
  const percent = (share) => (share > 0 && share < 0.005 ? "<1\u00a0%" : share < 1 && share >= 0.995 ? ">99\u00a0%" : `${Math.round(share * 100)}\u00a0%`);
  const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

  /** A new element; text is set as text, so that names out of data stay names. */
  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function swatch(kind) {
    const made = element("i", "swatch");
    made.setAttribute("aria-hidden", "true");
    made.style.setProperty("--swatch", classes[kind].colour);
    return made;
  }

  const used = classes.map((_, kind) => kind).filter((kind) => data.counts[kind].some((count) => count));
  const totals = data.counts.map((row) => row.reduce((sum, count) => sum + count, 0));
  const all = totals.reduce((sum, count) => sum + count, 0);
  const shownSplits = splits.map((_, k) => k).filter((k) => data.counts.some((row) => row[k]));

  // ---- overview

  function makeHead() {
    $("title").textContent = data.title;
    $("facts").textContent = data.facts.join(" · ");
    $("notes").hidden = !data.notes.length;
    for (const note of data.notes) $("notes").append(element("p", "", note));
    for (const [word, text] of data.method) $("method-list").append(element("dt", "", word), element("dd", "", text));
    $("foot").textContent = `Written by geoclass ${data.version}. This page asks nothing of any network.`;
  }

  function makeCounts() {
    const table = element("table");
    const head = table.appendChild(element("thead")).appendChild(element("tr"));
    const purity = data.purity;
    const heading = (text, className, colour) => {
      const cell = head.appendChild(element("th", className));
      cell.scope = "col";
      if (colour) cell.appendChild(element("i")).style.setProperty("--colour", colour);
      cell.append(text);
    };
    heading("Class");
    heading("", "stack");
    for (const k of shownSplits) heading(capital(splits[k]), "", SPLIT_COLOURS[k]);
    heading("Total");
    if (purity) heading("Purity");
    const body = table.appendChild(element("tbody"));
    const most = Math.max(...totals);
    for (const kind of used) body.append(countRow(kind, most));
    const foot = table.appendChild(element("tfoot")).appendChild(element("tr"));
    foot.append(element("th", "", "All"), element("td", "stack"));
    for (const k of shownSplits) foot.append(element("td", "", number(data.counts.reduce((sum, row) => sum + row[k], 0))));
    foot.append(element("td", "", number(all)));
    if (purity) foot.append(element("td", "", percent(purity.median)));
    $("counts").append(table);
  }

  function countRow(kind, most) {
    const row = element("tr");
    const name = row.appendChild(element("th"));
    name.scope = "row";
    const line = name.appendChild(element("span"));
    const link = element("a", "", classes[kind].name);
    link.href = `#class-${kind}`;
    line.append(swatch(kind), link);
    const bar = row.appendChild(element("td", "stack")).appendChild(element("div"));
    for (const k of shownSplits) {
      const part = bar.appendChild(element("i"));
      part.style.width = `${(100 * data.counts[kind][k]) / most}%`;
      part.style.setProperty("--colour", SPLIT_COLOURS[k]);
    }
    for (const k of shownSplits) row.append(element("td", data.counts[kind][k] ? "" : "none", number(data.counts[kind][k])));
    row.append(element("td", "", number(totals[kind])));
    if (data.purity) row.append(element("td", "", data.purity.classes[kind] === null ? "–" : percent(data.purity.classes[kind])));
    return row;
  }

  function makePurity() {
    const { purity } = data;
    if (!purity) return;
    const card = $("purity");
    card.hidden = false;
    card.append(element("h3", "", "Purity of the tiles"));
    const bars = card.appendChild(element("div", "histogram"));
    bars.setAttribute("role", "img");
    bars.setAttribute("aria-label", `Histogram of purity; half of the tiles reach ${percent(purity.median)}`);
    const most = Math.max(...purity.bins);
    purity.bins.forEach((count, k) => {
      const bar = bars.appendChild(element("i"));
      bar.style.height = `${(100 * count) / most}%`;
      if (count) bar.style.minHeight = "2px";
      bar.title = `${number(count)} tiles from ${percent(k / purity.bins.length)} to ${percent((k + 1) / purity.bins.length)}`;
    });
    if (purity.least) {
      const line = bars.appendChild(element("b", purity.least > 0.55 ? "right" : ""));
      line.style.left = `${100 * purity.least}%`;
      line.append(element("span", "", `least taken, ${percent(purity.least)}`));
    }
    const ticks = card.appendChild(element("div", "ticks"));
    for (const share of [0, 0.25, 0.5, 0.75, 1]) ticks.append(element("span", "", `${share * 100}\u00a0%`));
    card.append(element("p", "quiet-text", `Share of a tile's labelled ground that its class covers. Half of the tiles reach ${percent(purity.median)}.`));
  }

  function makeLeftOut() {
    if (!data.left_out.length) return;
    const card = $("left");
    card.hidden = false;
    card.append(element("h3", "", "Tiles left out"));
    const list = card.appendChild(element("ul", "out"));
    for (const [reason, count] of data.left_out) {
      const item = list.appendChild(element("li"));
      item.append(element("span", "", capital(reason)), element("strong", "", number(count)));
    }
  }

  // ---- map

  const decode = (text, Type) => new Type(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);

  function makeMap() {
    const { map } = data;
    if (!map) return;
    $("map").hidden = false;
    const at = { x: decode(map.x, Uint32Array), y: decode(map.y, Uint32Array), kind: decode(map.kind, Uint8Array), split: decode(map.split, Uint8Array) };
    const lookup = new Map();
    for (let k = 0; k < at.x.length; k++) lookup.set(at.x[k] * map.rows + at.y[k], k);
    const canvas = $("map-canvas");
    const state = { colouring: "split", cursor: -1, side: 1, left: 0, top: 0 };
    const draw = () => drawMap(canvas, map, at, state);
    const key = () => makeKey(state.colouring, map.blocks.length);
    canvas.setAttribute("aria-label", `Map of ${number(at.x.length)} tiles coloured by split. Arrow keys go from tile to tile.`);
    for (const input of document.getElementsByName("colouring")) {
      input.checked = input.defaultChecked; // browsers restore ticks on reload, but not our state
      input.addEventListener("change", () => {
        state.colouring = input.value;
        key();
        draw();
      });
    }
    const point = (k) => {
      state.cursor = k ?? -1;
      $("map-readout").textContent = k === undefined ? "" : describe(map, at, k);
      draw();
    };
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const column = Math.floor((event.clientX - box.left - state.left) / state.side);
      const row = map.rows - 1 - Math.floor((event.clientY - box.top - state.top) / state.side);
      point(column < 0 || row < 0 || row >= map.rows ? undefined : lookup.get(column * map.rows + row));
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!step) return;
      event.preventDefault();
      point(state.cursor < 0 ? 0 : next(at, state.cursor, step));
    });
    key();
    new ResizeObserver(draw).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  /** The nearest tile in a direction, within 45 degrees of it. */
  function next(at, from, [dx, dy]) {
    let best = from;
    let least = Infinity;
    for (let k = 0; k < at.x.length; k++) {
      const along = (at.x[k] - at.x[from]) * dx + (at.y[k] - at.y[from]) * dy;
      const aside = Math.abs((at.x[k] - at.x[from]) * dy) + Math.abs((at.y[k] - at.y[from]) * dx);
      if (along > 0 && aside <= along && along + 2 * aside < least) [best, least] = [k, along + 2 * aside];
    }
    return best;
  }

  function describe(map, at, k) {
    const split = splits[at.split[k]] ?? "buffer";
    return `${map.prefix}_${map.left + at.x[k]}_${map.bottom + at.y[k]} · ${classes[at.kind[k]].name} · ${split}`;
  }

  function drawMap(canvas, map, at, state) {
    const width = canvas.clientWidth;
    const height = Math.max(120, Math.min((width * map.rows) / map.columns, Math.max(360, innerHeight * 0.62)));
    const ratio = Math.min(devicePixelRatio || 1, 2);
    canvas.style.height = `${height}px`;
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const margin = 8;
    state.side = Math.min((width - 2 * margin) / map.columns, (height - 2 * margin) / map.rows, 48);
    state.left = (width - state.side * map.columns) / 2;
    state.top = (height - state.side * map.rows) / 2;
    const style = getComputedStyle(document.documentElement);
    const ofSplit = splits.map((name) => style.getPropertyValue(`--${name}`));
    const place = (x, y) => [state.left + x * state.side, state.top + (map.rows - y) * state.side];
    const gap = state.side > 5 ? 1 : 0;
    const colourOf = (split) => ofSplit[split] ?? style.getPropertyValue("--muted");
    for (const [left, bottom, side, split] of map.blocks) {
      const [x, y] = place(left, bottom + side);
      const box = [x + 0.5, y + 0.5, side * state.side - 1.5, side * state.side - 1.5];
      const bySplit = state.colouring === "split";
      pen.lineWidth = 1;
      pen.globalAlpha = bySplit ? 0.14 : 0.05;
      pen.fillStyle = pen.strokeStyle = bySplit ? colourOf(split) : style.getPropertyValue("--muted");
      pen.fillRect(...box);
      pen.globalAlpha = 0.55;
      pen.strokeRect(...box);
    }
    pen.globalAlpha = 1;
    for (let k = 0; k < at.x.length; k++) {
      pen.fillStyle = state.colouring === "split" ? colourOf(at.split[k]) : classes[at.kind[k]].colour;
      const [x, y] = place(at.x[k], at.y[k] + 1);
      pen.fillRect(x, y, Math.max(state.side - gap, 1.2), Math.max(state.side - gap, 1.2));
    }
    if (state.cursor >= 0) {
      const [x, y] = place(at.x[state.cursor], at.y[state.cursor] + 1);
      pen.lineWidth = 2.5;
      pen.strokeStyle = style.getPropertyValue("--ink");
      pen.strokeRect(x - 1, y - 1, state.side + 1, state.side + 1);
    }
  }

  function makeKey(colouring, blocks) {
    const entry = (text, colour, className) => {
      const made = element("span");
      made.appendChild(element("i", className)).style.setProperty("--colour", colour);
      made.append(text);
      return made;
    };
    const parts = colouring === "split"
      ? shownSplits.map((k) => entry(capital(splits[k]), SPLIT_COLOURS[k]))
      : used.map((kind) => entry(classes[kind].name, classes[kind].colour));
    if (blocks) parts.push(entry("Block", "", "outline"));
    $("map-key").replaceChildren(...parts);
  }

  // ---- corrections

  const corrections = new Map();
  const watchers = new Map();
  let saved = true;

  function watch(key, refresh) {
    if (!watchers.has(key)) watchers.set(key, []);
    watchers.get(key).push(refresh);
    refresh();
  }

  function correct(key, label) {
    const own = classes[tiles[byKey.get(key)].class].name;
    if (label === undefined || label === own) corrections.delete(key);
    else corrections.set(key, label);
    saved = corrections.size === 0;
    for (const refresh of watchers.get(key) ?? []) refresh();
    showTray();
  }

  function showTray() {
    $("tray").hidden = corrections.size === 0;
    $("tray-count").textContent = plural(corrections.size, "correction", "corrections");
    document.body.style.paddingBottom = corrections.size ? "130px" : "";
  }

  const quoted = (text) => (/[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text);

  function save() {
    const rows = [...corrections].map(([key, label]) => `${quoted(key)},${quoted(label)}`);
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([["key,label", ...rows, ""].join("\n")], { type: "text/csv" }));
    link.download = "corrections.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    saved = true;
  }

  function makeTray() {
    const folder = /^[\w./-]+$/.test(data.folder) ? data.folder : `'${data.folder}'`;
    $("tray-command").textContent = `geoclass dataset ${folder} --corrections corrections.csv`;
    $("tray-save").addEventListener("click", save);
    $("tray-clear").addEventListener("click", () => {
      for (const key of [...corrections.keys()]) correct(key);
    });
    addEventListener("beforeunload", (event) => {
      if (!saved) event.preventDefault();
    });
  }

  // ---- pictures

  const byKey = new Map(tiles.map((tile, k) => [tile.key, k]));

  function picture(k, list) {
    const tile = tiles[k];
    const button = element("button", "pic");
    button.type = "button";
    button.style.setProperty("--colour", SPLIT_COLOURS[tile.split] ?? "var(--muted)");
    if (tile.picture) {
      const image = button.appendChild(element("img"));
      Object.assign(image, { src: tile.picture, alt: "", loading: "lazy", decoding: "async" });
    } else button.append(element("span", "gone", "cannot be read"));
    button.setAttribute("aria-label", `${classes[tile.class].name}, ${tile.key}`);
    button.addEventListener("click", () => open(list(), k));
    watch(tile.key, () => {
      const label = corrections.get(tile.key);
      button.classList.toggle("changed", label !== undefined);
      button.classList.toggle("removed", label === REMOVE);
      button.querySelector(".mark")?.remove();
      if (label !== undefined) button.append(element("span", "mark", label === REMOVE ? "removed" : label));
    });
    return button;
  }

  function makeSheets() {
    const state = { split: -1 };
    const sheets = used.map((kind) => makeSheet(kind, state));
    $("classes").append(...sheets.map((sheet) => sheet.part));
    const refresh = () => sheets.forEach((sheet) => sheet.refresh());
    const options = shownSplits.length > 1 ? [-1, ...shownSplits] : [];
    $("filter").hidden = !options.length;
    for (const split of options) {
      const label = $("filter").appendChild(element("label"));
      const input = label.appendChild(element("input"));
      Object.assign(input, { type: "radio", name: "split", checked: split < 0 });
      label.append(element("span", "", split < 0 ? "All" : capital(splits[split])));
      input.addEventListener("change", () => {
        state.split = split;
        refresh();
      });
    }
    refresh();
  }

  function makeSheet(kind, state) {
    const part = element("div", "sheet");
    part.id = `class-${kind}`;
    const title = part.appendChild(element("h3"));
    const mine = tiles.map((_, k) => k).filter((k) => tiles[k].class === kind);
    const list = () => mine.filter((k) => state.split < 0 || tiles[k].split === state.split);
    const buttons = new Map(mine.map((k) => [k, picture(k, list)]));
    const grid = element("div", "pics");
    grid.append(...buttons.values());
    const note = element("small");
    title.append(swatch(kind), classes[kind].name, note);
    const empty = element("p", "empty", "None of this class in this split.");
    part.append(grid, empty);
    const refresh = () => {
      const shown = new Set(list());
      for (const [k, button] of buttons) button.hidden = !shown.has(k);
      const count = state.split < 0 ? totals[kind] : data.counts[kind][state.split];
      note.textContent = shown.size < count ? `${number(shown.size)} of ${number(count)} tiles, evenly drawn` : plural(count, "tile", "tiles");
      empty.hidden = shown.size > 0;
    };
    return { part, refresh };
  }

  // ---- one picture, enlarged

  const opened = { list: [], at: 0 };

  function open(list, k) {
    Object.assign(opened, { list, at: list.indexOf(k) });
    show();
    $("tile").showModal();
  }

  function step(by) {
    opened.at = (opened.at + by + opened.list.length) % opened.list.length;
    show();
  }

  function show() {
    const tile = tiles[opened.list[opened.at]];
    const image = $("tile-picture");
    image.hidden = !tile.picture;
    if (tile.picture) image.src = tile.picture;
    image.alt = `Tile ${tile.key}`;
    $("tile-class").textContent = classes[tile.class].name;
    $("tile-swatch").style.setProperty("--swatch", classes[tile.class].colour);
    $("tile-bars").replaceChildren(...tile.shares.slice(0, 8).map(([kind, share]) => shareBar(kind, share)));
    const facts = [["Key", element("code", "", tile.key)], ["Split", tile.split < 0 ? "buffer" : splits[tile.split]]];
    if (tile.purity !== null) facts.push(["Purity", percent(tile.purity)]);
    if (tile.labelled !== null && tile.labelled < 1) facts.push(["Labelled ground", percent(tile.labelled)]);
    const link = element("a", "", "full size");
    Object.assign(link, { href: tile.file.split("/").map(encodeURIComponent).join("/"), target: "_blank", rel: "noopener" });
    facts.push(["Picture", link]);
    $("tile-list").replaceChildren(...facts.flatMap(([word, value]) => {
      const cell = element("dd");
      cell.append(value);
      return [element("dt", "", word), cell];
    }));
    $("tile-label").value = corrections.get(tile.key) ?? classes[tile.class].name;
    $("tile-step").textContent = `${opened.at + 1} of ${opened.list.length}`;
    for (const name of ["tile-back", "tile-next"]) $(name).disabled = opened.list.length < 2;
  }

  function shareBar(kind, share) {
    const row = element("li");
    const bar = element("b");
    const fill = bar.appendChild(element("i"));
    fill.style.width = `${share * 100}%`;
    fill.style.setProperty("--swatch", classes[kind].colour);
    row.append(element("span", "", classes[kind].name), bar, element("span", "", percent(share)));
    return row;
  }

  function makeDialog() {
    const choose = $("tile-label");
    for (const { name } of classes) choose.append(new Option(name, name));
    choose.append(new Option("Take out of the dataset", REMOVE));
    choose.addEventListener("change", () => correct(tiles[opened.list[opened.at]].key, choose.value));
    $("tile-close").addEventListener("click", () => $("tile").close());
    $("tile-back").addEventListener("click", () => step(-1));
    $("tile-next").addEventListener("click", () => step(1));
    $("tile").addEventListener("click", (event) => event.target === $("tile") && $("tile").close());
    $("tile").addEventListener("keydown", (event) => {
      if (event.target === choose || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      event.preventDefault();
      step(event.key === "ArrowLeft" ? -1 : 1);
    });
  }

  // ---- suspects

  function makeSuspects() {
    const { suspects } = data;
    if (!suspects) return;
    $("suspects").hidden = false;
    const { count, rows } = suspects;
    const some = rows.length < count ? ` The ${number(rows.length)} surest are shown.` : "";
    $("suspects-lead").textContent = count
      ? `A model that had not seen them contradicts the labels of ${plural(count, "tile", "tiles")}, and is at least as sure as it commonly is of the class that it sees.${some}`
      : "A model that had not seen the tiles contradicts none of their labels with confidence.";
    const list = () => rows.map(([k]) => k);
    $("doubts").append(...rows.map((row) => doubt(row, list)));
  }

  function doubt([k, label, suggested, probability], list) {
    const card = element("article", "doubt");
    const { key } = tiles[k];
    const side = element("div");
    const says = side.appendChild(element("dl", "says"));
    const say = (word, name, text, className) => {
      const value = element("dd", className);
      const kind = classes.findIndex((item) => item.name === name);
      if (kind >= 0) value.append(swatch(kind));
      value.append(text);
      says.append(element("dt", "", word), value);
    };
    say("Label", label, label);
    say("Model", suggested, suggested);
    say("Sure", "", percent(probability), "plain");
    const acts = side.appendChild(element("div", "acts"));
    for (const [text, value] of [[`Mark as ${suggested}`, suggested], ["Take out", REMOVE]]) {
      const button = acts.appendChild(element("button", "act", text));
      button.type = "button";
      button.title = text;
      button.addEventListener("click", () => correct(key, corrections.get(key) === value ? undefined : value));
      watch(key, () => button.setAttribute("aria-pressed", String(corrections.get(key) === value)));
    }
    card.append(picture(k, list), side);
    return card;
  }

  // ---- navigation

  function makeNav() {
    const link = (target, text, kind) => {
      const made = element("a");
      made.href = `#${target}`;
      if (kind !== undefined) made.append(swatch(kind));
      made.append(text);
      return made;
    };
    const parts = [link("overview", "Overview")];
    if (data.map) parts.push(link("map", "Map"));
    if (data.suspects) parts.push(link("suspects", `Suspects (${number(data.suspects.count)})`));
    parts.push(link("method", "Method"), element("hr"), ...used.map((kind) => link(`class-${kind}`, classes[kind].name, kind)));
    $("nav").append(...parts);
  }

  makeHead();
  makeCounts();
  makePurity();
  makeLeftOut();
  makeMap();
  makeSheets();
  makeDialog();
  makeSuspects();
  makeTray();
  makeNav();
})();
