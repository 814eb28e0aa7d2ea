/* Pictures, fetched with the token and kept while they are on show. */
import { blob } from "./server.js";

const kept = new Map();

/** The address of a tile's picture, or nothing where it cannot be had. */
export function pictureOf(id) {
  if (!kept.has(id)) kept.set(id, blob(`/tiles/${id}.jpg`).then((found) => URL.createObjectURL(found)).catch(() => forget(id)));
  return kept.get(id);
}

function forget(id) {
  kept.delete(id); // asked for again when it is shown again
  return "";
}

/** Let go of the pictures of all tiles but these. */
export function keepOnly(ids) {
  for (const [id, picture] of kept) {
    if (ids.has(id)) continue;
    kept.delete(id);
    picture.then((url) => url && URL.revokeObjectURL(url));
  }
}

export async function show(image, id) {
  image.dataset.tile = id;
  const url = await pictureOf(id);
  if (image.dataset.tile !== id) return; // another tile came meanwhile
  image.classList.toggle("gone", !url);
  if (url) image.src = url;
  else image.removeAttribute("src");
}
