/* The models of the service: what each was trained on, how right it was, and which file it is. */

import { ask } from "./api.js";
import { fill, make, swatch, terms } from "./dom.js";
import { percent, when } from "./words.js";

function card(model) {
  const classes = model.classes.map((name, k) => make("li", {}, swatch(model.colours[k]), name));
  return make("section", { class: "card" },
    make("h2", {}, model.name, model.default && make("span", { class: "badge" }, "default")),
    terms([
      ["Class scheme", `${model.scheme} (${model.classes.length} classes)`],
      ["Imagery", `${model.sensor}: ${model.bands.join(", ")}`],
      ["One tile", `${model.size_px} × ${model.size_px} pixels${model.gsd_m ? ` of ${model.gsd_m} m` : ""}`],
      ["Accuracy", model.accuracy === null ? "not measured" : `${percent(model.accuracy)} in its training's test`],
      ["Network", model.backbone],
      ["Runs on", model.runtime],
      ["Made", when(model.created)],
      ["Hash", make("code", {}, model.digest)],
    ]),
    make("h3", {}, "Classes"),
    make("ul", { class: "chips" }, classes));
}

export async function modelsPage(place, signal) {
  fill(place, make("h1", {}, "Models"), make("p", { class: "lead" }, "What this service classifies with. Add models with geoclass serve --model."));
  const { models } = await ask("/v1/models", { signal });
  place.append(make("div", { class: "cards" }, models.map(card)));
}
