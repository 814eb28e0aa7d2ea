/* The review page: pictures of one tile at a time, answers by key or button, kept in the browser and saved as CSV. */
(() => {
  "use strict";

  const data = JSON.parse(document.getElementById("data").textContent);
  const { tiles, dates, classes, purpose } = data;
  const LABELLING = purpose === "labelling" || purpose === "reference"; // the class on each date is asked
  const CHOICES = LABELLING
    ? [["?", "Leave out", "--unsure"], ["a", "Same for the rest", "--accent"]]
    : [["y", "Yes", "--yes"], ["n", "No", "--no"], ["?", "Can’t tell", "--unsure"]];
  const WORDS = { y: "yes", n: "no", "?": "can’t tell" };
  const GLYPHS = { y: "✓", n: "–", "?": "?" };
  const $ = (name) => document.getElementById(name);
  const number = (value) => value.toLocaleString("en-GB");
  const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

  /** A new element; text is set as text, so that names out of data stay names. */
  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const colourOf = new Map(classes.map((item) => [item.name, item.colour]));
  const place = new Map(tiles.map((tile, k) => [tile.id, k]));

  function swatch(name) {
    const made = element("i", "swatch");
    made.setAttribute("aria-hidden", "true");
    made.style.setProperty("--swatch", colourOf.get(name));
    return made;
  }

  // ---- answers, and where they are kept

  const KEY = `geoclass-review ${data.id} ${purpose}`;
  const state = { answers: new Map(), reviewer: "", at: 0, date: 0, view: "side" };
  const past = [];
  let kept = true; // whether the browser keeps answers for this page
  let unsaved = 0; // changes since the answers were last saved as a file

  const blank = () => ({ answer: "", classes: {}, left: [], note: "", time: "" });
  const answerOf = (k) => state.answers.get(tiles[k].id) ?? blank();
  const isEmpty = (one) => !one.answer && !one.note && !one.left.length && !Object.keys(one.classes).length;
  const settled = (k, date) => answerOf(k).classes[date] !== undefined || answerOf(k).left.includes(date);
  const isDone = (k) => (LABELLING ? dates.every((date, t) => settled(k, date) || !tiles[k].pictures[t]) : answerOf(k).answer !== "");

  /** What was kept or read, with nothing in it that this page does not know. */
  function cleaned(raw) {
    const one = blank();
    if (!raw || typeof raw !== "object") return one;
    if (!LABELLING && ["y", "n", "?"].includes(raw.answer)) one.answer = raw.answer;
    for (const date of dates) {
      if (raw.classes && colourOf.has(raw.classes[date])) one.classes[date] = raw.classes[date];
      else if (LABELLING && Array.isArray(raw.left) && raw.left.includes(date)) one.left.push(date);
    }
    one.note = typeof raw.note === "string" ? raw.note.slice(0, 500) : "";
    one.time = typeof raw.time === "string" ? raw.time.slice(0, 40) : "";
    return one;
  }

  function restore(text) {
    const found = JSON.parse(text);
    state.reviewer = typeof found.reviewer === "string" ? found.reviewer.slice(0, 80) : "";
    state.answers = new Map(
      Object.entries(found.answers ?? {}).filter(([id]) => place.has(id)).map(([id, one]) => [id, cleaned(one)]),
    );
    unsaved = Number(found.unsaved) || 0;
    return place.get(found.last) ?? 0;
  }

  function load() {
    try {
      const text = localStorage.getItem(KEY);
      localStorage.setItem(KEY, text ?? "{}"); // some browsers let pages from disk read, and not write
      if (text) state.at = restore(text);
    } catch {
      kept = false;
    }
  }

  function keep() {
    if (!kept) return;
    const answers = Object.fromEntries(state.answers);
    try {
      localStorage.setItem(KEY, JSON.stringify({ answers, reviewer: state.reviewer, last: tiles[state.at].id, unsaved }));
    } catch {
      kept = false;
      showKept();
    }
  }

  /** Change the answer of tile k by `edit`; undo brings back what was. */
  function change(k, edit) {
    const { id } = tiles[k];
    const before = state.answers.get(id);
    const after = structuredClone(before ?? blank());
    edit(after);
    if (JSON.stringify(after) === JSON.stringify(before ?? blank())) return;
    after.time = new Date().toISOString();
    past.push({ answers: new Map([[id, before]]), at: k, date: state.date });
    put(id, after);
    unsaved += 1;
    refresh();
  }

  function put(id, one) {
    if (!one || isEmpty(one)) state.answers.delete(id);
    else state.answers.set(id, one);
  }

  function undo() {
    const last = past.pop();
    if (!last) return say("Nothing to undo.");
    for (const [id, before] of last.answers) put(id, before);
    unsaved += 1;
    show(last.at, last.date);
    for (const id of last.answers.keys()) drawSpot(place.get(id));
    say(last.answers.size > 1 ? `Undone: ${number(last.answers.size)} tiles are as before.` : "Undone.");
  }

  function clear() {
    if (!state.answers.size) return say("There are no answers yet.");
    const ids = [...state.answers.keys()];
    past.push({ answers: new Map(state.answers), at: state.at, date: state.date });
    state.answers.clear();
    unsaved += 1;
    ids.forEach((id) => drawSpot(place.get(id)));
    show(0);
    say("All answers cleared. U brings them back.");
  }

  // ---- answering

  function choose(choice) {
    if (LABELLING) return choice === "a" ? sameElsewhere() : leaveOut();
    const k = state.at;
    change(k, (one) => (one.answer = choice));
    say(`${GLYPHS[choice]} ${WORDS[choice]}`);
    if (!$("model-show").checked) forward();
  }

  function classify(kind) {
    if (kind >= classes.length) return;
    const { name } = classes[kind];
    const date = dates[state.date];
    const k = state.at;
    change(k, (one) => {
      one.classes[date] = name;
      one.left = one.left.filter((other) => other !== date);
    });
    say(`${date}: ${name}`);
    afterDate(k);
  }

  function leaveOut() {
    const date = dates[state.date];
    const k = state.at;
    change(k, (one) => {
      delete one.classes[date];
      if (!one.left.includes(date)) one.left.push(date);
    });
    say(`${date}: left out`);
    afterDate(k);
  }

  /** On to the next date of the tile, and after the last one, where dates are what is asked, to the next tile. */
  function afterDate(k) {
    if (!LABELLING) return focusDate(Math.min(state.date + 1, dates.length - 1));
    const following = dates.findIndex((date, t) => t > state.date && !settled(k, date) && tiles[k].pictures[t]);
    if (following >= 0) focusDate(following);
    else if (isDone(k)) forward();
    else focusDate(dates.findIndex((date, t) => !settled(k, date) && tiles[k].pictures[t]));
  }

  function sameElsewhere() {
    const k = state.at;
    const one = answerOf(k);
    const given = [state.date, state.date - 1, ...dates.keys()].map((t) => one.classes[dates[t]]).find((name) => name !== undefined);
    if (given === undefined) return say("Name the class of one date first.");
    change(k, (after) => {
      dates.forEach((date, t) => {
        if (tiles[k].pictures[t] && !settled(k, date)) after.classes[date] = given;
      });
    });
    say(`${given} on the other dates`);
    forward();
  }

  function unclassify() {
    change(state.at, (one) => {
      delete one.classes[dates[state.date]];
      one.left = one.left.filter((other) => other !== dates[state.date]);
    });
  }

  /** The next tile without an answer, from here on and then from the start; the same tile where there is none. */
  function forward() {
    for (let step = 1; step <= tiles.length; step++) {
      const k = (state.at + step) % tiles.length;
      if (!isDone(k)) return show(k);
    }
    refresh();
    say(
      LABELLING
        ? "All tiles are labelled. Save the answers."
        : purpose === "estimation"
          ? "All tiles are answered. Save the answers, and give the file to geoclass estimate."
          : "All tiles are answered. Save the answers.",
    );
  }

  const move = (step) => show(Math.min(tiles.length - 1, Math.max(0, state.at + step)));

  // ---- one tile

  const figures = dates.map((date, t) => {
    const figure = element("figure", "date");
    figure.tabIndex = 0;
    figure.setAttribute("role", "group");
    figure.setAttribute("aria-label", `${date}, date ${t + 1} of ${dates.length}`);
    const caption = figure.appendChild(element("figcaption"));
    caption.append(element("b", "", date), element("span", "given"));
    const frame = figure.appendChild(element("div", "frame"));
    const image = frame.appendChild(element("img"));
    image.alt = "";
    image.draggable = false;
    frame.append(element("i"), element("span", "gone", "No picture of this date"));
    figure.addEventListener("focus", () => setDate(t));
    return figure;
  });

  function show(k, date) {
    state.at = k;
    const tile = tiles[k];
    figures.forEach((figure, t) => {
      const source = tile.pictures[t];
      const image = figure.querySelector("img");
      image.hidden = !source;
      figure.querySelector(".gone").hidden = Boolean(source);
      if (source) image.src = `data:image/jpeg;base64,${source}`;
      else image.removeAttribute("src");
    });
    const unsettled = LABELLING ? dates.findIndex((day, t) => tile.pictures[t] && !settled(k, day)) : 0;
    focusDate(date ?? Math.max(0, unsettled));
    $("tile-step").textContent = `Tile ${number(k + 1)} of ${number(tiles.length)}`;
    $("tile-facts").replaceChildren(...tile.facts.map((fact) => element("li", "", fact)));
    $("tile-id").textContent = tile.id;
    $("tile-at").textContent = tile.at.map((value) => value.toFixed(5)).join(", ");
    $("note").value = answerOf(k).note;
    refresh();
  }

  function outside(text, address) {
    const link = element("a", "", `${text} ↗`);
    link.href = address;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    return link;
  }

  /** Make date t the one that digits name, and take the keyboard there unless it is in a field. */
  function focusDate(t) {
    setDate(t);
    const inField = document.activeElement?.matches("input[type=text], textarea");
    if (!inField && !document.querySelector("dialog[open]")) figures[t].focus({ preventScroll: true });
  }

  function setDate(t) {
    state.date = t;
    const over = t === 0 ? dates.length - 1 : t;
    figures.forEach((figure, k) => {
      figure.classList.toggle("now", k === t);
      figure.classList.toggle("under", k === 0);
      figure.classList.toggle("over", k === over && k > 0);
    });
    for (const [k, button] of [...$("dates").children].entries()) button.setAttribute("aria-pressed", String(k === t));
    refreshClasses();
  }

  /** All that depends on the answers of the tile shown. */
  function refresh() {
    const one = answerOf(state.at);
    for (const button of $("choices").children) {
      if (!LABELLING) button.setAttribute("aria-pressed", String(one.answer === button.dataset.choice));
    }
    figures.forEach((figure, t) => {
      const name = one.classes[dates[t]];
      const given = figure.querySelector(".given");
      given.replaceChildren();
      if (name !== undefined) given.append(swatch(name), element("span", "", name));
      else if (one.left.includes(dates[t])) given.append(element("span", "", "left out"));
    });
    $("back").disabled = state.at === 0;
    $("next").disabled = state.at === tiles.length - 1;
    $("undo").disabled = !past.length;
    refreshClasses();
    refreshModel();
    drawSpot(state.at);
    for (const spot of $("strip").querySelectorAll("[aria-current]")) spot.removeAttribute("aria-current");
    const spot = $("strip").children[state.at];
    spot.setAttribute("aria-current", "true");
    const strip = $("strip");
    const top = spot.offsetTop - strip.offsetTop;
    if (top < strip.scrollTop || top + spot.offsetHeight > strip.scrollTop + strip.clientHeight) strip.scrollTop = top - strip.clientHeight / 2;
    showProgress();
    keep();
  }

  function refreshClasses() {
    if (!classes.length) return;
    const date = dates[state.date];
    const given = answerOf(state.at).classes[date];
    $("classes-of").textContent = LABELLING ? `Class in ${date}` : `Class in ${date}, if you like`;
    for (const [k, button] of [...$("classes-list").children].entries()) {
      button.setAttribute("aria-pressed", String(classes[k].name === given));
    }
  }

  function refreshModel() {
    const tile = tiles[state.at];
    // The change map shows what the model said, so for a sample it waits for the answer as well.
    const map = purpose !== "estimation" || isDone(state.at) ? tile.map : null;
    const links = [["Google", tile.google], ["OpenStreetMap", tile.osm], ["Change map", map]];
    $("tile-links").replaceChildren(...links.filter((link) => link[1]).map(([text, address]) => outside(text, address)));
    const may = isDone(state.at) && $("model-show").checked;
    $("model").hidden = !tiles.some((other) => other.model.length);
    $("model-lines").replaceChildren(...(may ? tile.model : []).map((line) => element("li", "", line)));
    $("model-hidden").textContent = may ? "" : isDone(state.at) ? "Hidden." : "Hidden until you have answered, so that it does not lead you.";
  }

  function drawSpot(k) {
    const spot = $("strip").children[k];
    const one = answerOf(k);
    const words = LABELLING
      ? dates.map((date) => one.classes[date] ?? (one.left.includes(date) ? "left out" : "no label")).join(", ")
      : WORDS[one.answer] ?? "not answered";
    spot.setAttribute("aria-label", `Tile ${k + 1}: ${words}`);
    spot.title = `${k + 1}: ${words}`;
    if (!LABELLING) {
      spot.dataset.answer = one.answer;
      spot.textContent = GLYPHS[one.answer] ?? "";
      return;
    }
    spot.replaceChildren(
      ...dates.map((date) => {
        const part = element("i");
        const colour = one.left.includes(date) ? "var(--unsure)" : colourOf.get(one.classes[date]);
        if (colour) part.style.setProperty("--swatch", colour);
        return part;
      }),
    );
  }

  function showProgress() {
    const done = tiles.filter((_, k) => isDone(k)).length;
    $("bar").style.width = `${(100 * done) / tiles.length}%`;
    $("progress").setAttribute("aria-valuemax", String(tiles.length));
    $("progress").setAttribute("aria-valuenow", String(done));
    $("count").textContent = `${number(done)} of ${number(tiles.length)} ${LABELLING ? "labelled" : "answered"}`;
    showKept();
  }

  function showKept() {
    const file = unsaved ? `${plural(unsaved, "change", "changes")} not in a file yet` : state.answers.size ? "Saved as a file" : "";
    $("kept").textContent = kept ? file : `This browser keeps nothing for this page: save before you close it. ${file}`;
  }

  const say = (text) => ($("status").textContent = text);

  // ---- views

  function setView(view) {
    state.view = view;
    for (const input of document.getElementsByName("view")) input.checked = input.value === view;
    $("pictures").dataset.view = view;
    $("slider").hidden = view !== "swipe";
    $("dates").hidden = view === "side" || (view === "swipe" && dates.length < 3);
  }

  function flip() {
    const next = (state.date + 1) % dates.length;
    if (state.view !== "flip") setView("flip");
    focusDate(next);
  }

  function cycle() {
    const views = [...document.getElementsByName("view")].map((input) => input.value);
    setView(views[(views.indexOf(state.view) + 1) % views.length]);
    focusDate(state.date);
  }

  function setShare(share) {
    $("share").value = String(share);
    $("pictures").style.setProperty("--share", `${share}%`);
  }

  function makeViews() {
    $("pictures").style.setProperty("--across", String(dates.length > 4 ? Math.ceil(dates.length / 2) : dates.length));
    $("pictures").style.setProperty("--edge", `${(100 * data.context) / (1 + 2 * data.context)}%`);
    $("pictures").toggleAttribute("data-dense", dates.length > 4);
    $("pictures").classList.toggle("labels", LABELLING);
    $("pictures").append(...figures);
    dates.forEach((date, t) => {
      const button = $("dates").appendChild(element("button", "", date));
      button.type = "button";
      button.addEventListener("focus", () => setDate(t));
      button.addEventListener("click", () => setDate(t));
    });
    for (const input of document.getElementsByName("view")) {
      input.addEventListener("change", () => setView(input.value));
      if (dates.length < 2) $("view").hidden = true;
    }
    $("share").addEventListener("input", () => setShare(Number($("share").value)));
    const drag = (event) => {
      if (state.view !== "swipe" || (event.type === "pointermove" && !event.buttons)) return;
      const box = figures[0].querySelector(".frame").getBoundingClientRect();
      setShare(Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width))));
    };
    $("pictures").addEventListener("pointerdown", drag);
    $("pictures").addEventListener("pointermove", drag);
    const tick = (name, className, wanted) => {
      const refreshTick = () => $("pictures").classList.toggle(className, $(name).checked === wanted);
      $(name).checked = $(name).defaultChecked; // browsers restore ticks on reload, but not what they did
      $(name).addEventListener("change", refreshTick);
      refreshTick();
    };
    tick("bright", "bright", true);
    tick("outline", "plain", false);
    setShare(50);
    setView(!LABELLING && dates.length > 1 && matchMedia("(max-width: 640px)").matches ? "swipe" : "side");
  }

  // ---- CSV (RFC 4180), out and in

  const quoted = (text) => (/[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text);

  function header() {
    return LABELLING
      ? ["sample_id", "tile_id", "date", "class", "reviewer", "note", "purpose", "time"]
      : ["sample_id", "tile_id", "answer", ...(classes.length ? dates.map((date) => `class_${date}`) : []), "reviewer", "note", "purpose", "time"];
  }

  function table() {
    const rows = [];
    for (const tile of tiles) {
      const one = state.answers.get(tile.id);
      if (!one) continue;
      const tail = [state.reviewer, one.note, purpose, one.time];
      const named = dates.map((date) => one.classes[date] ?? "");
      if (!LABELLING) rows.push([data.id, tile.id, one.answer, ...(classes.length ? named : []), ...tail]);
      else dates.forEach((date, t) => named[t] && rows.push([data.id, tile.id, date, named[t], ...tail]));
    }
    return [header(), ...rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
  }

  const takeNote = () => change(state.at, (one) => (one.note = $("note").value.trim()));

  function save() {
    takeNote();
    const plain = (text) => text.normalize("NFKD").replace(/[^\w.-]+/g, "-").replace(/^[-.]+|[-.]+$/g, "");
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
    link.download = `${[plain(data.id), plain(state.reviewer), LABELLING ? "labels" : "answers"].filter(Boolean).join("-")}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    unsaved = 0;
    keep();
    showKept();
    say(`Saved as ${link.download}.${state.reviewer ? "" : " It names no reviewer: fill in your name and save again to have answers of several people told apart."}`);
  }

  /** The rows of a CSV text, each a list of fields. */
  function parse(text) {
    const rows = [[]];
    const pattern = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n|\n|\r|$)/y;
    pattern.lastIndex = text.startsWith("\ufeff") ? 1 : 0;
    while (pattern.lastIndex < text.length) {
      const found = pattern.exec(text);
      if (!found) throw new Error("a quotation mark is out of place");
      rows.at(-1).push(found[1] === undefined ? found[2] : found[1].replaceAll('""', '"'));
      if (found[3] === ",") {
        if (pattern.lastIndex === text.length) rows.at(-1).push("");
      } else rows.push([]);
    }
    return rows.filter((row) => row.some((field) => field !== ""));
  }

  /** Answers out of rows of a CSV: a map of tile to answer, the reviewer, and what was not understood. */
  function readRows(rows) {
    const [names, ...body] = rows;
    const wanted = LABELLING ? ["tile_id", "date", "class"] : ["tile_id", "answer"];
    const absent = wanted.filter((name) => !names?.includes(name));
    if (absent.length) throw new Error(`it has no column ${absent[0]}`);
    const found = { answers: new Map(), reviewer: "", unknown: 0, wrong: 0 };
    for (const row of body) {
      const item = Object.fromEntries(names.map((name, k) => [name, row[k] ?? ""]));
      if (item.sample_id && item.sample_id !== data.id) throw new Error(`its answers are those of ${item.sample_id}, and this page asks for ${data.id}`);
      if (item.purpose && item.purpose !== purpose) throw new Error(`its purpose is ${item.purpose}, and this page's is ${purpose}`);
      if (!place.has(item.tile_id)) found.unknown += 1;
      else readRow(item, found);
    }
    return found;
  }

  function readRow(item, found) {
    const one = found.answers.get(item.tile_id) ?? blank();
    const given = LABELLING ? [[item.date, item.class]] : dates.map((date) => [date, item[`class_${date}`] ?? ""]);
    for (const [date, name] of given) {
      if (dates.includes(date) && colourOf.has(name)) one.classes[date] = name;
      else if (name) found.wrong += 1;
    }
    const answer = (item.answer ?? "").trim().toLowerCase();
    if (!LABELLING && answer && !["y", "n", "?"].includes(answer)) found.wrong += 1;
    found.reviewer ||= item.reviewer ?? "";
    found.answers.set(item.tile_id, cleaned({ ...one, answer, note: item.note, time: item.time }));
  }

  async function open(file) {
    try {
      const found = readRows(parse(await file.text()));
      past.push({ answers: new Map([...found.answers.keys()].map((id) => [id, state.answers.get(id)])), at: state.at, date: state.date });
      for (const [id, one] of found.answers) put(id, one);
      for (const id of found.answers.keys()) drawSpot(place.get(id));
      if (!state.reviewer && found.reviewer) $("reviewer").value = state.reviewer = found.reviewer.slice(0, 80);
      const first = tiles.findIndex((_, k) => !isDone(k));
      show(first < 0 ? 0 : first);
      const odd = [
        found.unknown && `${plural(found.unknown, "row is", "rows are")} of tiles that are not on this page`,
        found.wrong && `${plural(found.wrong, "entry was", "entries were")} not understood`,
      ].filter(Boolean);
      say(`${plural(found.answers.size, "tile", "tiles")} read from ${file.name}${odd.length ? `; ${odd.join("; ")}` : ""}.`);
    } catch (error) {
      say(`${file.name} was not read: ${error.message}.`);
    }
  }

  // ---- the page

  function makeHead() {
    $("purpose").textContent = data.purpose_name;
    $("title").textContent = data.title;
    $("question").textContent = data.question;
    $("hint").textContent = data.hint;
    $("why").textContent = data.why;
    if (purpose === "estimation") $("why-title").textContent = "Why these tiles, and no others";
    const notes = [...data.notes];
    if (data.coarse.length) notes.push(`${data.coarse.join(", ")}: the imagery itself was not found, and its coarse preview is shown. Answer “can’t tell” rather than guess.`);
    $("notes").hidden = !notes.length;
    $("notes").append(...notes.map((note) => element("p", "", note.charAt(0).toUpperCase() + note.slice(1))));
    $("foot").textContent = `${data.views.join(" · ")}. Colours follow one fixed rule for all tiles and dates. Sample ${data.id}, ${plural(tiles.length, "tile", "tiles")}. Written by geoclass ${data.version}. Your answers stay in this browser until you save them. This page asks nothing of any network; its links open other sites.`;
    $("reviewer").value = state.reviewer;
  }

  function makeChoices() {
    for (const [key, text, colour] of CHOICES) {
      if (key === "a" && dates.length < 2) continue;
      const button = $("choices").appendChild(element("button", "choice", text));
      button.type = "button";
      button.dataset.choice = key;
      button.style.setProperty("--colour", `var(${colour})`);
      button.append(element("kbd", "", key.toUpperCase()));
      button.addEventListener("click", () => choose(key));
    }
    $("classes").hidden = !classes.length;
    classes.forEach((item, k) => {
      const button = $("classes-list").appendChild(element("button", "class"));
      button.type = "button";
      if (k < 9) button.append(element("kbd", "", String(k + 1)));
      button.append(swatch(item.name), item.name);
      button.addEventListener("click", () => (button.getAttribute("aria-pressed") === "true" ? unclassify() : classify(k)));
    });
  }

  function makeStrip() {
    tiles.forEach((_, k) => {
      const spot = $("strip").appendChild(element("button", "spot"));
      spot.type = "button";
      spot.tabIndex = -1; // the arrow keys reach every tile
      spot.addEventListener("click", () => show(k));
      drawSpot(k);
    });
    if (LABELLING) return $("key").remove();
    for (const [answer, word] of Object.entries(WORDS)) {
      const entry = $("key").appendChild(element("span"));
      const mark = entry.appendChild(element("i", "spot", GLYPHS[answer]));
      mark.style.fontStyle = "normal";
      mark.dataset.answer = answer;
      entry.append(word);
    }
  }

  function makeKeys() {
    const list = [
      ...(LABELLING
        ? [["1 … 9", "class of the date with the frame"], ["?", "leave this date out"], ["A", "the same class on the tile's other dates"], ["0", "take the class of this date back"]]
        : [["Y N ?", "yes, no, can’t tell, and on to the next tile"], ["1 … 9", "class of the date in focus (Tab goes to the next date)"], ["0", "take the class of this date back"]]),
      ["← →", "previous, next tile"], ["Enter", "next tile without an answer"], ["U", "undo"], ["Tab", "next date"], ["Space", "flip to the next date in place"],
      ["V", "side by side, swipe, flip"], ["B", "brighter, all dates alike"], ["O", "outline on or off"], ["M", "show the model's answer after mine"],
      ["Ctrl S", "save the answers as CSV"], ["Esc", "leave a field"], ["H", "this list"],
    ].filter(([keys]) => (classes.length || !/[019]/.test(keys)) && (keys !== "M" || tiles.some((tile) => tile.model.length)));
    for (const [keys, text] of list) {
      const term = $("keys-list").appendChild(element("dt"));
      term.append(...keys.split(" ").map((key) => (key === "…" ? "…" : element("kbd", "", key))));
      $("keys-list").append(element("dd", "", text));
    }
  }

  const press = (name) => () => $(name).click();
  const KEYS = {
    ArrowLeft: () => move(-1), ArrowRight: () => move(1), u: undo, v: cycle, b: press("bright"), o: press("outline"), m: press("model-show"),
    h: () => $("keys").showModal(), 0: unclassify, Enter: forward, " ": flip, "?": () => choose("?"), "/": () => choose("?"),
    ...(LABELLING ? { a: () => choose("a") } : { y: () => choose("y"), n: () => choose("n") }),
  };

  function onKey(event) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if ((event.ctrlKey || event.metaKey) && key === "s") {
      event.preventDefault();
      return save();
    }
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { target } = event;
    if (target.matches("input[type=text], textarea")) {
      if (key === "Escape") figures[state.date].focus();
      return;
    }
    const own = target.matches("input") ? ["ArrowLeft", "ArrowRight", " "] : target.matches("button, a") ? ["Enter", " "] : [];
    if (own.includes(key)) return;
    if (event.repeat && !["ArrowLeft", "ArrowRight", "u"].includes(key)) return; // one press, one answer
    const act = /^[1-9]$/.test(key) && classes.length ? () => classify(Number(key) - 1) : Object.hasOwn(KEYS, key) ? KEYS[key] : null;
    if (!act) return;
    event.preventDefault();
    act();
  }

  function listen() {
    $("back").addEventListener("click", () => move(-1));
    $("next").addEventListener("click", () => move(1));
    $("undo").addEventListener("click", undo);
    $("skip").addEventListener("click", forward);
    $("clear").addEventListener("click", clear);
    $("save").addEventListener("click", save);
    $("open").addEventListener("click", press("file"));
    $("file").addEventListener("change", () => {
      const [file] = $("file").files;
      if (file) open(file).finally(() => ($("file").value = ""));
    });
    $("reviewer").addEventListener("input", () => {
      state.reviewer = $("reviewer").value.trim();
      keep();
    });
    $("note").addEventListener("change", takeNote);
    $("model-show").checked = false;
    $("model-show").addEventListener("change", refreshModel);
    $("keys-open").addEventListener("click", KEYS.h);
    $("keys-close").addEventListener("click", () => $("keys").close());
    document.addEventListener("keydown", onKey);
    addEventListener("storage", (event) => {
      if (event.key !== KEY || !event.newValue) return; // another tab with this page went on
      restore(event.newValue);
      tiles.forEach((_, k) => drawSpot(k));
      refresh();
    });
    addEventListener("beforeunload", (event) => {
      if (!kept && unsaved) event.preventDefault();
    });
  }

  load();
  makeHead();
  makeChoices();
  makeViews();
  makeStrip();
  makeKeys();
  listen();
  show(state.at);
})();
