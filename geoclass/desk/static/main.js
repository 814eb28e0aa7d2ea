/* The labelling desk: what its acts do. Answers are shown at once, and sent until the desk has them on its disk. */
import * as dialogs from "./dialogs.js";
import { $, plural, say, warn } from "./dom.js";
import { drawGallery, drawLarge, drawTile, drawTitle, onFocus, tellSuggestion, wordOf } from "./gallery.js";
import { listen } from "./keys.js";
import { drawClasses, drawKept, drawScores, drawStatus } from "./panels.js";
import { act, blob, flush, get, give, onAnswers, post, query, Refused, setToken, takeToken, takeUp, unsent } from "./server.js";
import { focused, nextOpen, PAGE, state, targets, tileOf } from "./state.js";

const RETRY_MS = 2000;
const LOOK_MS = 1200;

// ---- what is on show

function focus(k, event) {
  if (k < 0 || k >= state.tiles.length) return;
  const before = focused();
  const several = event?.shiftKey;
  if (event && !several) state.anchor = k;
  state.at = k;
  if (several) selectTo(k);
  else if (event && (event.ctrlKey || event.metaKey || state.picking)) toggle();
  if (before) drawTile(before);
  drawTile(focused());
  drawLarge();
  drawTitle();
  $(`tile-${focused().id}`)?.scrollIntoView({ block: "nearest" });
}

function selectTo(k) {
  const [from, to] = [Math.min(state.anchor, k), Math.max(state.anchor, k)];
  state.selected = new Set(state.tiles.slice(from, to + 1).map((tile) => tile.id));
  state.tiles.forEach(drawTile);
}

function toggle() {
  const tile = focused();
  if (!tile) return;
  if (!state.selected.delete(tile.id)) state.selected.add(tile.id);
  state.anchor = state.at;
  drawTile(tile);
  drawTitle();
}

function select(tiles) {
  state.selected = new Set(tiles.map((tile) => tile.id));
  state.tiles.forEach(drawTile);
  drawTitle();
}

function move(step, several) {
  const k = Math.min(state.tiles.length - 1, Math.max(0, state.at + step));
  if (several && !state.selected.size) state.anchor = state.at;
  if (!several) state.anchor = k;
  focus(k);
  if (several) {
    selectTo(k);
    drawTitle();
  }
}

async function load(offset = 0) {
  const asked = { who: state.who, order: state.order, count: PAGE, offset, second: state.second };
  const { tiles, waiting } = await get(`/queue${query(asked)}`);
  Object.assign(state, { tiles, waiting, offset, at: 0, anchor: 0, selected: new Set() });
  drawGallery();
  drawLarge();
  drawTitle();
  $("empty").hidden = Boolean(tiles.length);
  $("empty").textContent = waiting ? "There are no more tiles. Page up for those before." : "Every tile is labelled.";
  const open = tiles.findIndex((tile) => !tile.kind);
  focus(Math.max(0, open));
}

async function look() {
  state.status = await get(query({ who: state.who }));
  drawStatus();
}

/** A few hundred answers a minute need not ask for the status as often. */
let looking = null;
function lookSoon() {
  looking ??= setTimeout(() => {
    looking = null;
    look().catch(lost);
  }, 150);
}

// ---- answering

function answer(kind, label = "") {
  const of = targets();
  if (!of.length) return;
  for (const tile of of) {
    Object.assign(tile, { before: { kind: tile.kind, label: tile.label }, kind, label, pending: true });
    drawTile(tile);
  }
  say(of.length > 1 ? `${plural(of.length, "tile", "tiles")}: ${wordOf(of[0])}` : wordOf(of[0]));
  const several = state.selected.size > 0;
  state.selected.clear();
  state.tiles.forEach(drawTile);
  give("/answers", { who: state.who, tiles: of.map((tile) => tile.id), kind, label });
  next(several);
}

const choose = (k) => k < state.status.classes.length && answer("class", state.status.classes[k].name);

/** On to the next tile without an answer; after the last one the next of the queue come. */
function next(stay = false) {
  const k = nextOpen();
  if (k >= 0) return stay === true && !focused().kind ? focus(state.at) : focus(k);
  drawLarge();
  flush().then(() => (unsent() ? null : load())).catch(lost);
}

function keepNote(text) {
  const of = targets();
  for (const tile of of) {
    tile.note = text;
    drawTile(tile);
  }
  give("/answers", { who: state.who, tiles: of.map((tile) => tile.id), kind: "note", note: text });
  say(text ? "Noted." : "The note is gone.");
}

const undo = () => give("/undo", { who: state.who });

function kept(path, body, told) {
  drawKept();
  if (path === "/undo") return undone(told.tiles);
  for (const id of body.tiles) {
    const tile = tileOf(id);
    if (tile) tile.pending = false;
    if (tile) drawTile(tile);
  }
  for (const found of told.suggestions) {
    const tile = tileOf(found.tile);
    if (tile) Object.assign(tile, { suggested: found.suggested, probability: found.probability, known: found.known });
  }
  if (told.suggestions.length === 1) {
    const tile = tileOf(told.suggestions[0].tile);
    const more = tile ? tellSuggestion(tile) : "";
    if (more) say(`${wordOf(tile)} — ${more}`);
  }
  lookSoon();
}

