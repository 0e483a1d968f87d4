// Numbers as people read them: three significant digits, thousands as k, no jumping columns.

const MINUS = '\u2212';
const THIN = '\u202f';

function plain(value: number, digits: number): string {
  const text = Number(value.toPrecision(digits)).toString();
  return text.includes('e') ? value.toExponential(digits - 1) : text;
}

/** A number as short as it can be read: 3 significant digits, thousands as k, millions as M. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  const sign = value < 0 ? MINUS : '';
  if (size >= 999_500_000) return `${sign}${plain(size / 1e9, 3)}B`;
  if (size >= 999_500) return `${sign}${plain(size / 1e6, 3)}M`;
  if (size >= 9_995) return `${sign}${plain(size / 1e3, 3)}k`;
  if (size >= 100) return sign + Math.round(size).toLocaleString('en-US');
  return sign + plain(size, 3);
}

/** A whole number with thousands set apart. */
export function integer(value: number | null | undefined): string {
  return value === null || value === undefined ? '–' : Math.round(value).toLocaleString('en-US');
}

/** A share in percent, with 2 significant digits below 10 %. */
export function percent(share: number | null | undefined): string {
  if (share === null || share === undefined || !Number.isFinite(share)) return '–';
  const value = 100 * share;
  if (value === 0) return '0%';
  if (Math.abs(value) >= 99.95) return `${Math.round(value)}%`;
  if (Math.abs(value) >= 10) return `${value.toFixed(1)}%`;
  return Math.abs(value) >= 0.001 ? `${plain(value, 2)}%` : '<0.001%';
}

/** As many decimals as give the largest of a column 3 digits, so that columns align. */
export function fixed(value: number | null | undefined, largest: number): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  const decimals = largest > 0 ? Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(largest)))) : 2;
  return value.toFixed(decimals).replace('-', MINUS);
}

/** With its sign, for logit effects and differences. */
export function signed(value: number | null | undefined, decimals = 2): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  const text = Math.abs(value).toFixed(decimals);
  return Number(text) === 0 ? text : (value < 0 ? MINUS : '+') + text;
}

export function bytes(count: number | null | undefined): string {
  if (count === null || count === undefined) return '–';
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit ? plain(value, 3) : Math.round(value)}${THIN}${units[unit]}`;
}

/** Seconds as a duration of two units at most: 45 s, 3 min 20 s, 2 h 5 min. */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return '–';
  if (seconds < 1) return `${Math.round(seconds * 1000)}${THIN}ms`;
  if (seconds < 60) return `${plain(seconds, 2)}${THIN}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}${THIN}min ${Math.round(seconds % 60)}${THIN}s`;
  return `${Math.floor(minutes / 60)}${THIN}h ${minutes % 60}${THIN}min`;
}

const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
const STEPS: [number, Intl.RelativeTimeFormatUnit][] = [
  [60, 'second'],
  [60, 'minute'],
  [24, 'hour'],
  [30, 'day'],
  [12, 'month'],
  [Infinity, 'year'],
];

/** A moment as people say it: 3 minutes ago, yesterday. */
export function ago(time: string | null | undefined, now = Date.now()): string {
  if (!time) return '';
  let distance = (new Date(time).getTime() - now) / 1000;
  if (!Number.isFinite(distance)) return '';
  for (const [size, unit] of STEPS) {
    if (Math.abs(distance) < size) return relative.format(Math.round(distance), unit);
    distance /= size;
  }
  return '';
}

/** The full moment, for a title. */
export function moment(time: string | null | undefined): string {
  if (!time) return '';
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? '' : date.toLocaleString();
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${integer(count)} ${count === 1 ? one : many}`;
}
