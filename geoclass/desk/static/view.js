/* Which tiles are on show, in focus and selected. */
import { $ } from "./dom.js";
import { drawGallery, drawLarge, drawTile, drawTitle } from "./gallery.js";
import { drawStatus } from "./panels.js";
import { get, query } from "./server.js";
import { focused, PAGE, state } from "./state.js";

export function focus(k, event) {
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

export function toggle() {
  const tile = focused();
  if (!tile) return;
  if (!state.selected.delete(tile.id)) state.selected.add(tile.id);
  state.anchor = state.at;
  drawTile(tile);
  drawTitle();
}

export function select(tiles) {
  state.selected = new Set(tiles.map((tile) => tile.id));
  state.tiles.forEach(drawTile);
  drawTitle();
}

export function move(step, several) {
  const k = Math.min(state.tiles.length - 1, Math.max(0, state.at + step));
  if (several && !state.selected.size) state.anchor = state.at;
  if (!several) state.anchor = k;
  focus(k);
  if (several) {
    selectTo(k);
    drawTitle();
  }
}

export async function load(offset = 0) {
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

export async function look() {
  state.status = await get(query({ who: state.who }));
  drawStatus();
}