function undone(tiles) {
  if (!tiles.length) return say("Nothing to undo.");
  const there = tiles.filter((tile) => tileOf(tile.id));
  for (const tile of there) Object.assign(tileOf(tile.id), tile, { suggested: tile.suggested, known: null });
  const others = tiles.filter((tile) => !tileOf(tile.id));
  state.tiles = [...others, ...state.tiles];
  drawGallery();
  focus(state.tiles.findIndex((tile) => tile.id === tiles[0].id));
  say(tiles.length > 1 ? `Undone: ${plural(tiles.length, "tile is", "tiles are")} as before.` : "Undone.");
  lookSoon();
}

function refused(path, body, error) {
  for (const id of body.tiles ?? []) {
    const tile = tileOf(id);
    if (tile) Object.assign(tile, tile.before, { pending: false });
    if (tile) drawTile(tile);
  }
  warn(`Not kept: ${error.message}`);
}

let retrying = null;
function lost(error) {
  drawKept();
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401) return opened.gate();
  const waits = unsent() ? ` ${plural(unsent(), "answer waits", "answers wait")} in this browser and will be sent again.` : "";
  warn(`${error.message}${waits}${error.status ? "" : " Start geoclass label again with the same address and token."}`);
  retrying ??= setTimeout(async () => {
    retrying = null;
    await flush().catch(lost);
    if (unsent() || retrying) return;
    await look().catch(lost);
    if (!retrying) warn($("notes").dataset.standing);
    if (!retrying && nextOpen() < 0) await load().catch(lost);
  }, RETRY_MS);
}

// ---- the head

async function retrain() {
  if (state.training || state.status.stage !== "ready") return say("The head is not ready to be trained yet.");
  state.training = true;
  $("retrain").disabled = true;
  say("Retraining …");
  try {
    await flush();
    const words = drawScores(await post("/retrain", { act: act(), who: state.who }));
    await Promise.all([look(), load()]);
    say(words);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(error.message);
    if (error.status === 401) opened.gate();
  } finally {
    state.training = false;
    $("retrain").disabled = false;
  }
}

/** Until the features are there the page looks now and then. */
async function watch() {
  while (state.status.stage === "features") {
    await new Promise((done) => setTimeout(done, LOOK_MS));
    await look().catch(lost);
    if (state.status.stage === "ready" && !state.tiles.some((tile) => tile.kind)) await load();
  }
}

// ---- exports

async function download(path, name) {
  try {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await blob(path));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    $("exported").textContent = `${name} is saved.`;
  } catch (error) {
    $("exported").textContent = error.message;
  }
}

async function writeDataset() {
  try {
    const { told, next: command } = await post("/dataset", { kind: "dataset" });
    $("exported").textContent = `${told}. Next: ${command}`;
  } catch (error) {
    $("exported").textContent = error.message;
  }
}

// ---- set-up

const ORDERS = ["uncertain", "disagreement", "design"];
function reorder(order = ORDERS[(ORDERS.indexOf(state.order) + 1) % ORDERS.length]) {
  state.order = order;
  $("order").value = order;
  say($("order").selectedOptions[0].textContent);
  return load().catch(lost);
}

function named(who) {
  state.who = who.trim() || state.status?.who || "anonymous";
  try {
    localStorage.setItem("geoclass-desk-who", state.who);
  } catch {
    // asked again next time
  }
  return Promise.all([look(), load()]).catch(lost);
}

function connect() {
  const acts = {
    choose, move, undo, retrain, toggle, mixed: () => answer("mixed"), skip: () => answer("skip"), note: dialogs.note, find: dialogs.find,
    keys: opened.keys, order: () => reorder(), all: () => select(state.tiles), none: () => select([]), next,
    page: (step) => load(Math.max(0, state.offset + step * PAGE)).catch(lost),
  };
  listen($("gallery"), acts);
  onFocus(focus);
  onAnswers({ kept, refused, lost, changed: drawKept });
  for (const name of ["mixed", "skip", "undo", "retrain"]) $(name).addEventListener("click", acts[name]);
  $("note-open").addEventListener("click", acts.note);
  $("more").addEventListener("click", () => acts.page(1));
  $("order").addEventListener("change", () => reorder($("order").value));
  $("who").addEventListener("change", () => named($("who").value));
  $("second").addEventListener("change", () => {
    state.second = $("second").checked;
    load().catch(lost);
  });
  $("select-mode").addEventListener("click", () => {
    state.picking = !state.picking;
    $("select-mode").setAttribute("aria-pressed", String(state.picking));
  });
  $("export-csv").addEventListener("click", () => download("/labels.csv", "labels.csv"));
  $("export-gpkg").addEventListener("click", () => download("/labels.gpkg", "labels.gpkg"));
  $("export-answers").addEventListener("click", () => download("/answers.csv", "answers.csv"));
  $("export-dataset").addEventListener("click", writeDataset);
  addEventListener("beforeunload", (event) => {
    if (unsent()) event.preventDefault();
  });
}

const remembered = () => {
  try {
    return localStorage.getItem("geoclass-desk-who");
  } catch {
    return null;
  }
};

async function start() {
  state.status = await get(query({ who: "-" }));
  state.order = state.status.order;
  $("order").value = state.order;
  $("who").value = remembered() || state.status.who;
  drawClasses(choose);
  takeUp(state.status.store);
  await named($("who").value);
  await flush();
  $("gallery").focus();
  await watch();
}

const opened = dialogs.setUp({
  choose, keepNote, back: () => $("gallery").focus(),
  useToken: (given) => {
    setToken(given);
    (state.status ? flush() : start()).catch(lost);
  },
});
takeToken();
connect();
start().catch(lost);
