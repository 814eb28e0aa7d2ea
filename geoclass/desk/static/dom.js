/* Small helpers on the document. Text is set as text, so that names out of data stay names. */

export const $ = (name) => document.getElementById(name);
export const number = (value) => value.toLocaleString("en-GB");
export const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;
export const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)} %`);

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function swatch(colour) {
  const made = element("i", "swatch");
  made.setAttribute("aria-hidden", "true");
  made.style.setProperty("--swatch", colour);
  return made;
}

export const say = (text) => ($("status").textContent = text);

/** A problem that stays on the screen; nothing takes it away again. */
export function warn(text) {
  $("notes").hidden = !text;
  $("notes").textContent = text;
}
