import type { Strip } from '$/lib/strip';
import type { Spot } from './types';

/** The token under the pointer, as it is told to others. */
export function spotOf(found: { strip: Strip; at: number } | null): Spot | null {
  if (!found) return null;
  const { strip, at } = found;
  return { sequence: strip.sequence ?? null, position: strip.start + at, token: strip.tokens[at] ?? '', value: strip.acts[at] ?? 0 };
}
