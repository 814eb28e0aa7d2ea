/* Answers: shown at once, and sent until the desk has them on its disk. */
import { $, plural, say, warn } from "./dom.js";
import { drawGallery, drawLarge, drawTile, tellSuggestion, wordOf } from "./gallery.js";
import { drawKept } from "./panels.js";
import { flush, give, Refused, unsent } from "./server.js";
import { focused, nextOpen, state, targets, tileOf } from "./state.js";
import { focus, load, look } from "./view.js";

const RETRY_MS = 2000;
const SOON_MS = 150;

/** A few hundred answers a minute need not ask for the status as often. */
let looking = null;
function lookSoon() {
  looking ??= setTimeout(() => {
    looking = null;
    look().catch(lost);
  }, SOON_MS);
}

export function answer(kind, label = "") {
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

export const choose = (k) => k < state.status.classes.length && answer("class", state.status.classes[k].name);

/** On to the next tile without an answer; after the last one the next of the queue come. */
export function next(stay = false) {
  const k = nextOpen();
  if (k >= 0) return stay === true && !focused().kind ? focus(state.at) : focus(k);
  drawLarge();
  flush().then(() => (unsent() ? null : load())).catch(lost);
}

export function keepNote(text) {
  const of = targets();
  for (const tile of of) {
    tile.note = text;
    drawTile(tile);
  }
  give("/answers", { who: state.who, tiles: of.map((tile) => tile.id), kind: "note", note: text });
  say(text ? "Noted." : "The note is gone.");
}

export const undo = () => give("/undo", { who: state.who });

export function kept(path, body, told) {
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

export function refused(path, body, error) {
  for (const id of body.tiles ?? []) {
    const tile = tileOf(id);
    if (tile) Object.assign(tile, tile.before, { pending: false });
    if (tile) drawTile(tile);
  }
  warn(`Not kept: ${error.message}`);
}

let askToken = () => {};
export const onToken = (given) => (askToken = given);

let retrying = null;
export function lost(error) {
  drawKept();
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401) return askToken();
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
