/* Numbers and times as people read them. */

const whole = new Intl.NumberFormat("en");
const hectares = [new Intl.NumberFormat("en", { maximumFractionDigits: 2 }), new Intl.NumberFormat("en", { maximumFractionDigits: 0 })];

export const count = (number) => whole.format(number);
export const tiles = (number) => `${count(number)} ${number === 1 ? "tile" : "tiles"}`;

/** Hectares: with two decimals below a hundred. */
export const area = (ha) => hectares[Math.abs(ha) < 100 ? 0 : 1].format(ha);
export const change = (ha) => (ha > 0 ? "+" : ha < 0 ? "−" : "") + area(Math.abs(ha));

export function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

export function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  const step = bytes < 1000 ? 0 : Math.min(3, Math.floor(Math.log10(bytes) / 3));
  return `${(bytes / 1000 ** step).toFixed(step ? 1 : 0)} ${units[step]}`;
}

/** A span of time, roughly. */
export function span(seconds) {
  if (seconds < 10) return "a few seconds";
  if (seconds < 90) return `${Math.round(seconds / 5) * 5} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

export const when = (text) => (text ? day.format(new Date(text)) : "");
export const time = (text) => clock.format(new Date(text));
export const STATES = { queued: "waiting", running: "running", done: "done", failed: "failed", cancelled: "cancelled" };
