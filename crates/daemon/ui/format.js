// Numbers and times as people read them.
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

export function bytes(count) {
  if (count === undefined || count === null) return '–';
  let unit = 0;
  let value = Number(count);
  while (value >= 1024 && unit < UNITS.length - 1) { value /= 1024; unit += 1; }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export const rate = (perSecond) => (perSecond > 0 ? `${bytes(perSecond)}/s` : '–');

export function seconds(total) {
  if (total === undefined || total === null || !Number.isFinite(total)) return '–';
  const whole = Math.max(0, Math.round(total));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor(whole / 60) % 60} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor(whole / 3600) % 24} h`;
}

export function ago(text, now) {
  const then = Date.parse(text);
  if (Number.isNaN(then)) return '–';
  const past = (now - then) / 1000;
  return past < 5 ? 'just now' : `${seconds(past)} ago`;
}

// In the viewer's zone, to the second, with the zone.
export function exact(text) {
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? String(text)
    : time.toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'long' });
}

// The time of day in the viewer's zone.
export function clock(text) {
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? String(text) : time.toLocaleTimeString(undefined, { hour12: false });
}

export const percent = (value) => `${(Math.floor((value ?? 0) * 10) / 10).toFixed(1)} %`;

export const short = (id) => String(id).slice(0, 8);
