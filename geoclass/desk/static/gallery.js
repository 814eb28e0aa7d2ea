/* The gallery of the next tiles, and the large picture of the one in focus. */
import { $, element, number, percent, plural, swatch } from "./dom.js";
import { keepOnly, show } from "./pictures.js";
import { colourOf, focused, state } from "./state.js";

const WORDS = { mixed: "mixed", skip: "skipped", "": "" };
export const wordOf = (tile) => (tile.kind === "class" ? tile.label : WORDS[tile.kind]);

let focus = () => {};
export const onFocus = (given) => (focus = given);

function item(tile) {
  const made = element("li", "tile");
  made.id = `tile-${tile.id}`;
  made.setAttribute("role", "option");
  const frame = made.appendChild(element("span", "thumb"));
  const image = frame.appendChild(element("img"));
  image.alt = "";
  image.draggable = false;
  frame.append(outline(element("i"), tile));
  made.append(element("span", "answer"));
  made.addEventListener("click", (event) => focus(state.tiles.findIndex((one) => one.id === tile.id), event));
  show(image, tile.id);
  return made;
}

function outline(mark, tile) {
  mark.hidden = !tile.edge;
  mark.style.inset = `${100 * tile.edge}%`;
  return mark;
}

/** Show the tiles; those that were there move to where they are now. */
export function drawGallery() {
  const gallery = $("gallery");
  const before = new Map([...gallery.children].map((one) => [one.id, one.getBoundingClientRect()]));
  const known = new Map([...gallery.children].map((one) => [one.id, one]));
  gallery.replaceChildren(...state.tiles.map((tile) => known.get(`tile-${tile.id}`) ?? item(tile)));
  gallery.hidden = !state.tiles.length;
  keepOnly(new Set(state.tiles.map((tile) => tile.id)));
  state.tiles.forEach(drawTile);
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const one of gallery.children) {
    const from = before.get(one.id);
    if (!from) continue;
    const to = one.getBoundingClientRect();
    const move = `translate(${from.left - to.left}px, ${from.top - to.top}px)`;
    if (from.left !== to.left || from.top !== to.top) one.animate([{ transform: move }, { transform: "none" }], { duration: 450, easing: "ease-out" });
  }
}

/** What a tile was answered, whether it is selected and in focus. */
export function drawTile(tile) {
  const made = $(`tile-${tile.id}`);
  if (!made) return;
  const inFocus = focused()?.id === tile.id;
  made.classList.toggle("now", inFocus);
  made.classList.toggle("pending", Boolean(tile.pending));
  made.dataset.kind = tile.kind;
  made.setAttribute("aria-selected", String(state.selected.has(tile.id)));
  const word = wordOf(tile);
  made.setAttribute("aria-label", [`tile ${tile.name}`, word || "no answer", tile.note && "with a note"].filter(Boolean).join(", "));
  const answer = made.querySelector(".answer");
  answer.replaceChildren();
  if (tile.kind === "class") answer.append(swatch(colourOf(tile.label)));
  answer.append(element("span", "", word));
  if (tile.note) answer.append(element("b", "noted", "✎"));
  if (inFocus) $("gallery").setAttribute("aria-activedescendant", made.id);
}

/** The tile in focus, large. */
export function drawLarge() {
  const tile = focused();
  $("frame").hidden = !tile;
  $("name").textContent = tile?.name ?? "";
  $("told").textContent = "";
  if (!tile) return;
  show($("large"), tile.id);
  $("large").alt = `Tile ${tile.name}${tile.edge ? " with the ground around it" : ""}`;
  outline($("outline"), tile);
  const word = wordOf(tile);
  $("large-badge").hidden = !word;
  $("large-badge").replaceChildren(...(tile.kind === "class" ? [swatch(colourOf(tile.label))] : []), element("span", "", word));
  $("told").textContent = tellSuggestion(tile);
}

/** What the head, and the data, hold a tile for, in words; nothing before it may be known. */
export function tellSuggestion(tile) {
  const said = [];
  if (tile.suggested) said.push(`the head: ${tile.suggested} ${percent(tile.probability)}`);
  if (tile.known) said.push(`the data: ${tile.known}`);
  return said.join(" · ");
}

export function drawTitle() {
  const chosen = state.selected.size;
  const from = state.offset ? `, from the ${number(state.offset + 1)}th` : "";
  $("tray-title").textContent = chosen ? `${plural(chosen, "tile", "tiles")} selected` : `Next ${plural(state.tiles.length, "tile", "tiles")} of ${number(state.waiting)}${from}`;
}
