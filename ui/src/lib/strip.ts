// Tokens as elements. One strip is a few hundred of them, drawn without a component each; what a token is worth is
// looked up from its strip when the pointer is over it.

import { classes, opacity } from './ramp';
import { isPartial, visible } from './tokens';

export interface Strip {
  tokens: readonly string[];
  /** Activation at each token; 0 where the feature is silent. */
  acts: ArrayLike<number>;
  /** Largest activation of the whole list, so that strips compare. */
  max: number;
  /** Place of the strongest token, where the strip is aligned; null for none. */
  peak: number | null;
  /** Position of the first token in its sequence. */
  start: number;
  /** Number of its sequence in the bundle. */
  sequence?: number | undefined;
  /** Which tokens are special. */
  special?: ((at: number) => boolean) | undefined;
  /** Of features that move activations between tokens: where the peak's came from, by place. */
  sources?: ReadonlyMap<number, number> | undefined;
}

/** Most of a source's color, so that text reads over it on both surfaces. */
const SOURCE = 0.55;

/** Tokens within this of the strongest one are a snippet. */
export const NEAR = 8;

const drawn = new WeakMap<Element, Strip>();

/** The strip and place of a token under an event's target. */
export function tokenAt(target: EventTarget | null): { strip: Strip; at: number; element: HTMLElement } | null {
  const element = target instanceof Element ? target.closest<HTMLElement>('[data-i]') : null;
  const root = element?.closest('.strip');
  const strip = root ? drawn.get(root) : undefined;
  return element && strip ? { strip, at: Number(element.dataset['i']), element } : null;
}

/** Draw a strip into its element: what stands before the strongest token, and the rest. */
export function drawStrip(root: HTMLElement, strip: Strip): void {
  drawn.set(root, strip);
  const left = part('left');
  const right = part('right');
  const split = strip.peak ?? 0;
  for (const [i, text] of strip.tokens.entries()) {
    const into = i < split ? left.inner : right.inner;
    into.append(token(strip, text, i));
    if (text.includes('\n')) into.append(document.createElement('br'));
  }
  root.replaceChildren(...(split > 0 || strip.peak !== null ? [left.outer, right.outer] : [right.outer]));
}

function part(side: 'left' | 'right'): { outer: HTMLElement; inner: HTMLElement } {
  const outer = document.createElement('span');
  const inner = document.createElement('span');
  outer.className = side;
  outer.append(inner);
  return { outer, inner };
}

function token(strip: Strip, text: string, i: number): HTMLElement {
  const span = document.createElement('span');
  const value = strip.acts[i] ?? 0;
  let name = 't';
  const color = value ? classes(value, strip.max) : '';
  if (color) name += ` ${color}`;
  if (i === strip.peak) name += ' peak';
  if (strip.peak !== null && Math.abs(i - strip.peak) > NEAR) name += ' far';
  if (isPartial(text)) name += ' bytes';
  if (strip.special?.(i)) name += ' special';
  const from = strip.sources?.get(i);
  if (from !== undefined) {
    name += ' src';
    span.style.setProperty('--sa', (SOURCE * opacity(from, Math.max(...[...(strip.sources?.values() ?? [])].map(Math.abs)))).toFixed(2));
  }
  span.className = name;
  span.dir = 'auto';
  span.dataset['i'] = String(i);
  span.textContent = visible(text);
  return span;
}

/** Sources of a context by their place; none where the feature reads one token at a time. */
export function sourcesOf(pos: readonly number[], val: readonly number[]): ReadonlyMap<number, number> | undefined {
  return pos.length ? new Map(pos.map((at, i) => [at, val[i] ?? 0])) : undefined;
}

/** Activations of a context, from where it fires and how much. */
export function dense(length: number, pos: readonly number[], val: readonly number[]): Float32Array {
  const acts = new Float32Array(length);
  for (const [i, at] of pos.entries()) if (at < length) acts[at] = val[i] ?? 0;
  return acts;
}
