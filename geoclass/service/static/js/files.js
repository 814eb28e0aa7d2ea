/* Choosing files: dropped, or by a button. */

import { fill, fresh, make } from "./dom.js";
import { size } from "./words.js";

const KINDS = ".tif,.tiff,.jp2,.jpg,.jpeg,.png";

/** A place to drop files on. `files()` tells which are chosen. */
export function chooser(changed) {
  const chosen = [];
  const input = make("input", { type: "file", multiple: true, accept: KINDS, id: fresh("files"), class: "visually-hidden" });
  const list = make("ul", { class: "files", "aria-label": "Chosen files" });
  const drop = make("div", { class: "drop" },
    make("p", {}, "Drop a scene here, or"),
    input,
    make("label", { for: input.id, class: "button" }, "Choose files"),
    make("p", { class: "muted" }, "GeoTIFF or JPEG 2000; several files make a mosaic"));

  function show() {
    fill(list, chosen.map((file, number) => make("li", {},
      make("span", { class: "file-name" }, file.name), make("span", { class: "muted" }, size(file.size)),
      make("button", { type: "button", class: "quiet", "aria-label": `Leave out ${file.name}`, onclick: () => leaveOut(number) }, "Remove"))));
    changed(chosen);
  }
  function leaveOut(number) {
    chosen.splice(number, 1);
    show();
    input.focus();
  }
  function add(files) {
    for (const file of files) if (!chosen.some((other) => other.name === file.name && other.size === file.size)) chosen.push(file);
    show();
  }

  input.addEventListener("change", () => {
    add(input.files);
    input.value = "";
  });
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    add(event.dataTransfer.files);
  });
  return { element: make("div", {}, drop, list), files: () => chosen };
}
