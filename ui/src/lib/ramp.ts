// From an activation to one of LEVELS steps of color and underline: styles/levels.css draws them.

export const LEVELS = 24;

/** Opacity of a token: 0.05 + 0.95 log10(1 + 9 |a| / max). Zero has none. */
export function opacity(value: number, largest: number): number {
  if (value === 0 || !(largest > 0)) return 0;
  return 0.05 + 0.95 * Math.log10(1 + 9 * Math.min(Math.abs(value) / largest, 1));
}

/** Step of the ramp, 0 (nothing) to LEVELS. */
export function level(value: number, largest: number): number {
  const share = opacity(value, largest);
  return share === 0 ? 0 : Math.max(1, Math.round(share * LEVELS));
}

/** Classes of a token's value. */
export function classes(value: number, largest: number): string {
  const step = level(value, largest);
  return step === 0 ? '' : value < 0 ? `lv l${step} neg` : `lv l${step}`;
}
