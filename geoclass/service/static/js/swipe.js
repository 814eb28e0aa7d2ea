/* The divider between two maps: a slider as wide as the map, so that pointer, touch and keys all move it. */

import { make } from "./dom.js";

/** Lay it over `frame`; `moved(share)` is called with 0 to 1. */
export function swipe(frame, moved) {
  const input = make("input", { type: "range", min: "0", max: "1000", step: "5", value: "500", class: "swipe", "aria-label": "Divider between the two maps" });
  const line = make("div", { class: "swipe-line", "aria-hidden": "true" });
  const tell = () => {
    const share = input.value / 1000;
    line.style.left = `${100 * share}%`;
    input.setAttribute("aria-valuetext", `${Math.round(100 * share)} % of the first map`);
    moved(share);
  };
  input.addEventListener("input", tell);
  frame.append(line, input);
  tell();
  return {
    again: tell,
    remove: () => {
      line.remove();
      input.remove();
    },
  };
}
