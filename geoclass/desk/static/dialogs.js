/* The dialogs: all keys, find a class, a note, the token. */
import { $, element, plural } from "./dom.js";
import { classButton } from "./panels.js";
import { state, targets } from "./state.js";

const KEYS = [
  ["1 … 9 0", "class of the tile in focus, or of all that are selected"], ["/", "find a class by name"], ["M", "mixed: no single class"],
  ["S", "skip: asked again at the end"], ["N", "note"], ["U", "undo (Ctrl Z too)"], ["← → ↑ ↓", "another tile"],
  ["Shift →", "select further tiles"], ["Space", "select this tile, or not"], ["A", "select all on show"], ["Esc", "select none; leave a field"],
  ["Enter", "next tile without an answer"], ["PgDn PgUp", "next tiles of the queue, those before"], ["R", "retrain the head"], ["O", "another order"], ["?", "this list"],
];

const opener = (name) => () => $(name).showModal();

/** Set the dialogs up; `choose` takes the number of a class, `keepNote` a text, `back` gives the keyboard to the tiles. */
export function setUp({ choose, keepNote, back, useToken }) {
  for (const [keys, text] of KEYS) {
    const term = $("keys-list").appendChild(element("dt"));
    term.append(...keys.split(" ").map((key) => (key === "…" ? "…" : element("kbd", "", key))));
    $("keys-list").append(element("dd", "", text));
  }
  for (const name of ["keys", "find", "note"]) {
    $(`${name}-close`).addEventListener("click", () => $(name).close());
    $(name).addEventListener("close", back);
  }
  $("keys-open").addEventListener("click", opener("keys"));

  const found = () => {
    const text = $("find-text").value.trim().toLowerCase();
    const hits = state.status.classes.map((one, k) => [one, k]).filter(([one]) => one.name.toLowerCase().includes(text));
    return hits.sort(([a], [b]) => Number(b.name.toLowerCase().startsWith(text)) - Number(a.name.toLowerCase().startsWith(text)));
  };
  const take = (k) => {
    $("find").close();
    choose(k);
  };
  $("find-text").addEventListener("input", () => $("find-list").replaceChildren(...found().slice(0, 12).map(([one, k]) => classButton(one, k, take))));
  $("find-text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    const [first] = found();
    if (first) take(first[1]);
  });

  const keep = () => {
    const text = $("note-text").value.trim();
    $("note").close();
    keepNote(text);
  };
  $("note-keep").addEventListener("click", keep);
  $("note-text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) keep();
  });
  $("gate-form").addEventListener("submit", () => useToken($("gate-token").value));
  return { keys: opener("keys"), gate: () => $("gate").open || $("gate").showModal() };
}

export function find() {
  $("find-text").value = "";
  $("find-text").dispatchEvent(new Event("input"));
  $("find").showModal();
}

export function note() {
  const of = targets();
  if (!of.length) return;
  $("note-of").textContent = of.length > 1 ? `On ${plural(of.length, "tile", "tiles")}` : `On tile ${of[0].name}`;
  $("note-text").value = of.length === 1 ? of[0].note : "";
  $("note").showModal();
}
