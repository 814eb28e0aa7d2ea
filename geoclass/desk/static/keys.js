/* The keyboard. Every act of the page has a key; none is taken from a field or a dialog. */

/** How many tiles stand side by side in the gallery. */
export function across(gallery) {
  const [first, ...rest] = gallery.children;
  if (!first) return 1;
  const next = rest.findIndex((one) => one.offsetTop !== first.offsetTop);
  return next < 0 ? gallery.children.length : next + 1;
}

/** Call `acts[name]` for each key: see KEYS of dialogs.js. */
export function listen(gallery, acts) {
  const named = {
    m: acts.mixed, s: acts.skip, n: acts.note, u: acts.undo, r: acts.retrain, o: acts.order, a: acts.all, "/": acts.find, "?": acts.keys,
    " ": acts.toggle, Enter: acts.next, Escape: acts.none, PageDown: () => acts.page(1), PageUp: () => acts.page(-1),
  };
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const { target } = event;
    if (target.matches("input[type=text], textarea, select")) {
      if (key === "Escape" || (key === "Enter" && target.matches("input"))) gallery.focus();
      return;
    }
    if ((event.ctrlKey || event.metaKey) && key === "z") {
      event.preventDefault();
      return acts.undo();
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.matches("button, a, input") && ["Enter", " "].includes(key)) return; // its own
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across(gallery), ArrowDown: across(gallery) };
    let act = Object.hasOwn(steps, key) ? () => acts.move(steps[key], event.shiftKey) : Object.hasOwn(named, key) ? named[key] : null;
    if (/^[0-9]$/.test(key)) act = () => acts.choose(key === "0" ? 9 : Number(key) - 1);
    if (!act || (event.repeat && !Object.hasOwn(steps, key))) return; // one press, one answer
    event.preventDefault();
    act();
  });
}
