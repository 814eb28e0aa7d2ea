/* The results of a job as files. */

import { save } from "./api.js";
import { fill, make } from "./dom.js";
import { size } from "./words.js";

const KINDS = {
  gpkg: ["GeoPackage", "tiles with classes and probabilities, styled for QGIS"],
  cog: ["Class raster", "GeoTIFF (COG), one pixel a tile"],
  geojson: ["GeoJSON", "tiles for web maps"],
  map: ["Map page", "one HTML file that needs no network"],
  summary: ["Summary", "counts, areas and how it was made, JSON"],
  preview: ["Preview picture", "the imagery, GeoTIFF"],
};

/** A button for each result. */
export function downloads(job) {
  const said = make("p", { class: "muted", role: "status" });
  const buttons = Object.entries(job.results).map(([kind, path]) => {
    const [title, about] = KINDS[kind] || [kind, ""];
    const button = make("button", { type: "button", class: "download", "data-kind": kind }, make("strong", {}, title), make("span", {}, about));
    button.addEventListener("click", async () => {
      fill(said, `Fetching ${title}…`);
      button.disabled = true;
      try {
        fill(said, `${title} saved, ${size(await save(path, `${job.name}.${kind}`))}.`);
      } catch (error) {
        fill(said, error.message);
      }
      button.disabled = false;
    });
    return make("li", {}, button);
  });
  return make("div", {}, make("ul", { class: "downloads" }, buttons), said);
}
