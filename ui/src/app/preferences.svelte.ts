// What a person chose for this browser. Kept in its storage, applied to the root element.

export type Theme = 'auto' | 'light' | 'dark';
export type Ramp = 'emerald' | 'viridis' | 'signed';
export type Length = 'aligned' | 'snippet' | 'full';

export interface Preferences {
  theme: Theme;
  ramp: Ramp;
  /** Single-letter keys. */
  keys: boolean;
  /** How much of a context is shown. */
  length: Length;
  /** Line breaks as breaks, not only as glyphs. */
  breaks: boolean;
  tray: boolean;
}

const KEY = 'monoscope.preferences';
const DEFAULTS: Preferences = { theme: 'auto', ramp: 'emerald', keys: true, length: 'aligned', breaks: false, tray: true };

function load(): Preferences {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Preferences>;
    return { ...DEFAULTS, ...stored };
  } catch {
    return DEFAULTS;
  }
}

export const preferences: Preferences = $state(load());

export function applyPreferences(): void {
  const root = document.documentElement;
  if (preferences.theme === 'auto') delete root.dataset.theme;
  else root.dataset.theme = preferences.theme;
  if (preferences.ramp === 'emerald') delete root.dataset.ramp;
  else root.dataset.ramp = preferences.ramp;
  try {
    localStorage.setItem(KEY, JSON.stringify(preferences));
  } catch {
    // A browser without storage forgets; nothing else depends on it.
  }
}
