/* The classes of one map or of two: tiles, hectares, shares. */

import { make, swatch } from "./dom.js";
import { area, change, count, percent } from "./words.js";

function cells(one, other) {
  if (!other) return [make("td", {}, count(one.tiles)), make("td", {}, area(one.area_ha)), make("td", {}, percent(one.share))];
  const same = other.classes.find((each) => each.name === one.name);
  return [make("td", {}, area(one.area_ha)), make("td", {}, same ? area(same.area_ha) : "–"), make("td", {}, same ? change(same.area_ha - one.area_ha) : "–")];
}

/** A table of classes of a map or an area; with `other`, hectares of both and the difference. */
export function classTable(caption, facts, other = null, titles = ["Before", "After"]) {
  const heads = other ? [`${titles[0]}, ha`, `${titles[1]}, ha`, "Change"] : ["Tiles", "Hectares", "Share"];
  const rows = facts.classes.map((item) => make("tr", { "data-class": item.name },
    make("th", { scope: "row" }, swatch(item.colour), item.name), cells(item, other)));
  return make("table", { class: "classes" },
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Class"), heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, rows));
}
