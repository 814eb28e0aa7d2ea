/* Tiles that need a token: Leaflet's own layer asks with <img>, which sends none. */

import { headers } from "./api.js";

const L = window.L;

export const TokenTiles = L.GridLayer.extend({
  initialize(template, options) {
    L.GridLayer.prototype.initialize.call(this, options);
    this.template = template;
    this.on("tileunload", ({ tile }) => tile.stop?.abort());
  },

  createTile(coords, done) {
    const image = L.DomUtil.create("img");
    image.alt = "";
    image.stop = new AbortController();
    this.load(image, L.Util.template(this.template, coords)).then(() => done(null, image), (error) => done(error, image));
    return image;
  },

  async load(image, address) {
    // Browsers ask one server for six things at once: a click must not wait for all tiles.
    const answer = await fetch(address, { headers: headers(), signal: image.stop.signal, credentials: "omit", priority: "low" });
    if (answer.status === 204) return; // beside the scene
    if (!answer.ok) throw new Error(`tile answered ${answer.status}`);
    image.src = URL.createObjectURL(await answer.blob());
    try {
      await image.decode();
    } finally {
      URL.revokeObjectURL(image.src);
    }
  },
});
