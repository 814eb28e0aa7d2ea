/* What the page knows: the desk's status, the tiles on show, which is in focus, and which are selected. */

export const state = {
  status: null, who: "", order: "uncertain", second: false, tiles: [], waiting: 0, offset: 0, at: 0, selected: new Set(), anchor: 0,
  picking: false,
};

export const PAGE = matchMedia("(max-width: 640px)").matches ? 12 : 24;

export const tileOf = (id) => state.tiles.find((tile) => tile.id === id);
export const focused = () => state.tiles[state.at];
export const isDone = (tile) => tile.kind === "class" || tile.kind === "mixed" || tile.kind === "skip";

/** The tiles that an answer goes to: the selected ones, else the one in focus. */
export function targets() {
  if (state.selected.size) return state.tiles.filter((tile) => state.selected.has(tile.id));
  const tile = focused();
  return tile ? [tile] : [];
}

/** The place of the next tile without an answer, after the one in focus and then from the start; -1 where there is none. */
export function nextOpen() {
  const many = state.tiles.length;
  for (let step = 1; step <= many; step++) {
    const k = (state.at + step) % many;
    if (!isDone(state.tiles[k])) return k;
  }
  return -1;
}

export const colourOf = (name) => state.status.classes.find((one) => one.name === name)?.colour ?? "#bbbbbb";
export const keyOf = (k) => (k < 9 ? String(k + 1) : k === 9 ? "0" : "");
